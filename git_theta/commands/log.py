"""`git theta log`: the commits of a model, and what each did to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import click

from git_theta.commands.options import JSON_OPTION, path_from_top
from git_theta.commands.terminal import printable, say, say_json, say_painted, size_text
from git_theta.core.changes import KINDS
from git_theta.core.folding import fold
from git_theta.core.lines import Step, step
from git_theta.errors import NotTrackedError
from git_theta.repo.gitrepo import Repo
from git_theta.repo.history import Commit, Manifests, commits

_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """A commit and what it did to the model, compared with its first parent.

    `changes` maps tensors to kinds of change. `stored` are the bytes of the objects that it
    brought. `state` is `changed`, `added`, `removed`, or `raw` where a side is no manifest.
    """

    commit: Commit
    changes: dict[str, str]
    stored: int
    state: str
    merge: bool
    recipe: bool

    def counts(self) -> dict[str, int]:
        """How many tensors changed in which way."""
        found = Counter(self.changes.values())
        return {what: found[what] for what in KINDS if found[what]}

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `docs/commands.md` names the keys."""
        commit = self.commit
        return {
            "commit": commit.oid,
            "parents": list(commit.parents),
            "author": commit.author,
            "date": commit.date,
            "refs": commit.refs,
            "subject": commit.subject,
            "path": commit.path,
            "state": self.state,
            "merge": self.merge,
            "recipe": self.recipe,
            "stored": self.stored,
            "counts": self.counts(),
            "tensors": [{"name": n, "what": what} for n, what in self.changes.items()],
        }


@click.command()
@click.argument("words", metavar="[REV]... PATH", nargs=-1, required=True)
@click.option("--tensor", "globs", multiple=True, metavar="GLOB", help="Only tensors like this.")
@click.option("-n", "--max-count", "most", type=click.IntRange(min=1), help="At most so many.")
@click.option("--all", "everything", is_flag=True, help="All branches and tags.")
@JSON_OPTION
def command(
    words: tuple[str, ...],
    globs: tuple[str, ...],
    most: int | None,
    everything: bool,
    as_json: bool,
) -> None:
    """List the commits of a model, newest first, and what each did to it.

    \b
        git theta log model.safetensors
        git theta log v1.0..main model.safetensors --tensor '*.attn.*'

    A merge is compared with its first parent. STORED counts the objects that a commit brought.
    """
    repo = Repo.find()
    try:
        *revisions, path = words
        revisions += ["--all"] if everything else []
        found = commits(repo, revisions or ["HEAD"], path_from_top(repo, path))
        if not found:
            raise NotTrackedError(f"no commit has a file {path!r}", hint="git theta ls-files")
        listed = entries(repo, found, globs)
        shown = []
        for entry in listed:
            shown.append(entry)
            if not as_json:
                _print(entry)
            if len(shown) == most:
                break
    finally:
        repo.close()
    if as_json:
        say_json([entry.to_dict() for entry in shown])


def entries(repo: Repo, found: Sequence[Commit], globs: Sequence[str] = ()) -> Iterator[LogEntry]:
    """What each commit did; with `globs` only commits that touched such a tensor."""
    blobs = (blob for commit in found for blob in (commit.blob, commit.before))
    manifests = Manifests(repo, blobs)
    for commit in found:
        new, old = manifests.take(commit.blob), manifests.take(commit.before)
        raw = (new is None and commit.blob) or (old is None and commit.before)
        did = step(old, new) if not raw else Step(changes={}, stored=0)
        changes = {
            name: what
            for name, what in did.changes.items()
            if not globs or any(fnmatchcase(name, glob) for glob in globs)
        }
        if globs and not changes:
            continue
        state = "added" if commit.before is None else "changed"
        yield LogEntry(
            commit=commit,
            changes=changes,
            stored=did.stored,
            state="raw" if raw else "removed" if commit.blob is None else state,
            merge=len(commit.parents) > 1,
            recipe=new is not None and new.merged,
        )


def _print(entry: LogEntry) -> None:
    commit = entry.commit
    refs = f" ({printable(commit.refs)})" if commit.refs else ""
    say_painted(f"{commit.oid[:9]}{refs} {commit.date[:10]} {printable(commit.author)}", "yellow")
    say(f"    {printable(commit.subject)}")
    say(f"    {what_text(entry)}")
    if entry.state == "changed":
        for line in _tensors(entry):
            say(f"      {line}")


def what_text(entry: LogEntry) -> str:
    """What a commit did, in one line."""
    merged = "merge; " if entry.merge else ""
    if entry.state == "raw":
        return f"{merged}a side is no manifest: committed before the file was tracked"
    if entry.state == "removed":
        return f"{merged}the file was removed"
    counts = ", ".join(f"{number:,} {what}" for what, number in entry.counts().items())
    added = "the file was added; " if entry.state == "added" else ""
    return f"{merged}{added}{counts or 'no tensor changed'}; stored {size_text(entry.stored)}"


def _tensors(entry: LogEntry) -> Iterator[str]:
    lines = [
        (f"{what} ", folded)
        for what in KINDS
        for folded in fold(
            [name for name, kind in entry.changes.items() if kind == what],
            lambda name: name,
            lambda _: 0,
            lambda _: True,
        )
    ]
    for what, folded in lines[:_SHOWN]:
        number = f" ({len(folded.items)})" if len(folded.items) > 1 else ""
        yield f"{what}{printable(folded.name)}{number}"
    if len(lines) > _SHOWN:
        yield f"... and {sum(len(f.items) for _, f in lines[_SHOWN:]):,} more (--json has all)"
