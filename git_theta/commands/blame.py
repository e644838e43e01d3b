"""`git theta blame`: the commit that last changed each tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import click

from git_theta.commands.options import JSON_OPTION, path_from_top, split_revision
from git_theta.commands.terminal import say_json, say_table
from git_theta.core.lines import Lines, origins, tensors_of
from git_theta.errors import NotTrackedError
from git_theta.repo.gitrepo import Repo
from git_theta.repo.history import Commit, Manifests, commits

# Names as a commit has them, each with the names that these tensors have in the end.
Names: TypeAlias = dict[str, tuple[str, ...]]


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

    A tensor that a merge took over from one of its parents is that parent's; a new name is no
    new value.
    """
    blobs = {commit.oid: commit.blob for commit in found}
    waiting: dict[str, Names] = {}
    blamed: dict[str, Commit] = {}
    for number, commit in enumerate(found):
        lines = manifests.take(commit.blob)
        parents = [(parent, manifests.take(blobs.get(parent))) for parent in commit.parents]
        names = waiting.pop(commit.oid, {})
        if not number and lines is not None:
            names = {name: (name,) for name in tensors_of(lines.tensors)}
        for parent, before in parents:
            if names and before is not None and lines is not None:
                passed, names = _passed_on(names, lines, before)
                waiting[parent] = _both(waiting.get(parent), passed)
        blamed.update((last, commit) for lasts in names.values() for last in lasts)
        if not any(waiting.values()):
            break
    return blamed


def _passed_on(names: Names, lines: Lines, before: Lines) -> tuple[Names, Names]:
    """The names that a parent has already, as it has them, and those that are left."""
    passed, left = names, {}
    for name, was in origins(before, lines).items():
        if name in passed:
            lasts = passed.pop(name)
            if was is None:
                left[name] = lasts
            else:
                passed[was] = passed.get(was, ()) + lasts
    return passed, left


def _both(one: Names | None, other: Names) -> Names:
    if not one:
        return other
    for name, lasts in other.items():
        one[name] = tuple(dict.fromkeys((*one.get(name, ()), *lasts)))
    return one
