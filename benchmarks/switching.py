"""From one version of a gibibyte to another: `git theta switch`, and what a status costs then."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.everyday import HEAD, TITLES
from benchmarks.reflinks import Place, here, mounted
from benchmarks.report import Row, Section, table
from benchmarks.sandbox import RunError, Sandbox, in_child
from benchmarks.scenarios import NAME, Results, Sample, expect, place, settle, turns

KINDS = ("fp32", "bf16")
CHANGED = 3  # matrices: a little more than 1 %
WALLS = {True: 0.1, False: 0.3}  # by whether there are reflinks
WHOLE = 0.5
MEMORY, GIT_MEMORY = 400e6, 50e6
STATUS = 0.05
IMAGE = 16 << 30  # as much of it as is written

STEPS = {
    "switch": "1 % changed: {} switch --detach",
    "whole": "no file before: {} checkout",
    "status switch": "the git status after the switch",
    "status whole": "the git status after the checkout",
}
VERBS = {"lfs": "git", "theta": "git theta"}
# Were it asked for anything, Git would fail: the status that is timed cleans no file.
NO_FILTER = tuple(
    word
    for key in ("process", "clean")
    for word in ("-c", f"filter.theta.{key}=false", "-c", "filter.theta.required=true")
)


class _Turn:
    """One tool's way, in one place with one model."""

    def __init__(self, box: Sandbox, results: Results, subject: str, repo: Path, tool: str) -> None:
        self.box, self.results, self.subject = box, results, subject
        self.repo, self.tool = repo, tool

    def fill(self, first: Path, second: Path) -> None:
        """Commit both versions, over a branch that has neither."""
        self.box.run("git", "branch", "-q", "empty", cwd=self.repo)
        for age, model in ((3600, first), (1800, second)):
            place(model, self.repo, age)
            self.box.run("git", "add", NAME, cwd=self.repo)
            self.box.run("git", "commit", "-q", "-m", model.name, cwd=self.repo)
        settle(self.box, self.repo)

    def time(self, step: str, *words: str) -> None:
        """Time a command of the tool's, and the status after it."""
        argv = (*VERBS[self.tool].split(), *words)
        cost = self.box.timed(*argv, cwd=self.repo)
        self.results.add(self.subject, step, self.tool, Sample(cost.wall, cost.cpu, cost.peak))
        spared = NO_FILTER if self.tool == "theta" else ()
        cost = self.box.run("git", *spared, "status", "--porcelain", cwd=self.repo)
        if cost.output:
            raise RunError(f"{self.tool}: {self.repo / NAME} shows as changed:\n{cost.output}")
        found = Sample(cost.wall, cost.cpu, cost.peak)
        self.results.add(self.subject, f"status {step}", self.tool, found)

    def all(self, first: Path, second: Path) -> None:
        """Forth and back, then from nothing."""
        self.time("switch", "switch", "-q", "--detach", "HEAD~1")
        expect(self.tool, self.repo / NAME, first)
        settle(self.box, self.repo)
        self.time("switch", "switch", "-q", "--detach", "main")
        expect(self.tool, self.repo / NAME, second)
        self.box.run("git", "checkout", "-q", "empty", cwd=self.repo)
        self.time("whole", "checkout", "-q", "main")
        expect(self.tool, self.repo / NAME, second)
        self.box.run("git", "checkout", "-q", "empty", cwd=self.repo)
        words = (*VERBS[self.tool].split(), "checkout", "-q", "main")
        self.results.facts[self.subject, f"git, {self.tool}"] = self._git_memory(words)

    def _git_memory(self, words: tuple[str, ...]) -> int:
        """The most memory that Git itself had, as the kernel kept it for each process.

        Not timed: all processes are looked at every few milliseconds.
        """
        most = 0
        with subprocess.Popen(words, cwd=self.repo, env=self.box.env) as process:
            while process.poll() is None:
                for one in (psutil.Process(process.pid), *_below(process.pid)):
                    most = max(most, _highest(one.pid))
                time.sleep(0.005)
        if process.returncode:
            raise RunError(f"{' '.join(words)} exited with {process.returncode}")
        return most


def _below(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return []


def _highest(pid: int) -> int:
    """What the kernel has as the most memory of a process called git, else 0."""
    try:
        fields = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    facts = dict(line.split(":", 1) for line in fields.splitlines())
    return (
        int(facts["VmHWM"].split()[0]) * 1024
        if facts["Name"].strip() == "git" and "VmHWM" in facts
        else 0
    )


def _measure(
    box: Sandbox, results: Results, where: Place, rounds: int, models: dict[str, tuple[Path, Path]]
) -> None:
    for kind, (first, second) in models.items():
        for tool in turns(rounds):
            repo = box.repository(f"{where.folder}/{tool}-repo", tool)
            turn = _Turn(box, results, _subject(kind, where), repo, tool)
            turn.fill(first, second)
            turn.all(first, second)
            shutil.rmtree(repo)


def _subject(kind: str, where: Place) -> str:
    return f"{TITLES[kind]}, {where.name}"


def _models(box: Sandbox, scale: float) -> dict[str, tuple[Path, Path]]:
    made = {}
    for kind in KINDS:
        first, second = (box.root / f"{kind}-{number}.safetensors" for number in (1, 2))
        in_child("benchmarks.models", "make", kind, str(first), "--scale", str(scale))
        in_child("benchmarks.models", "change", str(first), str(second), "--count", str(CHANGED))
        made[kind] = first, second
    return made


def _wall(results: Results, subject: str, step: str, bar: float) -> Row:
    theirs = results.median(subject, step, "lfs", "wall")
    ours = results.median(subject, step, "theta", "wall")
    seconds = f"{theirs:.2f} s", f"{ours:.2f} s"
    work = f"{STEPS[step].format(VERBS['theta'])}: wall"
    return Row(work, subject, *seconds, ours / theirs, bar, f"{ours / theirs:.3f} <= {bar}")


def _status(results: Results, subject: str, step: str) -> Row:
    theirs = results.median(subject, f"status {step}", "lfs", "wall")
    ours = results.median(subject, f"status {step}", "theta", "wall")
    seconds = f"{theirs:.3f} s", f"{ours:.3f} s"
    shown = f"{ours:.3f} s < {STATUS} s, and no file is cleaned"
    return Row(STEPS[f"status {step}"], subject, *seconds, ours, STATUS, shown, strict=True)


def rows(results: Results, subject: str, *, reflinks: bool) -> Iterator[Row]:
    """All rows of one model in one place."""
    yield _wall(results, subject, "switch", WALLS[reflinks])
    theirs, ours = (results.highest(subject, "switch", tool, "peak") for tool in ("lfs", "theta"))
    work = f"{STEPS['switch'].format(VERBS['theta'])}: peak memory"
    figures = f"{theirs / 1e6:.0f} MB", f"{ours / 1e6:.0f} MB"
    shown = f"{ours / 1e6:.0f} MB <= {MEMORY / 1e6:.0f} MB"
    yield Row(work, subject, *figures, ours, MEMORY, shown)
    yield _wall(results, subject, "whole", WHOLE)
    theirs, ours = (results.facts[subject, f"git, {tool}"] for tool in ("lfs", "theta"))
    work = f"{STEPS['whole'].format(VERBS['theta'])}: peak memory of Git itself"
    figures = f"{theirs / 1e6:.0f} MB", f"{ours / 1e6:.0f} MB"
    shown = f"{ours / 1e6:.0f} MB < {GIT_MEMORY / 1e6:.0f} MB"
    yield Row(work, subject, *figures, ours, GIT_MEMORY, shown, strict=True)
    for step in ("switch", "whole"):
        yield _status(results, subject, step)


def _costs(results: Results) -> Iterator[str]:
    for (subject, step, tool), samples in results.samples.items():
        wall, cpu = (results.median(subject, step, tool, what) for what in ("wall", "cpu"))
        peak = results.highest(subject, step, tool, "peak") / 1e6
        least = min(sample.wall for sample in samples)
        name = STEPS[step].format(VERBS[tool])
        yield (
            f"| {name} | {subject} | {'Git LFS' if tool == 'lfs' else 'git-theta'} "
            f"| {least:.3f} / {wall:.3f} s | {cpu:.3f} s | {peak:.0f} MB | {len(samples)} |"
        )


def measure(box: Sandbox, rounds: int, scale: float) -> Section:
    """Measure here, and on an image with reflinks where one can be mounted."""
    results, models = Results(), _models(box, scale)
    found: list[Row] = []
    note = ""
    first = here(box)
    _measure(box, results, first, rounds, models)
    for kind in KINDS:
        found += rows(results, _subject(kind, first), reflinks=first.reflinks)
    if not first.reflinks:
        try:
            with mounted(box, IMAGE) as second:
                _measure(box, results, second, rounds, models)
        except RunError as error:
            note = f"\nWith reflinks it could not be measured here: {str(error).splitlines()[0]}.\n"
        else:
            for kind in KINDS:
                found += rows(results, _subject(kind, second), reflinks=True)
    for files in models.values():
        for file in files:
            file.unlink()
    title = (
        "step | model and place | tool | wall min / median: | CPU median: | largest process: | n:"
    )
    text = f"{table(HEAD, (row.line() for row in found))}{note}\n{table(title, _costs(results))}"
    return Section(text, found)
