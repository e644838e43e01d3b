"""Samples to a table with a bar and a verdict in every row."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import psutil

from benchmarks.sandbox import Sandbox
from benchmarks.scenarios import STEPS, Results

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
TITLES = {
    "fp32": "1 GiB fp32",
    "bf16": "1 GiB bf16",
    "minilm": "all-MiniLM-L6-v2",
    "tensors": "100,000 tensors of 1 KB",
    "large": "4 GiB in 256 tensors",
    "single": "one tensor of 4 GiB",
    "starts": "no model",
}
STORED = {"fp32": 0.85, "bf16": 0.68, "minilm": 0.82}
WALLS = {"first": 0.4, "two": 0.25, "status": 0.2, "checkout": 0.6, "clone": 0.6}
MEMORY = 400e6


@dataclass(frozen=True)
class Row:
    """One line of the table: ours against a bar, and Git LFS beside it where it compares."""

    work: str
    model: str
    theirs: str
    ours: str
    value: float
    """What is held against the bar."""
    bar: float
    shown: str
    """The value and its bar, in words."""
    strict: bool = False
    """Whether the bar itself is too much."""

    @property
    def met(self) -> bool:
        """Whether the row holds."""
        return self.value < self.bar if self.strict else self.value <= self.bar

    def line(self) -> str:
        """The row in Markdown."""
        verdict = "met" if self.met else "**not met**"
        cells = (self.work, self.model, self.theirs, self.ours, self.shown, verdict)
        return f"| {' | '.join(cells)} |"


def _bytes(count: float) -> str:
    return f"{count / 1e6:,.2f} MB"


def _memory(results: Results, kind: str) -> Row:
    ours = results.highest(kind, "first", "theta", "peak")
    theirs = "-"
    if (kind, "first", "lfs") in results.samples:
        theirs = _bytes(results.highest(kind, "first", "lfs", "peak"))
    work = f"{STEPS['first']}: peak memory"
    shown = f"{ours / 1e6:.0f} MB <= 400 MB"
    return Row(work, TITLES[kind], theirs, _bytes(ours), ours, MEMORY, shown)


def _wall(results: Results, kind: str, step: str) -> Row:
    theirs = results.median(kind, step, "lfs", "wall")
    ours = results.median(kind, step, "theta", "wall")
    ratio, bar = ours / theirs, WALLS[step]
    seconds = f"{theirs:.2f} s", f"{ours:.2f} s"
    work = f"{STEPS[step]}: wall"
    return Row(work, TITLES[kind], *seconds, ratio, bar, f"{ratio:.3f} <= {bar}")


def _stored(results: Results, kind: str) -> Row:
    ours = results.median(kind, "first", "theta", "stored")
    theirs = results.median(kind, "first", "lfs", "stored")
    part, bar = ours / results.facts[kind, "bytes"], STORED[kind]
    shown = f"{part:.4f} of the file <= {bar}"
    work = f"{STEPS['first']}: bytes stored"
    return Row(work, TITLES[kind], _bytes(theirs), _bytes(ours), part, bar, shown)


def _stored_again(results: Results, kind: str) -> Row:
    """What two changed tensors cost, against their share of what the first version cost."""
    changed, whole = results.facts[kind, "changed"], results.facts[kind, "bytes"]
    share = results.median(kind, "first", "theta", "stored") * changed / whole
    ours = results.median(kind, "two", "theta", "stored")
    theirs = results.median(kind, "two", "lfs", "stored")
    shown = f"{ours / share:.3f} of their share <= 1.05"
    work = f"{STEPS['two']}: bytes stored"
    return Row(work, TITLES[kind], _bytes(theirs), _bytes(ours), ours / share, 1.05, shown)


def _written(results: Results, kind: str) -> Row:
    theirs = results.highest(kind, "status", "lfs", "stored")
    ours = results.highest(kind, "status", "theta", "stored")
    work = f"{STEPS['status']}: bytes written"
    shown = f"{ours:.0f} = 0"
    return Row(work, TITLES[kind], f"{theirs:.0f}", f"{ours:.0f}", ours, 0, shown)


def _below(results: Results, kind: str, step: str, bar: float) -> Row:
    theirs = results.median(kind, step, "lfs", "wall")
    ours = results.median(kind, step, "theta", "wall")
    seconds = f"{theirs:.3f} s", f"{ours:.3f} s"
    shown = f"{ours:.3f} s < {bar} s"
    return Row(STEPS[step], TITLES[kind], *seconds, ours, bar, shown, strict=True)


def _objects(results: Results, kind: str) -> Row:
    count = results.facts[kind, "objects"]
    work = f"{STEPS['first']}: objects"
    return Row(work, TITLES[kind], "1", str(count), count, 50, f"{count} < 50", strict=True)


def rows(results: Results) -> Iterator[Row]:
    """All rows of what was measured."""
    kinds = {kind for kind, _, _ in results.samples}
    models = [kind for kind in STORED if kind in kinds]
    for kind in models:
        yield _wall(results, kind, "first")
    for kind in (*models, *(k for k in ("large", "single") if k in kinds)):
        yield _memory(results, kind)
    for kind in models:
        yield _stored(results, kind)
    for kind in models:
        yield _wall(results, kind, "two")
        yield _stored_again(results, kind)
    for kind in models:
        yield _wall(results, kind, "status")
        yield _written(results, kind)
    for step in ("checkout", "clone"):
        for kind in models:
            yield _wall(results, kind, step)
    if "tensors" in kinds:
        yield _below(results, "tensors", "first", 20)
        yield _objects(results, "tensors")
    if "starts" in kinds:
        yield _below(results, "starts", "version", 0.15)
        yield _below(results, "starts", "handshake", 0.25)


def costs(results: Results) -> Iterator[str]:
    """Every step in Markdown: least and median wall, CPU and memory, for both tools."""
    yield "| step | model | tool | wall min / median | CPU median | largest process | n |"
    yield "|---|---|---|---:|---:|---:|---:|"
    for (kind, step, tool), samples in results.samples.items():
        name = {"lfs": "Git LFS", "theta": "git-theta"}[tool]
        least = min(sample.wall for sample in samples)
        wall = results.median(kind, step, tool, "wall")
        cpu = results.median(kind, step, tool, "cpu")
        peak = results.highest(kind, step, tool, "peak")
        title = STEPS[step] if tool == "theta" else STEPS[step].replace("theta --", "lfs ")
        figures = f"{least:.3f} / {wall:.3f} s | {cpu:.3f} s | {peak / 1e6:.0f} MB"
        yield f"| {title} | {TITLES[kind]} | {name} | {figures} | {len(samples)} |"


def _processor() -> str:
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def machine(box: Sandbox) -> str:
    """Where and with what it was measured."""

    def version(*argv: str) -> str:
        text = subprocess.run(argv, env=box.env, check=True, capture_output=True, text=True).stdout
        return text.strip().removeprefix("git version ").split(" (")[0]

    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{_processor()}, {psutil.cpu_count()} cores, {memory:.0f} GiB of memory, "
        f"{platform.system()} {platform.release()}; Python {platform.python_version()}, "
        f"git {version('git', '--version')}, {version('git', 'lfs', 'version')}, "
        f"{version('git', 'theta', '--version')}"
    )


def markdown(box: Sandbox, results: Results, command: str) -> str:
    """The measured part of the page."""
    today = datetime.now(timezone.utc).date().isoformat()
    lines = [
        f"Measured on {today} by `{command}` on: {machine(box)}.",
        "",
        "| work | model | Git LFS | git-theta | against the bar | |",
        "|---|---|---:|---:|---|---|",
        *(row.line() for row in rows(results)),
        "",
        "Every step, the CPU seconds and memory of git and its filter included:",
        "",
        *costs(results),
    ]
    return "\n".join(lines) + "\n"


def replaced(page: str, part: str) -> str:
    """The page with its measured part exchanged."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{part}{END}{after}"
