"""A model trained for two tasks on two branches, and `git merge`: one model that does both."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.sandbox import ROOT, RunError, Sandbox, in_child

TASKS = ("upright", "quarter")
SEEDS = (0, 1, 2)
STRATEGY = "regmean"
KEPT = 80
# What a user would write by hand: which model, which data.
HOOK = """
import sys
sys.path.insert(0, {root!r})
from benchmarks.second_act import opened

def model_and_batches(path):
    return opened(path, {task!r})
"""


def name_of(seed: int) -> str:
    """The file of a seed's model."""
    return f"digits-{seed}.safetensors"


@dataclass(frozen=True)
class Score:
    """What the model of one file gets right on the two tasks, in percent."""

    first: float
    second: float

    @property
    def mean(self) -> float:
        """Over both tasks."""
        return (self.first + self.second) / 2


# --- in a process of its own: what needs torch ---------------------------------------------------


def main() -> int:
    """`train FOLDER`: bases and specialists as files. `score FILE...`: right answers."""
    if sys.argv[1] == "train":
        _train(Path(sys.argv[2]))
    else:
        for place in sys.argv[2:]:
            sys.stdout.write(" ".join(map(str, _score(Path(place)))) + "\n")
    return 0


def _train(folder: Path) -> None:
    from safetensors.torch import save_file

    from benchmarks.digits import base_of, digits, specialist

    for seed in SEEDS:
        split = digits(seed)
        base = base_of(split, seed=seed)
        models = {"base": base} | {t: specialist(base, split, t, seed=seed) for t in TASKS}
        for label, weights in models.items():
            (folder / label).mkdir(exist_ok=True)
            save_file(weights, folder / label / name_of(seed))


def _score(path: Path) -> tuple[float, ...]:
    from safetensors.torch import load_file

    from benchmarks.digits import accuracy, digits

    test = digits(_seed_of(path)).test
    return tuple(accuracy(load_file(path), test.seen(task)) for task in TASKS)


def _seed_of(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def opened(path: Path, task: str) -> tuple[Any, list[Any]]:
    """A model, and the images that its branch learned from."""
    from safetensors.torch import load_file

    from benchmarks.digits import digits, loaded

    images = digits(_seed_of(path)).train.seen(task).images
    return loaded(load_file(path)), [(images, None)]


# --- the story -----------------------------------------------------------------------------------


def second_act(console: Console, box: Sandbox) -> None:
    """Train, branch, merge, and show what came of it.

    Raises:
        RunError: the merged models are not what the story says.
    """
    console.print("\n[bold]Two tasks, two branches, one git merge[/bold]")
    models = box.root / "models"
    models.mkdir()
    console.print(f"  training: {len(SEEDS)} bases, each further on two tasks")
    in_child("benchmarks.second_act", "train", str(models))
    repo = box.root / "tasks"
    box.run("git", "init", "-q", str(repo), cwd=box.root)
    box.run("git", "theta", "track", "*.safetensors", "--merge", STRATEGY, cwd=repo)
    attributes = (repo / ".gitattributes").read_text().strip()
    console.print(f"  .gitattributes: {attributes}")
    _commit(box, repo, models / "base", "The base")
    for task in TASKS:
        box.run("git", "checkout", "-q", "-b", task, "main", cwd=repo)
        console.print(f"  git checkout -b {task}; train; git theta stats gram; git commit")
        _commit(box, repo, models / task, f"Trained for {task}", task=task)
    console.print(f"  git checkout {TASKS[0]}; git merge {TASKS[1]}")
    box.run("git", "checkout", "-q", TASKS[0], cwd=repo)
    cost = box.run("git", "merge", "-q", "--no-edit", TASKS[1], cwd=repo)
    if box.run("git", "status", "--porcelain", cwd=repo).output:
        raise RunError("the merge left something behind")
    scores = _scores({"merged": repo} | {k: models / k for k in ("base", *TASKS)})
    console.print(_table(scores))
    _check(scores)
    console.print(
        f"[green]Each merged model beats both of its parents on the mean of the tasks and keeps "
        f"at least {KEPT} % of what either gained; the merge took {cost.wall:.1f} s.[/green]"
    )


def _commit(box: Sandbox, repo: Path, models: Path, message: str, task: str = "") -> None:
    for seed in SEEDS:
        shutil.copyfile(models / name_of(seed), repo / name_of(seed))
    box.run("git", "add", ".gitattributes", "*.safetensors", cwd=repo)
    if task:
        hook = repo / "hook.py"
        hook.write_text(HOOK.format(root=str(ROOT), task=task))
        names = [name_of(seed) for seed in SEEDS]
        box.run(
            "git", "theta", "stats", "gram", *names, "--with", "hook:model_and_batches", cwd=repo
        )
        hook.unlink()
        box.run("git", "add", "*.safetensors", cwd=repo)
    box.run("git", "commit", "-q", "-m", message, cwd=repo)


def _scores(folders: dict[str, Path]) -> dict[tuple[str, int], Score]:
    """Scores by kind of model and seed."""
    keys = [(label, seed) for label in folders for seed in SEEDS]
    files = [str(folders[label] / name_of(seed)) for label, seed in keys]
    told = in_child("benchmarks.second_act", "score", *files).splitlines()
    return {key: Score(*map(float, line.split())) for key, line in zip(keys, told, strict=True)}


def kept(scores: dict[tuple[str, int], Score], seed: int) -> tuple[float, float]:
    """How much of each specialist's gain over the base the merged model keeps, in percent."""
    merged, base = scores["merged", seed], scores["base", seed]
    one, other = scores[TASKS[0], seed], scores[TASKS[1], seed]
    return (
        100 * (merged.first - base.first) / (one.first - base.first),
        100 * (merged.second - base.second) / (other.second - base.second),
    )


def _check(scores: dict[tuple[str, int], Score]) -> None:
    for seed in SEEDS:
        best = max(scores[task, seed].mean for task in TASKS)
        if scores["merged", seed].mean <= best:
            raise RunError(f"seed {seed}: the merged model is no better than a parent")
        if min(kept(scores, seed)) < KEPT:
            raise RunError(f"seed {seed}: the merged model keeps less than {KEPT} % of a gain")


def _table(scores: dict[tuple[str, int], Score]) -> Table:
    table = Table(title="Right answers on test images, in percent")
    table.add_column("seed")
    table.add_column("model", no_wrap=True)
    for title in (*TASKS, "mean", "gains kept"):
        table.add_column(title, justify="right", no_wrap=True)
    labels = {"base": "base", TASKS[0]: f"branch {TASKS[0]}", TASKS[1]: f"branch {TASKS[1]}"}
    for seed in SEEDS:
        for label, text in (*labels.items(), ("merged", "git merge")):
            score = scores[label, seed]
            gains = " and ".join(f"{g:.0f} %" for g in kept(scores, seed))
            table.add_row(
                str(seed) if label == "base" else "",
                text,
                f"{score.first:.1f}",
                f"{score.second:.1f}",
                f"{score.mean:.1f}",
                gains if label == "merged" else "",
                style="bold" if label == "merged" else "",
                end_section=label == "merged",
            )
    return table


if __name__ == "__main__":
    sys.exit(main())
