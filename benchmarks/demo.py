"""The main job on a real model, beside Git LFS; then two branches of a model, merged."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.minilm import minilm, sha256
from benchmarks.sandbox import CACHE, TOOLS, RunError, Sandbox, in_child, sandbox, size
from benchmarks.second_act import second_act

NAME = "model.safetensors"
PAGES = CACHE / "demo"
NOTE = b'"note":"reviewed"'


@dataclass
class Story:
    """One repository's way through the same steps."""

    tool: str
    repo: Path
    remote: Path
    clone: Path
    stored: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    versions: list[tuple[str, str]] = field(default_factory=list)
    """Commit and digest of the model, oldest first."""


def _retrained(source: Path, target: Path) -> str:
    in_child("benchmarks.models", "change", str(source), str(target), "--count", "2")
    return "2 of 104 tensors trained further"


def _annotated(source: Path, target: Path) -> str:
    """A word in the header, as people write them: not a single weight differs."""
    data = source.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.setdefault("__metadata__", {}).update(json.loads(b"{" + NOTE + b"}"))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    target.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    return "a note in the header, same weights"


def _commit(box: Sandbox, story: Story, step: str, model: Path) -> None:
    shutil.copyfile(model, story.repo / NAME)
    before = size(story.repo / ".git")
    cost = box.timed("git", "add", NAME, cwd=story.repo)
    box.run("git", "commit", "-q", "-m", step, cwd=story.repo)
    head = box.run("git", "rev-parse", "HEAD", cwd=story.repo).output.strip()
    story.stored[step] = size(story.repo / ".git") - before
    story.seconds[step] = cost.wall
    story.versions.append((head, sha256(model)))


def _share(box: Sandbox, story: Story) -> None:
    """Push, and clone as a colleague would who has only the remote."""
    box.run("git", "init", "-q", "--bare", str(story.remote), cwd=box.root)
    before = size(story.remote)
    box.run("git", "remote", "add", "origin", story.remote.as_uri(), cwd=story.repo)
    cost = box.timed("git", "push", "-q", "-u", "origin", "main", cwd=story.repo)
    story.stored["push"], story.seconds["push"] = size(story.remote) - before, cost.wall
    cost = box.timed("git", "clone", "-q", story.remote.as_uri(), str(story.clone), cwd=box.root)
    story.stored["clone"], story.seconds["clone"] = size(story.clone / ".git"), cost.wall


def _check(box: Sandbox, story: Story) -> None:
    """Check out every version in the clone, oldest last.

    Raises:
        RunError: a version did not come back byte for byte.
    """
    for commit, digest in reversed(story.versions):
        box.run("git", "checkout", "-q", commit, cwd=story.clone)
        found = sha256(story.clone / NAME)
        if found != digest:
            raise RunError(
                f"{story.tool}: commit {commit} does not come back byte for byte: "
                f"sha256 {digest} went in, {found} came out"
            )
    status = box.run("git", "status", "--porcelain", cwd=story.clone).output
    if status:
        raise RunError(f"{story.tool}: the clone is not clean after its checkouts:\n{status}")


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.2f} MB"


def _table(theirs: Story, ours: Story) -> Table:
    table = Table(title="What each step stored, all-MiniLM-L6-v2 (90.87 MB)")
    table.add_column("step", no_wrap=True)
    for title in ("git-theta", "Git LFS", "ratio", "git-theta takes", "Git LFS takes"):
        table.add_column(title, justify="right", no_wrap=True)
    rows = list(ours.stored)
    for step in rows:
        a, b = ours.stored[step], theirs.stored[step]
        label = {"push": "git push: on the remote", "clone": "git clone: under .git"}.get(
            step, step
        )
        seconds = (f"{ours.seconds[step]:.2f} s", f"{theirs.seconds[step]:.2f} s")
        last = step == rows[-3]
        table.add_row(
            label, _megabytes(a), _megabytes(b), f"{a / b:.3f}", *seconds, end_section=last
        )
    return table


def _steps(box: Sandbox, model: Path) -> list[tuple[str, Path]]:
    """The versions to commit, in order."""
    steps = [("the model as published", model)]
    edits: list[Callable[[Path, Path], str]] = [_retrained, _annotated]
    for number, edit in enumerate(edits):
        target = box.root / f"version-{number}.safetensors"
        steps.append((edit(steps[-1][1], target), target))
    return steps


def demonstrate(console: Console) -> None:
    """Tell the story twice, once with each tool, and print what came of it."""
    console.print("Fetching all-MiniLM-L6-v2 ...")
    model = minilm()
    with sandbox() as box:
        steps = _steps(box, model)
        stories = {}
        for tool in TOOLS:
            story = Story(
                tool,
                box.repository(tool, tool),
                box.root / f"{tool}-remote.git",
                box.root / f"{tool}-clone",
            )
            stories[tool] = story
            console.print(f"[bold]{'git-theta' if tool == 'theta' else 'Git LFS'}[/bold]")
            for step, path in steps:
                console.print(f"  git add, git commit: {step}")
                _commit(box, story, step, path)
            console.print("  git push to a bare remote, git clone of it, every version again")
            _share(box, story)
            _check(box, story)
        console.print(_table(stories["lfs"], stories["theta"]))
        console.print(
            f"[green]All {len(steps)} versions came back from the clone byte for byte "
            "(sha256), with both tools.[/green]"
        )
        second_act(console, box)
        _pages(console, box, stories["theta"])


def _pages(console: Console, box: Sandbox, story: Story) -> None:
    """What became of the model, to look at; the pages outlive the sandbox."""
    PAGES.mkdir(parents=True, exist_ok=True)
    report, history = PAGES / "report.html", PAGES / "history.html"
    diff = ("git", "theta", "diff", story.versions[0][0], story.versions[-1][0])
    box.run(*diff, "--html", str(report), cwd=story.repo)
    box.run("git", "theta", "log", NAME, "--html", str(history), cwd=story.repo)
    console.print(
        f"\nWhat changed in the model, to look at in a browser: [bold]{report.as_uri()}[/bold]\n"
        f"and its history: {history.as_uri()}",
        soft_wrap=True,
    )


def main() -> int:
    """Run the demonstration; 1 when anything is not as it was."""
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    try:
        demonstrate(console)
    except RunError as error:
        console.print(f"demo: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
