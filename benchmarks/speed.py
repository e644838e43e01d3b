"""How long updates of a gibibyte take: an add beside Git LFS, a chain beside a dense checkout."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator

from benchmarks.everyday import COSTS, HEAD, TITLES, costs
from benchmarks.report import Row, Section, in_megabytes, table
from benchmarks.sandbox import Sandbox, in_child
from benchmarks.scenarios import (
    NAME,
    STEPS,
    Results,
    Round,
    Sample,
    Subject,
    expect,
    place,
    settle,
    turns,
)

WALLS = {"full": 0.6, "lora": 0.8}
MEMORY = 600e6
LINKS = 8
CHAIN = 2.0
KINDS = ("fp32", "bf16")


def _adds(box: Sandbox, results: Results, kind: str, rounds: int, scale: float) -> None:
    """Add fine-tunes of a model over it."""
    first = box.root / "first.safetensors"
    in_child("benchmarks.models", "make", kind, str(first), "--scale", str(scale))
    second = box.root / "second.safetensors"
    for step in WALLS:
        in_child("benchmarks.models", "tune", str(first), str(second), step)
        subject = Subject(kind, first, second, 0)
        results.facts[kind, step] = second.stat().st_size
        for tool in turns(rounds):
            turn = Round(box, results, subject, tool)
            turn.add("first", first)
            turn.add(step, second)
            shutil.rmtree(turn.repo)
        second.unlink()
    first.unlink()


def _chain(box: Sandbox, results: Results, kind: str, rounds: int, scale: float) -> None:
    """Check out the same file at the end of a chain and stored dense, in turn."""
    model, following = box.root / "model.safetensors", box.root / "following.safetensors"
    in_child("benchmarks.models", "make", kind, str(model), "--scale", str(scale))
    repos = {way: box.repository(way, "theta") for way in ("chain", "dense")}
    for repo in repos.values():
        box.run("git", "branch", "-q", "empty", cwd=repo)
    for link in range(LINKS + 1):
        if link:
            way = "sparse" if link % 2 else "lora"
            argv = (str(model), str(following), way, "--seed", str(link))
            in_child("benchmarks.models", "tune", *argv)
            following.replace(model)
        for way in ("chain", "dense") if link == LINKS else ("chain",):
            place(model, repos[way], 3600 - 60 * link)
            box.run("git", "add", NAME, cwd=repos[way])
            box.run("git", "commit", "-q", "-m", f"Link {link}", cwd=repos[way])
    for _ in range(rounds):
        for way, repo in repos.items():
            box.run("git", "checkout", "-q", "empty", cwd=repo)
            cost = box.timed("git", "checkout", "-q", "main", cwd=repo)
            results.add(kind, way, "theta", Sample(cost.wall, cost.cpu, cost.peak))
            expect("theta", repo / NAME, model)
            settle(box, repo)
    for repo in repos.values():
        shutil.rmtree(repo)
    model.unlink()


def _wall(results: Results, kind: str, step: str) -> Row:
    theirs = results.median(kind, step, "lfs", "wall")
    ours = results.median(kind, step, "theta", "wall")
    shown = f"{ours / theirs:.3f} <= {WALLS[step]}"
    seconds = f"{theirs:.2f} s", f"{ours:.2f} s"
    return Row(f"{STEPS[step]}: wall", TITLES[kind], *seconds, ours / theirs, WALLS[step], shown)


def _peak(results: Results, kind: str, step: str) -> Row:
    theirs, ours = (results.highest(kind, step, tool, "peak") for tool in ("lfs", "theta"))
    shown = f"{ours / 1e6:.0f} MB <= {MEMORY / 1e6:.0f} MB"
    figures = in_megabytes(theirs), in_megabytes(ours)
    return Row(f"{STEPS[step]}: peak memory", TITLES[kind], *figures, ours, MEMORY, shown)


def _chained(results: Results, kind: str) -> Row:
    dense = results.median(kind, "dense", "theta", "wall")
    ours = results.median(kind, "chain", "theta", "wall")
    shown = f"{ours / dense:.3f} of the dense one <= {CHAIN}"
    seconds = "-", f"{ours:.2f} s ({dense:.2f} s dense)"
    return Row(f"{STEPS['chain']}: wall", TITLES[kind], *seconds, ours / dense, CHAIN, shown)


def rows(results: Results) -> Iterator[Row]:
    """All rows of what was measured."""
    for step in WALLS:
        for kind in KINDS:
            yield _wall(results, kind, step)
            yield _peak(results, kind, step)
    for kind in KINDS:
        yield _chained(results, kind)


def sizes(results: Results) -> Iterator[str]:
    """What the second versions took, in Markdown."""
    for step in WALLS:
        for kind in KINDS:
            stored = results.median(kind, step, "theta", "stored")
            share = stored / results.facts[kind, step]
            cells = (STEPS[step], TITLES[kind], in_megabytes(stored), f"{share:.3f}")
            yield f"| {' | '.join(cells)} |"


def measure(box: Sandbox, rounds: int, scale: float) -> Section:
    """Time adds of fine-tunes, and checkouts of a chain."""
    results = Results()
    for kind in KINDS:
        print(f"{kind}:", file=sys.stderr)
        _adds(box, results, kind, rounds, scale)
        _chain(box, results, kind, rounds, scale)
    found = list(rows(results))
    text = (
        f"{table(HEAD, (row.line() for row in found))}\n"
        f"{table('second version | model | stored: | of the file:', sizes(results))}\n"
        f"{table(COSTS, costs(results))}"
    )
    return Section(text, found)
