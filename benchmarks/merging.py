"""Merges: the same work as mergekit's, and one in which almost nothing conflicts."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from benchmarks import environments
from benchmarks.everyday import TITLES
from benchmarks.report import Row, Section, in_megabytes, table
from benchmarks.sandbox import RunError, Sandbox, in_child
from benchmarks.scenarios import NAME, Results, Sample, place, settle

MODEL = "bf16"
METHODS = {"average": "linear", "ties": "ties", "dare-ties": "dare_ties", "slerp": "slerp"}
DENSITY = {"ties": 0.2, "dare-ties": 0.5}
FASTER = 3
MEMORY = 1.5e9
DRIVER = 1.0
# What the driver is timed with, and whether that needs torch.
DRIVEN = {"average": False, "ties": True}
HEAD = "work | model | mergekit: | git-theta: | against the bar | "
COSTS = "strategy | by | wall min / median: | CPU median: | largest process: | n:"


def _linked(source: str, target: str) -> None:
    """Copy a file, or link it where it lies among objects, which nothing ever changes."""
    if "objects" in Path(source).parts:
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def fresh(repo: Path, target: Path) -> Path:
    """A copy of a repository: what a merge leaves there is not there for the next one."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(repo, target, copy_function=_linked, symlinks=True)
    return target


def _commit(box: Sandbox, repo: Path, model: Path, branch: str, age: int) -> None:
    """Commit a model as a child of the base, without a checkout."""
    if branch != "main":
        box.run("git", "branch", "-q", branch, "main", cwd=repo)
        box.run("git", "symbolic-ref", "HEAD", f"refs/heads/{branch}", cwd=repo)
        box.run("git", "read-tree", "main", cwd=repo)
    place(model, repo, age)
    box.run("git", "add", NAME, cwd=repo)
    box.run("git", "commit", "-q", "-m", branch, cwd=repo)


def _recipe(strategy: str, files: dict[str, Path], path: Path) -> Path:
    """The same merge in mergekit's terms; YAML reads JSON."""
    method = METHODS[strategy]
    model: dict[str, float] = {"weight": 1.0}
    recipe: dict[str, object] = {"merge_method": method}
    if strategy in DENSITY:
        model["density"] = DENSITY[strategy]
        recipe |= {"base_model": str(files["main"]), "parameters": {"normalize": True}}
    if strategy == "slerp":
        model = {}
        recipe |= {"base_model": str(files["ours"]), "parameters": {"t": 0.5}}
    sides = [{"model": str(files[side]), "parameters": model} for side in ("ours", "theirs")]
    path.write_text(json.dumps(recipe | {"models": sides}))
    return path


def _by_mergekit(
    box: Sandbox, results: Results, strategy: str, programs: Path, files: dict[str, Path]
) -> None:
    recipe = _recipe(strategy, files, box.root / "recipe.yaml")
    out = box.root / "merged"
    argv = (str(programs / "mergekit-pytorch"), "--quiet", str(recipe), str(out))
    cost = box.timed(*argv, cwd=box.root)
    results.add(strategy, "merge", "mergekit", Sample(cost.wall, cost.cpu, cost.peak))
    shutil.rmtree(out)


def _by_us(box: Sandbox, results: Results, strategy: str, repo: Path) -> None:
    merged = fresh(repo, box.root / "merge")
    settle(box, merged)
    options = ("--set", f"density={DENSITY[strategy]}") if strategy in DENSITY else ()
    argv = ("git", "theta", "merge", "theirs", "-m", strategy, "--strategy", strategy, *options)
    cost = box.timed(*argv, cwd=merged)
    results.add(strategy, "merge", "theta", Sample(cost.wall, cost.cpu, cost.peak))
    parents = box.run("git", "rev-list", "--parents", "-1", "HEAD", cwd=merged).output.split()
    status = box.run("git", "status", "--porcelain", cwd=merged).output
    if len(parents) != 3 or status:
        raise RunError(f"git theta merge {strategy} made no merge, or no clean one:\n{status}")
    shutil.rmtree(merged)


def _merges(box: Sandbox, results: Results, rounds: int, scale: float) -> None:
    """Merge two fine-tunes of one base with each strategy."""
    files = {name: box.root / f"{name}.safetensors" for name in ("main", "ours", "theirs")}
    in_child("benchmarks.models", "make", MODEL, str(files["main"]), "--scale", str(scale))
    for seed, side in enumerate(("theirs", "ours"), 1):
        argv = (str(files["main"]), str(files[side]), "full", "--seed", str(seed))
        in_child("benchmarks.models", "tune", *argv)
    repo = box.repository("fine-tunes", "theta")
    for age, branch in enumerate(("main", "theirs", "ours")):
        _commit(box, repo, files[branch], branch, 3600 - 60 * age)
    programs = environments.programs("mergekit")
    for number in range(rounds):
        for strategy in METHODS:
            for ours in (False, True) if number % 2 == 0 else (True, False):
                if ours:
                    _by_us(box, results, strategy, repo)
                else:
                    _by_mergekit(box, results, strategy, programs, files)
    shutil.rmtree(repo)
    for file in files.values():
        file.unlink()


def _few(box: Sandbox, results: Results, rounds: int, scale: float) -> None:
    """Merge 300 tensors of 16 MiB of which each side changed ten, three of them both."""
    repo = box.repository("few", "theta")
    model = box.root / "few.safetensors"
    for age, branch in enumerate(("main", "theirs", "ours")):
        in_child("benchmarks.models", "wide", str(model), branch, "--scale", str(scale))
        _commit(box, repo, model, branch, 3600 - 60 * age)
    model.unlink()
    (repo / NAME).unlink()
    for _ in range(rounds):
        merged = fresh(repo, box.root / "merge")
        cost = box.run(sys.executable, "-c", "import torch", cwd=box.root)
        results.add("few", "torch", "theta", Sample(cost.wall, cost.cpu, cost.peak))
        for strategy in DRIVEN:
            argv = ("env", f"GIT_THETA_MERGE={strategy}", "git", "merge-tree", "--write-tree")
            cost = box.timed(*argv, "ours", "theirs", cwd=merged)
            results.add("few", strategy, "theta", Sample(cost.wall, cost.cpu, cost.peak))
        shutil.rmtree(merged)
    shutil.rmtree(repo)


def _rows(results: Results) -> list[Row]:
    """All rows of what was measured."""
    found = []
    for strategy, method in METHODS.items():
        theirs = results.median(strategy, "merge", "mergekit", "wall")
        ours = results.median(strategy, "merge", "theta", "wall")
        work, title = f"merge, `{strategy}` (`{method}`)", TITLES[MODEL]
        seconds = f"{theirs:.1f} s", f"{ours:.1f} s"
        shown = f"{theirs / ours:.1f} times as fast >= {FASTER}"
        found.append(Row(f"{work}: wall", title, *seconds, ours / theirs, 1 / FASTER, shown))
        peaks = [results.highest(strategy, "merge", by, "peak") for by in ("mergekit", "theta")]
        shown = f"{peaks[1] / 1e6:,.0f} MB <= {MEMORY / 1e6:,.0f} MB"
        sizes = in_megabytes(peaks[0]), in_megabytes(peaks[1])
        found.append(Row(f"{work}: peak memory", title, *sizes, peaks[1], MEMORY, shown))
    return [*found, *(_driven(results, strategy) for strategy in DRIVEN)]


def _driven(results: Results, strategy: str) -> Row:
    """What the merge driver took, less what it took to import torch where it did."""
    whole = own = results.median("few", strategy, "theta", "wall")
    took, shown = f"{whole:.2f} s", f"{whole:.2f} s < {DRIVER} s"
    if DRIVEN[strategy]:
        torch = results.median("few", "torch", "theta", "wall")
        own = whole - torch
        took += f" ({torch:.2f} s to import torch)"
        shown = f"{own:.2f} s besides torch < {DRIVER} s"
    work, title = f"merge driver, `{strategy}`, 3 tensors conflict", "300 tensors of 16 MiB"
    return Row(work, title, "-", took, own, DRIVER, shown, strict=True)


def _costs(results: Results) -> list[str]:
    lines = []
    for strategy in METHODS:
        for by, title in (("mergekit", "mergekit 0.1.4"), ("theta", "git-theta")):
            samples = results.samples[strategy, "merge", by]
            least = min(sample.wall for sample in samples)
            wall = results.median(strategy, "merge", by, "wall")
            cpu = results.median(strategy, "merge", by, "cpu")
            peak = results.highest(strategy, "merge", by, "peak") / 1e6
            figures = f"{least:.2f} / {wall:.2f} s | {cpu:.2f} s | {peak:,.0f} MB"
            lines.append(f"| {strategy} | {title} | {figures} | {len(samples)} |")
    return lines


def measure(box: Sandbox, rounds: int, scale: float) -> Section:
    """Time merges beside mergekit, and the driver on a model of which little conflicts."""
    results = Results()
    _few(box, results, rounds, scale)
    _merges(box, results, rounds, scale)
    rows = _rows(results)
    text = f"{table(HEAD, (row.line() for row in rows))}\n{table(COSTS, _costs(results))}"
    return Section(text, rows)
