"""What is measured: each scenario does the same work with both tools, in turn."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.minilm import minilm
from benchmarks.sandbox import TOOLS, RunError, Sandbox, in_child, same, size, stamps

NAME = "model.safetensors"
STEPS = {
    "first": "git add, first version",
    "two": "git add, 2 tensors changed",
    "full": "git add, full fine-tune",
    "lora": "git add, LoRA merged",
    "status": "git status after touch",
    "checkout": "git checkout of another version",
    "chain": "git checkout, 8 updates deep",
    "dense": "git checkout, stored dense",
    "clone": "git clone from file://",
    "version": "git theta --version",
    "handshake": "filter handshake",
}
STARTS = 11  # how often a start is timed: it is short, and one sample says little


@dataclass(frozen=True)
class Sample:
    """One measurement; bytes where the step stores or writes any."""

    wall: float
    cpu: float = 0.0
    peak: int = 0
    stored: int = 0


@dataclass
class Subject:
    """A model in two versions."""

    name: str
    first: Path
    second: Path
    changed: int
    """Bytes of the tensors that differ."""


class Results:
    """All samples by model, step and tool, and facts about the models."""

    def __init__(self) -> None:
        self.samples: dict[tuple[str, str, str], list[Sample]] = defaultdict(list)
        self.facts: dict[tuple[str, str], int] = {}

    def add(self, model: str, step: str, tool: str, sample: Sample) -> None:
        """Keep a sample, and say so to whoever waits."""
        self.samples[model, step, tool].append(sample)
        print(
            f"  {model:8} {step:10} {tool:5} {sample.wall:8.3f} s  cpu {sample.cpu:7.3f} s  "
            f"peak {sample.peak / 1e6:7.1f} MB  stored {sample.stored / 1e6:9.3f} MB",
            file=sys.stderr,
            flush=True,
        )

    def median(self, model: str, step: str, tool: str, what: str) -> float:
        """The median of one figure over all rounds."""
        return statistics.median(float(getattr(s, what)) for s in self.samples[model, step, tool])

    def highest(self, model: str, step: str, tool: str, what: str) -> float:
        """The worst of one figure over all rounds."""
        return float(max(getattr(s, what) for s in self.samples[model, step, tool]))


def _subject(box: Sandbox, kind: str, scale: float) -> Subject:
    first, second = box.root / f"{kind}-1.safetensors", box.root / f"{kind}-2.safetensors"
    if kind == "minilm":
        first = minilm()
    else:
        in_child("benchmarks.models", "make", kind, str(first), "--scale", str(scale))
    changed = json.loads(in_child("benchmarks.models", "change", str(first), str(second)))
    return Subject(kind, first, second, sum(changed.values()))


def place(model: Path, repo: Path, age: int) -> None:
    """Put a model into a work tree, older than the index: git trusts what it then sees."""
    target = repo / NAME
    target.unlink(missing_ok=True)
    shutil.copyfile(model, target)
    _touch(target, age)


def _touch(path: Path, age: int) -> None:
    stamp = time.time() - age
    os.utime(path, (stamp, stamp))


def expect(tool: str, found: Path, model: Path) -> None:
    """See that a file is the one that was added.

    Raises:
        RunError: it is not.
    """
    if not same(found, model):
        raise RunError(f"{tool}: {found} is not the file that was added")


class Round:
    """One tool's way through all the steps with one model."""

    def __init__(self, box: Sandbox, results: Results, subject: Subject, tool: str) -> None:
        self.box, self.results, self.subject, self.tool = box, results, subject, tool
        self.repo = box.repository(f"{tool}-repo", tool)
        self.git_dir = self.repo / ".git"

    def _time(self, step: str, *argv: str, cwd: Path | None = None, stored: int = 0) -> None:
        cost = self.box.timed(*argv, cwd=cwd or self.repo)
        sample = Sample(cost.wall, cost.cpu, cost.peak, stored)
        self.results.add(self.subject.name, step, self.tool, sample)

    def add(self, step: str, model: Path) -> None:
        """Time the add of a version, and count all that it leaves under .git."""
        place(model, self.repo, age=3600 if step == "first" else 1800)
        before = size(self.git_dir)
        cost = self.box.timed("git", "add", NAME, cwd=self.repo)
        stored = size(self.git_dir) - before
        sample = Sample(cost.wall, cost.cpu, cost.peak, stored)
        self.results.add(self.subject.name, step, self.tool, sample)
        self.box.run("git", "commit", "-q", "-m", step, cwd=self.repo)

    def status(self) -> None:
        """Time a status that has to ask the filter, and count the bytes in files it wrote."""
        store = self.git_dir / self.tool
        _touch(self.repo / NAME, age=60)
        before = stamps(store)
        cost = self.box.timed("git", "status", "--porcelain", cwd=self.repo)
        if cost.output:
            raise RunError(f"{self.tool}: a touched file shows as changed:\n{cost.output}")
        after = stamps(store)
        written = sum(found[0] for file, found in after.items() if before.get(file) != found)
        sample = Sample(cost.wall, cost.cpu, cost.peak, written)
        self.results.add(self.subject.name, "status", self.tool, sample)

    def checkout(self) -> None:
        """Time the way to the first version and back."""
        for revision, model in (("HEAD~1", self.subject.first), ("main", self.subject.second)):
            self._time("checkout", "git", "checkout", "-q", revision)
            expect(self.tool, self.repo / NAME, model)
            settle(self.box, self.repo)

    def clone(self) -> None:
        """Time a clone from a bare remote."""
        remote, clone = self.box.root / "remote.git", self.box.root / "clone"
        self.box.run("git", "init", "-q", "--bare", str(remote), cwd=self.box.root)
        self.box.run("git", "push", "-q", remote.as_uri(), "main", cwd=self.repo)
        argv = ("git", "clone", "-q", remote.as_uri(), str(clone))
        self._time("clone", *argv, cwd=self.box.root)
        expect(self.tool, clone / NAME, self.subject.second)
        shutil.rmtree(remote)
        shutil.rmtree(clone)


def settle(box: Sandbox, repo: Path) -> None:
    """Let git see that a file it has just written is not about to change.

    A file as young as the index is cleaned again at every look; that is not the work timed next.
    """
    time.sleep(1.1)
    box.run("git", "status", "--porcelain", cwd=repo)


def turns(rounds: int) -> Iterator[str]:
    """Both tools in each round, the other one first in the next."""
    for number in range(rounds):
        yield from TOOLS if number % 2 == 0 else TOOLS[::-1]


def whole_models(box: Sandbox, results: Results, kind: str, rounds: int, scale: float) -> None:
    """Every everyday step, with one model."""
    subject = _subject(box, kind, scale)
    results.facts[kind, "bytes"] = subject.first.stat().st_size
    results.facts[kind, "changed"] = subject.changed
    for tool in turns(rounds):
        turn = Round(box, results, subject, tool)
        turn.add("first", subject.first)
        turn.add("two", subject.second)
        turn.status()
        turn.checkout()
        turn.clone()
        shutil.rmtree(turn.repo)
    for file in (subject.first, subject.second):
        if file.is_relative_to(box.root):
            file.unlink()


def one_add(box: Sandbox, results: Results, kind: str, rounds: int, scale: float) -> None:
    """One add of a file of an extreme shape; how many objects ours became."""
    model = box.root / f"{kind}.safetensors"
    in_child("benchmarks.models", "make", kind, str(model), "--scale", str(scale))
    results.facts[kind, "bytes"] = model.stat().st_size
    subject = Subject(kind, model, model, 0)
    for tool in turns(rounds):
        turn = Round(box, results, subject, tool)
        turn.add("first", model)
        if tool == "theta":
            objects = (turn.git_dir / "theta" / "lfs.git" / "lfs" / "objects").glob("??/??/*")
            results.facts[kind, "objects"] = sum(1 for _ in objects)
        shutil.rmtree(turn.repo)
    model.unlink()


def large_files(box: Sandbox, results: Results, kind: str, rounds: int, scale: float) -> None:
    """One add of 4 GiB, for its memory; Git LFS has nothing to compare there."""
    del rounds
    model = box.root / f"{kind}.safetensors"
    in_child("benchmarks.models", "make", kind, str(model), "--scale", str(scale))
    results.facts[kind, "bytes"] = model.stat().st_size
    turn = Round(box, results, Subject(kind, model, model, 0), "theta")
    turn.add("first", model)
    shutil.rmtree(turn.repo)
    model.unlink()


def _packet(text: str) -> bytes:
    return b"%04x%s\n" % (len(text) + 5, text.encode())


def _handshake(box: Sandbox, repo: Path, tool: str) -> float:
    """Seconds from starting a filter to its word that it can clean and smudge."""
    command = box.run("git", "config", f"filter.{tool}.process", cwd=repo).output.strip()
    start = time.perf_counter()
    with subprocess.Popen(
        ["sh", "-c", command],
        cwd=repo,
        env=box.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(_packet("git-filter-client") + _packet("version=2") + b"0000")
        for ability in ("clean", "smudge", "delay"):
            process.stdin.write(_packet(f"capability={ability}"))
        process.stdin.write(b"0000")
        process.stdin.flush()
        flushes = 0
        while flushes < 2:
            head = process.stdout.read(4)
            if len(head) < 4:
                raise RunError(f"{command}: the filter ended during its handshake")
            length = int(head, 16)
            flushes += length == 0
            process.stdout.read(max(0, length - 4))
        return time.perf_counter() - start


def starts(box: Sandbox, results: Results, kind: str, rounds: int, scale: float) -> None:
    """What it costs to begin at all."""
    del scale
    repos = {tool: box.repository(f"{tool}-{kind}", tool) for tool in TOOLS}
    words = {"lfs": ("git", "lfs", "version"), "theta": ("git", "theta", "--version")}
    for tool in turns(max(rounds, STARTS)):
        cost = box.run(*words[tool], cwd=repos[tool])
        results.add(kind, "version", tool, Sample(cost.wall, cost.cpu, cost.peak))
        wall = _handshake(box, repos[tool], tool)
        results.add(kind, "handshake", tool, Sample(wall))
