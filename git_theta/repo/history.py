"""The commits that touched one file, and its manifests, read in one go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from git_theta.core.lines import Lines, read_lines
from git_theta.errors import ManifestError, NotTrackedError, UsageError
from git_theta.repo.gitrepo import GitError, Repo, read_blobs

_FORMAT = "%x01%H%x00%P%x00%an%x00%aI%x00%D%x00%s%x00"
_RENAMES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A commit that touched the file; `parents` are the nearest ones that did, too.

    `blob` is the file afterwards and `before` what it was in the first parent; None where it was
    not there.
    """

    oid: str
    parents: tuple[str, ...]
    author: str
    date: str
    refs: str
    subject: str
    path: str
    before: str | None
    blob: str | None


def commits(repo: Repo, revisions: Sequence[str], path: str) -> list[Commit]:
    """The commits that touched a file, newest first, followed through renames.

    Raises:
        NotTrackedError: there is no such revision.
    """
    found = _commits(repo, revisions, path)
    for _ in range(_RENAMES):
        origin = _renamed_from(repo, found)
        if origin is None:
            break
        at, parent, old_path = origin
        earlier = _commits(repo, [parent], old_path)
        known = {commit.oid for commit in found}
        earlier = [commit for commit in earlier if commit.oid not in known]
        if not earlier:
            break
        first = earlier[0]
        found[at] = replace(found[at], parents=(first.oid,), before=first.blob)
        found += earlier
    return found


def _commits(repo: Repo, revisions: Sequence[str], path: str) -> list[Commit]:
    for revision in revisions:
        if revision.startswith("-") and revision not in ("--all", "--branches"):
            raise UsageError(f"{revision!r} is no revision")
    command = ["log", "--topo-order", "--parents", "--diff-merges=first-parent", "--raw", "-z"]
    command += ["--no-abbrev", "--no-renames", f"--format={_FORMAT}"]
    try:
        listing = repo.git(*command, *revisions, "--", f":(top,literal){path}")
    except GitError as error:
        raise NotTrackedError(str(error), hint="git log --all --oneline") from error
    text = listing.decode(errors="surrogateescape")
    listed = [_commit(repo, entry, path) for entry in text.split("\x01")[1:]]
    # Git lists merges of histories that did not have the file yet, too.
    found = [commit for commit in listed if commit.before or commit.blob]
    known = {commit.oid for commit in found}
    return [
        replace(commit, parents=tuple(oid for oid in commit.parents if oid in known))
        for commit in found
    ]


def _commit(repo: Repo, entry: str, path: str) -> Commit:
    oid, parents, author, date, refs, subject, *raw = entry.split("\0")
    before: str | None = None
    blob: str | None = None
    for item in raw:
        words = item.strip("\n").split(" ")
        if words[0].startswith(":") and len(words) == 5:
            before, blob = (None if not o.strip("0") else o for o in words[2:4])
            break
    else:  # a merge that is as its first parent
        before = blob = repo.resolve(f"{oid}:{path}")
    return Commit(
        oid=oid,
        parents=tuple(parents.split()),
        author=author,
        date=date,
        refs=refs,
        subject=subject,
        path=path,
        before=before,
        blob=blob,
    )


def _renamed_from(repo: Repo, found: Sequence[Commit]) -> tuple[int, str, str] | None:
    """Where the oldest commit that added the file took it from: (index, parent, path)."""
    for at in range(len(found) - 1, -1, -1):
        commit = found[at]
        if commit.parents or commit.blob is None or commit.before is not None:
            continue
        parent = repo.resolve(f"{commit.oid}^")
        if parent is None:
            return None
        listing = repo.git(
            "diff-tree", "-r", "-M", "--raw", "-z", "--no-abbrev", parent, commit.oid
        )
        items = listing.decode(errors="surrogateescape").split("\0")
        for index, item in enumerate(items):
            if item.startswith(":") and item.rpartition(" ")[2].startswith("R"):
                old, new = items[index + 1 : index + 3]
                if new == commit.path:
                    return at, parent, old
        return None
    return None


class Manifests:
    """The lines of many manifests; those that nobody needs any more are forgotten."""

    def __init__(self, repo: Repo, blobs: Iterable[str | None]) -> None:
        asked = [blob for blob in blobs if blob is not None]
        self._uses: dict[str, int] = {}
        for blob in asked:
            self._uses[blob] = self._uses.get(blob, 0) + 1
        self._texts = read_blobs(repo.cwd, list(self._uses))
        self._held: dict[str, Lines | None] = {}

    def take(self, blob: str | None) -> Lines | None:
        """The lines of a manifest; None where the blob is none. Once for each time it was asked."""
        if blob is None:
            return None
        while blob not in self._held:
            oid, text = next(self._texts)
            self._held[oid] = _lines(text)
        lines = self._held[blob]
        self._uses[blob] -= 1
        if not self._uses[blob]:
            self._held[blob] = None
        return lines


def _lines(text: bytes) -> Lines | None:
    try:
        return read_lines(text)
    except ManifestError:
        return None
