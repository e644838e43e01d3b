"""The everyday steps with whole models, against Git LFS."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

from benchmarks.report import Row, Section, in_megabytes, table
from benchmarks.sandbox import Sandbox
from benchmarks.scenarios import STEPS, Results, large_files, one_add, starts, whole_models

Scenario = Callable[[Sandbox, Results, str, int, float], None]
SCENARIOS: dict[str, Scenario] = {
    "starts": starts,
    "minilm": whole_models,
    "fp32": whole_models,
    "bf16": whole_models,
    "tensors": one_add,
    "large": large_files,
    "single": large_files,
}
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


def _memory(results: Results, kind: str) -> Row:
    ours = results.highest(kind, "first", "theta", "peak")
    theirs = "-"
    if (kind, "first", "lfs") in results.samples:
        theirs = in_megabytes(results.highest(kind, "first", "lfs", "peak"))
    work = f"{STEPS['first']}: peak memory"
    shown = f"{ours / 1e6:.0f} MB <= 400 MB"
    return Row(work, TITLES[kind], theirs, in_megabytes(ours), ours, MEMORY, shown)


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
    return Row(work, TITLES[kind], in_megabytes(theirs), in_megabytes(ours), part, bar, shown)


def _stored_again(results: Results, kind: str) -> Row:
    """What two changed tensors cost, against their share of what the first version cost."""
    changed, whole = results.facts[kind, "changed"], results.facts[kind, "bytes"]
    share = results.median(kind, "first", "theta", "stored") * changed / whole
    ours = results.median(kind, "two", "theta", "stored")
    theirs = results.median(kind, "two", "lfs", "stored")
    shown = f"{ours / share:.3f} of their share <= 1.05"
    work = f"{STEPS['two']}: bytes stored"
    return Row(
        work, TITLES[kind], in_megabytes(theirs), in_megabytes(ours), ours / share, 1.05, shown
    )


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
    for (kind, step, tool), samples in results.samples.items():
        name = {"lfs": "Git LFS", "theta": "git-theta"}[tool]
        least = min(sample.wall for sample in samples)
        wall = results.median(kind, step, tool, "wall")
        cpu = results.median(kind, step, tool, "cpu")
        peak = results.highest(kind, step, tool, "peak")
        title = STEPS[step] if tool == "theta" else STEPS[step].replace("theta --", "lfs ")
        figures = f"{least:.3f} / {wall:.3f} s | {cpu:.3f} s | {peak / 1e6:.0f} MB"
        yield f"| {title} | {TITLES[kind]} | {name} | {figures} | {len(samples)} |"


HEAD = "work | model | Git LFS: | git-theta: | against the bar | "
COSTS = "step | model | tool | wall min / median: | CPU median: | largest process: | n:"


def section(results: Results) -> Section:
    """All rows, and what every step took."""
    found = list(rows(results))
    text = (
        f"{table(HEAD, (row.line() for row in found))}\n"
        "Every step, the CPU seconds and memory of git and its filter included:\n\n"
        f"{table(COSTS, costs(results))}"
    )
    return Section(text, found)


def measure(
    box: Sandbox, rounds: int, scale: float, kinds: Sequence[str] = tuple(SCENARIOS)
) -> Section:
    """Run the scenarios."""
    results = Results()
    for kind in kinds:
        print(f"{kind}:", file=sys.stderr)
        SCENARIOS[kind](box, results, kind, rounds, scale)
    return section(results)
