"""Manifests that a new version of a file may share chunks with: those of the index and of heads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from git_theta.core.manifest import MAX_TEXT, is_manifest
from git_theta.repo.gitrepo import Repo

MAX_MANIFEST = MAX_TEXT
_PASSING_HEADS = ("MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "REBASE_HEAD")
_ALIKE = ":(top,attr:filter=theta)"


class Before(Protocol):
    """Manifests that a new version of a file may share chunks with."""

    def of_path(self, path: str) -> Iterable[bytes]: ...

    def of_all_paths(self) -> Iterable[bytes]: ...

    def of_other_paths(self, path: str) -> Iterable[bytes]: ...


class Candidates:
    """Manifests of the index and of the heads, read when they are asked for."""

    def __init__(self, repo: Repo) -> None:
        self._repo = repo
        there = (head for head in _PASSING_HEADS if (repo.git_dir / head).exists())
        self._heads = ("HEAD", *there)

    def of_path(self, path: str) -> Iterator[bytes]:
        """Manifest texts for one path: staged ones, then those of the heads."""
        names = [f":{stage}:{path}" for stage in (0, 2, 3, 1)]
        names += [f"{head}:{path}" for head in self._heads]
        seen = set()
        for name in names:
            text = self._read(name)
            if text is not None and text not in seen:
                seen.add(text)
                yield text

    def of_all_paths(self) -> Iterator[bytes]:
        """Manifest texts staged at any path, and what they replace in the heads."""
        oids = {entry.oid: None for entry in self._repo.staged(_ALIKE)}
        for head in self._heads:
            oids.update(dict.fromkeys(self._replaced(head)))
        for oid in oids:
            text = self._read(oid)
            if text is not None:
                yield text

    def of_other_paths(self, path: str) -> Iterator[bytes]:
        """Manifest texts staged at any path but one."""
        for oid in {entry.oid for entry in self._repo.staged(_ALIKE) if entry.path != path}:
            text = self._read(oid)
            if text is not None:
                yield text

    def _replaced(self, head: str) -> Iterator[str]:
        """Blobs that a head has where the index has another one, or none."""
        listing = self._repo.git("diff-index", "--cached", "--raw", "-z", head, check=False)
        for item in listing.split(b"\0"):
            if item.startswith(b":"):
                yield item.split()[2].decode()

    def _read(self, name: str) -> bytes | None:
        if self._repo.promisor:
            name = self._at_hand(name)
        found = self._repo.objects.read(name, limit=MAX_MANIFEST) if name else None
        return found[1] if found is not None and is_manifest(found[1]) else None

    def _at_hand(self, name: str) -> str:
        """In a partial clone: the blob's id if it is here, else nothing; asking would download."""
        oid = self._repo.text("rev-parse", "-q", "--verify", name, check=False)
        return oid if oid in self._repo.local_objects else ""
