"""Which tracked files differ between two states of a repository, as Git's own diff lists them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from git_theta.errors import NotTrackedError, UsageError
from git_theta.repo.gitrepo import GitError, Repo


@dataclass(frozen=True, slots=True)
class Entry:
    """One side of a changed path: its blob, or None where Git has none yet (the work tree)."""

    path: str
    mode: str
    blob: str | None


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """A path that differs; a side is None where the file is not there."""

    path: str
    old: Entry | None
    new: Entry | None


def changed_files(
    repo: Repo, revisions: Sequence[str], paths: Sequence[str], *, staged: bool = False
) -> list[ChangedFile]:
    """Tracked files that differ: between revisions, the index and the work tree as `git diff` does.

    Raises:
        NotTrackedError: there is no such revision.
        UsageError: Git does not take these for revisions to compare.
    """
    command = ["diff", "--raw", "-z", "--no-abbrev", "--no-renames"]
    command += ["--no-textconv", "--ignore-submodules=all"]
    command += ["--cached"] if staged else []
    for revision in revisions:
        if revision.startswith("-"):
            raise UsageError(f"{revision!r} is no revision")
    try:
        listing = repo.git(*command, *revisions, "--", *paths)
    except GitError as error:
        raise _wrong(repo, revisions, error) from error
    found = list(_entries(listing.decode(errors="surrogateescape").split("\0")))
    attributes = repo.attributes([file.path for file in found], ["filter"])
    return [file for file in found if attributes.get(file.path, {}).get("filter") == "theta"]


def _wrong(repo: Repo, revisions: Sequence[str], error: GitError) -> Exception:
    for revision in revisions:
        for part in revision.replace("...", "..").split(".."):
            if part and repo.resolve(part) is None:
                return NotTrackedError(
                    f"there is no revision {part!r}",
                    hint="git log --all --oneline; a path goes behind --",
                )
    return UsageError(str(error))


def _entries(items: Sequence[str]) -> list[ChangedFile]:
    found = []
    for meta, path in zip(items[0::2], items[1::2], strict=False):
        old_mode, new_mode, old, new, status = meta[1:].split(" ")
        if status[0] == "U":
            continue
        before = None if status == "A" else Entry(path, old_mode, _blob(old))
        after = None if status == "D" else Entry(path, new_mode, _blob(new))
        if all(side is None or side.mode.startswith("100") for side in (before, after)):
            found.append(ChangedFile(path, before, after))
    return found


def _blob(oid: str) -> str | None:
    return oid if oid.strip("0") else None
