"""Objects to and from remotes, carried by Git LFS inside the shadow repository.

So every server, way to log in and transfer agent that Git LFS knows works. Remotes on this
machine are read directly; only what is not found there is asked of Git LFS.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from git_theta.errors import MissingError, TransferError
from git_theta.repo import probe
from git_theta.repo.gitrepo import Repo
from git_theta.repo.neighbours import Neighbour, directory_of, is_named
from git_theta.repo.objects import Store, store_failed
from git_theta.repo.shadow import Shadow, absolute_path, batches

_ARGUMENTS = 500
# What Git LFS says of objects that are nowhere, and what of its lines may hold any words at all.
_MISSING = re.compile(
    r"missing object|object does not exist|\[404\]|HTTP 404|object not found", re.IGNORECASE
)
_ADDRESSES = re.compile(r"\w+://\S+|\"[^\"]*\"|'[^']*'|\b[0-9a-f]{40,}\b")


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch could not bring, and why, in the words of Git LFS."""

    missing: dict[str, int] = field(default_factory=dict)
    said: str = ""
    unreachable: bool = False
    hint: str = ""


class Lfs:
    """Moves objects between the store of a repository and its remotes."""

    def __init__(self, repo: Repo, store: Store) -> None:
        self.repo = repo
        self.store = store
        self.shadow = Shadow(repo, store)

    def name(self, remote: str) -> str:
        """What Git LFS is told: a remote's name, or a URL without relative paths."""
        return remote if is_named(self.repo, remote) else _url(absolute_path(self.repo, remote))

    # --- fetching --------------------------------------------------------------------------------

    def fetch(self, remote: str, wanted: Mapping[str, int]) -> Fetched:
        """Bring objects from one remote, in one batch.

        Git LFS checks the sha256 of what it downloads; sizes are checked here. What is taken from
        a directory on this machine is checked for its size, and by digest when it is decoded.

        Raises:
            TransferError: Git LFS is needed and not installed.
        """
        missing = self.store.lacking(wanted)
        if missing:
            directory = directory_of(self.repo, remote)
            if directory is not None:
                missing = Neighbour.at(directory).lend(self.store, missing)
        if not missing:
            return Fetched()
        return self._download(remote, missing)

    def _download(self, remote: str, missing: Mapping[str, int]) -> Fetched:
        self.store.hold()
        self.shadow.create()
        with self._pointers(missing) as (commit, objects):
            # The filters of the configuration name paths of the user's tree, which is not ours.
            code, said = self.shadow.lfs(
                "fetch", "-I", "", "-X", "", self.name(remote), commit, extra=objects
            )
        left = self.store.lacking(missing)
        unreachable = bool(code) and not says_missing(said)
        return Fetched(left, said if left else "", bool(left) and unreachable)

    @contextmanager
    def _pointers(self, wanted: Mapping[str, int]) -> Iterator[tuple[str, dict[str, str]]]:
        """A commit of pointers, in an object database of its own that lives as long."""
        with self.store.temporary_directory("pointers-") as scratch:
            try:
                commit = _write_pointers(scratch, wanted)
            except OSError as error:
                store_failed(error, f"{scratch} cannot be written")
            yield commit, {"GIT_OBJECT_DIRECTORY": str(scratch)}

    def lacking_at(self, remote: str, wanted: Mapping[str, int]) -> Fetched:
        """Those objects, not here, that a remote lacks. What cannot be asked for is fetched."""
        there = self._target(remote)
        wanted = {oid: size for oid, size in wanted.items() if not there.has(oid, size)}
        if not wanted:
            return Fetched()
        answer = probe.lacking(self.shadow, self.name(remote), wanted)
        return self.fetch(remote, wanted) if answer is None else Fetched(answer)

    def known_at(self, remote: str, wanted: Mapping[str, int]) -> set[str] | None:
        """Those objects that a remote has, or None where it cannot be asked without fetching."""
        there = self._target(remote)
        found = {oid for oid, size in wanted.items() if there.has(oid, size)}
        rest = {oid: size for oid, size in wanted.items() if oid not in found}
        if not rest:
            return found
        if directory_of(self.repo, remote) and not self.shadow.is_diverted(remote):
            return found
        answer = probe.lacking(self.shadow, self.name(remote), rest)
        return None if answer is None else found | (rest.keys() - answer.keys())

    def _target(self, remote: str) -> Neighbour:
        """The objects of a remote on this disk; none where they go to an LFS server instead."""
        directory = directory_of(self.repo, remote, push=True)
        if directory is None or self.shadow.is_diverted(remote):
            return Neighbour(())
        return Neighbour.at(directory)

    # --- pushing ---------------------------------------------------------------------------------

    def push(self, remote: str, wanted: Mapping[str, int]) -> int:
        """Upload objects that are here; returns how many the remote was asked to take.

        Raises:
            MissingError: one is not here whole.
            TransferError: the remote did not take them, or Git LFS is not installed.
        """
        there = self._target(remote)
        asked = {oid: size for oid, size in wanted.items() if not there.has(oid, size)}
        if not asked:
            return 0
        self._own(asked)
        self.shadow.create()
        code, said = self._push(self.name(remote), list(asked))
        if code:
            above = f":\n{said}" if said else "; Git LFS says above why"
            raise TransferError(
                f"{remote} did not take the objects{above}",
                hint="nothing was pushed; try again when the remote can be reached",
            )
        return len(asked)

    def _own(self, wanted: Mapping[str, int]) -> None:
        """Git LFS reads this store only, not those that it borrows from."""
        borrowed = {o: n for o, n in wanted.items() if not self.store.path(o).is_file()}
        for oid in Neighbour(self.store.alternates).lend(self.store, borrowed):
            raise MissingError(f"object {oid[:16]} is not here", hint="run git theta fetch --all")

    def _push(self, remote: str, oids: list[str]) -> tuple[int, str]:
        text = "".join(f"{oid}\n" for oid in oids).encode()
        code, said = self.shadow.lfs("push", "--object-id", "--stdin", remote, stdin=text)
        if not code or "unknown flag" not in said:
            return code, said
        for part in batches(oids, _ARGUMENTS):
            code, said = self.shadow.lfs("push", "--object-id", remote, *part)
            if code:
                break
        return code, said


def says_missing(said: str) -> bool:
    """Whether Git LFS says that objects are nowhere, rather than that it could not ask.

    Ports, paths and object names are not looked at: any of them may have a 404 in it.
    """
    return bool(_MISSING.search(_ADDRESSES.sub("", said)))


def _url(remote: str) -> str:
    return f"file://{remote}" if remote.startswith("/") else remote


def _write_pointers(objects: Path, wanted: Mapping[str, int]) -> str:
    """Write pointers, a tree and a commit as loose objects; returns the commit's id."""
    tree = []
    for oid, size in sorted(wanted.items()):
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n"
        blob = _write_object(objects, b"blob", text.encode())
        tree.append(b"100644 " + oid.encode() + b"\0" + bytes.fromhex(blob))
    root = _write_object(objects, b"tree", b"".join(tree))
    who = "git-theta <git-theta> 0 +0000"
    text = f"tree {root}\nauthor {who}\ncommitter {who}\n\npointers\n"
    return _write_object(objects, b"commit", text.encode())


def _write_object(objects: Path, kind: bytes, data: bytes) -> str:
    whole = kind + b" %d\0" % len(data) + data
    name = hashlib.sha1(whole, usedforsecurity=False).hexdigest()
    path = objects / name[:2] / name[2:]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(zlib.compress(whole, 1))
    return name
