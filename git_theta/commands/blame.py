"""`git theta blame`: the commit that last changed each tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from git_theta.commands.options import JSON_OPTION, path_from_top, split_revision
from git_theta.commands.terminal import say_json, say_table
from git_theta.core.lines import Lines, names_changed, tensors_of
from git_theta.errors import NotTrackedError
from git_theta.repo.gitrepo import Repo
from git_theta.repo.history import Commit, Manifests, commits


@click.command()
@click.argument("place", metavar="[REV:]PATH")
@JSON_OPTION
def command(place: str, as_json: bool) -> None:
    """Show for each tensor the commit that last changed it, its author and date.

    PATH alone is the file in HEAD.
    """
    repo = Repo.find()
    try:
        rev, path = split_revision(place)
        if rev is None or path.startswith("./"):
            path = path_from_top(repo, path)
        found = commits(repo, [rev or "HEAD"], path)
        if not found:
            raise NotTrackedError(f"no commit has a file {path!r}", hint="git theta ls-files")
        blamed = blame(found, Manifests(repo, _asked(found)))
    finally:
        repo.close()
    rows = [(name, commit) for name, commit in sorted(blamed.items())]
    if as_json:
        say_json([_entry(name, commit) for name, commit in rows])
    else:
        table = [(c.oid[:9], c.author, c.date[:10], name, c.subject) for name, c in rows]
        say_table(("COMMIT", "AUTHOR", "DATE", "TENSOR", "SUBJECT"), table)


def _entry(name: str, commit: Commit) -> dict[str, Any]:
    return {
        "tensor": name,
        "commit": commit.oid,
        "author": commit.author,
        "date": commit.date,
        "subject": commit.subject,
        "path": commit.path,
    }


def _asked(found: Sequence[Commit]) -> list[str | None]:
    """Every manifest that `blame` will take, in its order."""
    blobs = {commit.oid: commit.blob for commit in found}
    asked: list[str | None] = []
    for commit in found:
        asked += [commit.blob, *(blobs.get(parent) for parent in commit.parents)]
    return asked


def blame(found: Sequence[Commit], manifests: Manifests) -> dict[str, Commit]:
    """The commit that gave each tensor of the newest manifest its value.

    A tensor that a merge took over from one of its parents is that parent's.
    """
    blobs = {commit.oid: commit.blob for commit in found}
    waiting: dict[str, set[str]] = {}
    blamed: dict[str, Commit] = {}
    for number, commit in enumerate(found):
        lines = manifests.take(commit.blob)
        parents = [(parent, manifests.take(blobs.get(parent))) for parent in commit.parents]
        names = waiting.pop(commit.oid, set())
        if not number and lines is not None:
            names = set(tensors_of(lines.tensors))
        for parent, before in parents:
            if names and before is not None and lines is not None:
                names = _passed_on(names, lines, before, waiting.setdefault(parent, set()))
        blamed.update(dict.fromkeys(names, commit))
        if not any(waiting.values()):
            break
    return blamed


def _passed_on(names: set[str], lines: Lines, before: Lines, to: set[str]) -> set[str]:
    """Give a parent the tensors that it has already; return those that are left."""
    changed = names_changed(before, lines)
    to |= names - changed
    return names & changed
