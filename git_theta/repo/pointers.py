"""Git LFS in the user's own repository: pointers, and the files that they stand for.

For moving in and out of Git LFS. What git-theta stores itself never comes this way.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from git_theta.errors import CorruptError, RefusedError
from git_theta.repo import remotes
from git_theta.repo.gitrepo import GitError, Repo, run_git
from git_theta.repo.objects import store_failed
from git_theta.repo.rewrite import ObjectWriter, TreeEntry, tree_bytes

LIMIT = 1024
_VERSION = re.compile(
    rb"version https?://(?:git-lfs\.github\.com/spec/v1|hawser\.github\.com/spec/v1"
    rb"|git-media\.io/v/2)\r?\n"
)
_OID = re.compile(rb"^oid sha256:([0-9a-f]{64})\r?$", re.MULTILINE)
_SIZE = re.compile(rb"^size (\d{1,18})\r?$", re.MULTILINE)
_EXTENSION = re.compile(rb"^ext-", re.MULTILINE)
_BLOCK = 1 << 20


class Pointer(NamedTuple):
    """What a Git LFS pointer says: sha256 and size of the file."""

    oid: str
    size: int


def read_pointer(text: bytes) -> Pointer | None:
    """The pointer that a blob is, or None.

    Raises:
        RefusedError: it needs an extension of Git LFS, which only Git LFS can run.
    """
    if len(text) >= LIMIT or not _VERSION.match(text):
        return None
    oid, size = _OID.search(text), _SIZE.search(text)
    if oid is None or size is None:
        return None
    if _EXTENSION.search(text):
        raise RefusedError(
            "a pointer of Git LFS names an extension (ext-...)",
            hint="check such files out with Git LFS and commit them without it, or leave them out",
        )
    return Pointer(oid[1].decode(), int(size[1]))


def pointer_text(pointer: Pointer) -> bytes:
    """The pointer as Git LFS writes it."""
    return (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{pointer.oid}\n"
        f"size {pointer.size}\n"
    ).encode()


def sha256_of(handle: int) -> Pointer:
    """Digest and size of an open file, read from its beginning."""
    sha, size = hashlib.sha256(), 0
    while block := os.pread(handle, _BLOCK, size):
        sha.update(block)
        size += len(block)
    return Pointer(sha.hexdigest(), size)


class LfsFiles:
    """The files that Git LFS keeps for a repository on this machine."""

    def __init__(self, repo: Repo) -> None:
        self._repo = repo
        self.own, self._others = _directories(repo)

    def path(self, oid: str) -> Path:
        """Where a file lies in the repository's own directory, whether it is there or not."""
        return self.own / oid[:2] / oid[2:4] / oid

    def find(self, pointer: Pointer) -> Path | None:
        """The file of a pointer that has the right size, or None."""
        for media in (self.own, *self._others):
            path = media / pointer.oid[:2] / pointer.oid[2:4] / pointer.oid
            try:
                if path.stat().st_size == pointer.size:
                    return path
            except OSError:
                continue
        return None

    def lacking(self, pointers: Iterable[Pointer]) -> dict[str, Pointer]:
        """Those pointers whose files are not here, by sha256; an empty file needs none."""
        return {p.oid: p for p in pointers if p.size and self.find(p) is None}

    def fetch(self, pointers: Mapping[str, Pointer]) -> str:
        """Have Git LFS bring files from the remotes, one after another; what it said in the end.

        It is given a commit of pointers, which no ref names.
        """
        told: list[str] = []
        commit = self._commit_of(pointers.values())
        for remote in remotes.preferred(self._repo):
            if not self.lacking(pointers.values()):
                break
            try:
                run_git(["lfs", "fetch", "-I", "", "-X", "", remote, commit], cwd=self._repo.cwd)
            except GitError as error:
                told.append(f"{remote}: {error}")
        return "\n".join(told)

    def _commit_of(self, pointers: Iterable[Pointer]) -> str:
        writer = ObjectWriter(self._repo)
        entries = [
            TreeEntry("100644", p.oid.encode(), writer.write("blob", pointer_text(p)))
            for p in pointers
        ]
        tree = writer.write("tree", tree_bytes(entries))
        who = "git-theta <git-theta> 0 +0000"
        text = f"tree {tree}\nauthor {who}\ncommitter {who}\n\npointers\n"
        commit = writer.write("commit", text.encode())
        writer.flush()
        return commit

    def land(self, temporary: Path, handle: int, pointer: Pointer, *, sync: bool) -> None:
        """Give a finished file its name, and read it there.

        Raises:
            CorruptError: it is not what the pointer says.
        """
        target = self.path(pointer.oid)
        try:
            if sync:
                os.fsync(handle)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.replace(target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                part = target.with_name(f"{target.name}.{os.getpid()}")  # on another disk
                shutil.copyfile(temporary, part)
                part.replace(target)
            with target.open("rb") as file:
                if sha256_of(file.fileno()) != pointer:
                    raise CorruptError(f"{target} is not what was written; is the disk sound?")
        except OSError as error:
            store_failed(error, f"{target} cannot be written")


def _directories(repo: Repo) -> tuple[Path, list[Path]]:
    """Where Git LFS keeps files here, and those it borrows from.

    Git LFS says so itself; without it, what its documentation says.
    """
    told = run_git(["lfs", "env"], cwd=repo.cwd, check=False).decode(errors="surrogateescape")
    said: dict[str, list[Path]] = {}
    for line in told.splitlines():
        name, equals, value = line.partition("=")
        if equals and value:
            said.setdefault(name, []).append(repo.cwd / value)
    storage = repo.config.get("lfs.storage")
    usual = (repo.common_dir / storage if storage else repo.common_dir / "lfs") / "objects"
    own = said.get("LocalMediaDir", [usual])[0]
    return own, said.get("LocalReferenceDirs", [])
