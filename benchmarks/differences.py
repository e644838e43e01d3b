"""Differences: how long `git diff` and its relatives take, and how near the estimates are."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.everyday import TITLES
from benchmarks.report import Row, Section, table
from benchmarks.sandbox import Cost, Sandbox, in_child
from benchmarks.scenarios import NAME, Results, Sample, place, settle

DIFF, GIT_MEMORY, MANY, HISTORY = 0.5, 100e6, 5.0, 2.0
READING = 1.5
NEAR, SHARE = 0.2, 0.95
TUNES = ("full-2e-5", "full-2e-4")
COMMITS = TENSORS = 1000
HEAD = "work | model | Git LFS: | git-theta: | against the bar | "


def main() -> int:
    """`read REV...`: decode versions from the store. `history FILE`: commits for fast-import."""
    if sys.argv[1] == "read":
        _read(sys.argv[2:])
    else:
        _write_history(Path(sys.argv[2]))
    return 0


def _read(revisions: list[str]) -> None:
    """All bytes of some versions, proven, and thrown away: what any exact answer has to read."""
    from git_theta.commands.session import Session
    from git_theta.core.checkpoint import rebuild
    from git_theta.repo.tracked import find_blob, parse_at

    session = Session()
    for rev in revisions:
        manifest = parse_at(NAME, find_blob(session.repo, rev, NAME)[1])
        threads = session.settings.threads
        for _ in rebuild(manifest, session.store.read, session.plugins, threads=threads):
            pass
    session.close()


def _write_history(target: Path) -> None:
    """Manifests of a model of which every commit changes ten tensors; the objects are not there."""
    import hashlib
    import random

    from git_theta.core.manifest import Chunk, Manifest, Place, Segment, Tensor, dump

    def name(*parts: object) -> str:
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    chosen, tensors, out = random.Random(1), {}, target.open("wb")  # noqa: S311
    for commit in range(COMMITS):
        everything = range(TENSORS)
        for number in everything if not commit else chosen.sample(everything, 10):
            digest, size = name("tensor", number, commit), 768 * 768 * 4
            at = Place(name("object", commit), 16 + 2000 * number, 1999)
            summary = Place(name("summaries", commit), 16 + 400 * number, 374)
            chunk = Chunk(digest, size, "dense", at, None, summary)
            key = f"model.layers.{number // 10}.part{number % 10}.weight"
            tensors[key] = Tensor("F32", (768, 768), Segment(digest, size, (chunk,)))
        base = Place(name("object", 0), 1 << 22, 50)
        kept = Segment(name("skeleton"), 100, (Chunk(name("skeleton"), 100, "dense", base),))
        places = [p for t in tensors.values() for c in t.segment.chunks for p in (c.at, c.summary)]
        text = dump(
            Manifest(
                format="safetensors",
                size=TENSORS * 768 * 768 * 4,
                digest=name("file", commit),
                skeleton=kept,
                tensors=tensors,
                objects={place.oid: 1 << 23 for place in [base, *places] if place is not None},
            )
        )
        head = f"commit refs/heads/main\ncommitter A <a@example.org> {commit * 60 + 10**9} +0000\n"
        out.write(f"{head}data 1\nxM 100644 inline {NAME}\ndata {len(text)}\n".encode())
        out.write(text + b"\n")
    out.close()


# --- what is measured ----------------------------------------------------------------------------


def _sample(cost: Cost) -> Sample:
    return Sample(cost.wall, cost.cpu, cost.peak)


def _pair(box: Sandbox, name: str, tool: str, files: tuple[Path, Path]) -> Path:
    """A repository with two versions of a model."""
    repo = box.repository(name, tool)
    for age, file in zip((7200, 3600), files, strict=True):
        place(file, repo, age)
        box.run("git", "add", NAME, cwd=repo)
        box.run("git", "commit", "-q", "-m", "model", cwd=repo)
    settle(box, repo)
    return repo


def _large(box: Sandbox, results: Results, rounds: int, scale: float) -> None:
    """Two versions of a gibibyte in 299 tensors, every one of which moved."""
    files = (box.root / "a.safetensors", box.root / "b.safetensors")
    in_child("benchmarks.models", "make", "bf16", str(files[0]), "--scale", str(scale))
    in_child("benchmarks.models", "tune", str(files[0]), str(files[1]), "full", "--seed", "1")
    theirs = _pair(box, "large-lfs", "lfs", files)
    ours = _pair(box, "large-theta", "theta", files)
    for _ in range(rounds):
        results.add("bf16", "diff", "lfs", _sample(box.timed(*_DIFF, cwd=theirs)))
        results.add("bf16", "diff", "theta", _sample(box.timed(*_DIFF, cwd=ours)))
        read = (sys.executable, "-m", "benchmarks.differences", "read", "HEAD~1", "HEAD")
        results.add("bf16", "read", "theta", _sample(_here(box, *read, cwd=ours)))
        exact = ("git", "theta", "diff", "--exact", "HEAD~1", "HEAD")
        results.add("bf16", "exact", "theta", _sample(box.timed(*exact, cwd=ours)))
    for file in files:
        file.unlink()


_DIFF = ("git", "diff", "HEAD~1", "HEAD")


def _here(box: Sandbox, *argv: str, cwd: Path) -> Cost:
    """Run one of these modules, which are found from the project's own folder."""
    root = str(Path(__file__).parents[1])
    return box.timed("env", f"PYTHONPATH={root}", *argv, cwd=cwd)


def _many(box: Sandbox, results: Results, rounds: int, scale: float) -> None:
    """100,000 tensors, two of which changed, and all of which did."""
    files = (box.root / "c.safetensors", box.root / "d.safetensors")
    in_child("benchmarks.models", "make", "tensors", str(files[0]), "--scale", str(scale))
    for step, count in (("two", 2), ("all", 200_000)):
        argv = (str(files[0]), str(files[1]), "--count", str(count))
        in_child("benchmarks.models", "change", *argv)
        repo = _pair(box, f"many-{step}", "theta", files)
        for _ in range(rounds):
            results.add("tensors", step, "theta", _sample(box.timed(*_DIFF, cwd=repo)))
    for file in files:
        file.unlink()


def _history(box: Sandbox, results: Results, rounds: int) -> None:
    repo = box.repository("history", "theta")
    source = box.root / "stream"
    in_child("benchmarks.differences", "history", str(source))
    box.run("git", "checkout", "-q", "--orphan", "empty", cwd=repo)
    box.run("sh", "-c", f"git fast-import --quiet --force < {source}", cwd=repo)
    box.run("git", "gc", "-q", cwd=repo)
    source.unlink()
    for _ in range(rounds):
        for verb in ("log", "blame"):
            place_of = ("main", NAME) if verb == "log" else (f"main:{NAME}",)
            results.add(
                "history",
                verb,
                "theta",
                _sample(box.timed("git", "theta", verb, *place_of, cwd=repo)),
            )


def _estimates(box: Sandbox) -> Iterator[tuple[str, float, int]]:
    """Fine-tunes with real gradients: the share of tensors whose estimate is near, and how many."""
    folder = Path(in_child("benchmarks.training").strip())
    for tune in TUNES:
        for dtype in ("fp32", "bf16"):
            files = (folder / f"base.{dtype}.safetensors", folder / f"{tune}.{dtype}.safetensors")
            repo = _pair(box, f"{tune}-{dtype}", "theta", files)
            guess, exact = (
                _distances(box.run("git", "theta", "diff", *words, "HEAD~1", "HEAD", cwd=repo))
                for words in (("--json",), ("--json", "--exact"))
            )
            near = [n for n in exact if abs(guess.get(n, 0.0) - exact[n]) <= NEAR * exact[n]]
            yield f"{tune}, {dtype}", len(near) / len(exact), len(exact)


def _distances(cost: Cost) -> dict[str, float]:
    (model,) = json.loads(cost.output)["models"]
    rows: list[dict[str, Any]] = model["tensors"]
    return {r["name"]: r["metrics"]["l2"]["value"] for r in rows if "l2" in r["metrics"]}


# --- what came of it -----------------------------------------------------------------------------


def _rows(results: Results) -> Iterator[Row]:
    wall, title = results.median("bf16", "diff", "theta", "wall"), TITLES["bf16"]
    theirs = results.median("bf16", "diff", "lfs", "wall")
    shown = f"{wall:.2f} s < {DIFF} s"
    seconds = f"{theirs:.2f} s (two hashes)", f"{wall:.2f} s"
    yield Row("git diff A B: wall", title, *seconds, wall, DIFF, shown, strict=True)
    peak = results.highest("bf16", "diff", "theta", "peak")
    other = results.highest("bf16", "diff", "lfs", "peak")
    shown = f"{peak / 1e6:.0f} MB < {GIT_MEMORY / 1e6:.0f} MB"
    sizes = f"{other / 1e6:.0f} MB", f"{peak / 1e6:.0f} MB"
    yield Row("git diff A B: peak memory", title, *sizes, peak, GIT_MEMORY, shown, strict=True)
    read = results.median("bf16", "read", "theta", "wall")
    exact = results.median("bf16", "exact", "theta", "wall")
    shown = f"{exact / read:.2f} <= {READING} times reading both versions ({read:.2f} s)"
    work = "git theta diff --exact, all tensors moved: wall"
    yield Row(work, title, "-", f"{exact:.2f} s", exact / read, READING, shown)
    for step, told in (("two", "2 tensors"), ("all", "half of the tensors")):
        wall = results.median("tensors", step, "theta", "wall")
        shown, work = f"{wall:.2f} s < {MANY} s", f"git diff A B, {told} changed: wall"
        yield Row(work, "100,000 tensors", "-", f"{wall:.2f} s", wall, MANY, shown, strict=True)
    for verb in ("log", "blame"):
        wall = results.median("history", verb, "theta", "wall")
        shown, work = f"{wall:.2f} s < {HISTORY} s", f"git theta {verb}: wall"
        model = "1,000 commits of 1,000 tensors"
        yield Row(work, model, "-", f"{wall:.2f} s", wall, HISTORY, shown, strict=True)


def measure(box: Sandbox, rounds: int, scale: float) -> Section:
    """Time differences and histories, and hold estimates against the weights."""
    results = Results()
    _history(box, results, rounds)
    _many(box, results, rounds, scale)
    _large(box, results, rounds, scale)
    rows = list(_rows(results))
    for name, share, count in _estimates(box):
        shown = f"{share:.1%} within {NEAR:.0%} >= {SHARE:.0%}"
        work, model = "estimated distance against exact", f"MiniLM, {name}"
        told = f"{count} tensors"
        rows.append(Row(work, model, "-", told, 1 - share, 1 - SHARE, shown))
    return Section(table(HEAD, (row.line() for row in rows)), rows)


if __name__ == "__main__":
    sys.exit(main())
