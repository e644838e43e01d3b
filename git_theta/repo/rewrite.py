"""History read and written as Git's raw objects, for commands that rewrite it.

Whatever is not changed on purpose stays as it is to the byte: names and dates, odd headers, the
order of entries, messages in any encoding. Replacements (`git replace`) are not followed.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from git_theta.errors import MissingError
from git_theta.repo.gitrepo import ObjectReader, Repo, run_git

TREE = "40000"
_KINDS = {"commit": 1, "tree": 2, "blob": 3, "tag": 4}
_BATCH_COUNT, _BATCH_BYTES = 5000, 16 << 20
_SIGNED = (b"gpgsig", b"gpgsig-sha256", b"mergetag")
_SIGNATURES = (b"-----BEGIN PGP SIGNATURE-----", b"-----BEGIN SSH SIGNATURE-----",
               b"-----BEGIN SIGNED MESSAGE-----")  # fmt: skip


class TreeEntry(NamedTuple):
    """One entry of a tree; the mode as Git writes it, without leading zeros."""

    mode: str
    name: bytes
    oid: str

    @property
    def is_file(self) -> bool:
        """Whether this is a regular file, rather than a link, a directory or a submodule."""
        return self.mode.startswith("100")


class FileEntry(NamedTuple):
    """A file of a tree, by its path from the top."""

    path: str
    mode: str
    oid: str


class RawCommit(NamedTuple):
    """A commit as it is stored."""

    tree: str
    parents: tuple[str, ...]
    raw: bytes


class History:
    """Commits, trees and tags, read through one process."""

    def __init__(self, repo: Repo) -> None:
        self._repo = repo
        self._reader = ObjectReader(repo.cwd, replaced=False)
        self._width = hashlib.new(_object_format(repo)).digest_size
        self.tree: Callable[[str], tuple[TreeEntry, ...]] = lru_cache(maxsize=4096)(self._tree)
        self.commit: Callable[[str], RawCommit] = lru_cache(maxsize=4096)(self._commit)

    def commits(self, tips: Sequence[str], excluded: Sequence[str] = ()) -> list[str]:
        """The commits that the tips reach and the excluded ones do not, parents first."""
        if not tips:
            return []
        asked = "".join([f"{tip}\n" for tip in tips] + [f"^{oid}\n" for oid in excluded])
        listing = run_git(
            ["--no-replace-objects", "rev-list", "--topo-order", "--reverse", "--stdin"],
            cwd=self._repo.cwd,
            stdin=asked.encode(),
        )
        return listing.decode().split()

    def raw(self, oid: str) -> bytes:
        """The bytes of an object.

        Raises:
            MissingError: Git does not have it.
        """
        found = self._reader.read(oid)
        if found is None:
            raise MissingError(f"Git cannot read object {oid}", hint="git fsck")
        return found[1]

    def head(self, oid: str, limit: int) -> bytes:
        """The first bytes of an object."""
        found = self._reader.read(oid, limit=limit)
        if found is None:
            raise MissingError(f"Git cannot read object {oid}", hint="git fsck")
        return found[1]

    def _commit(self, oid: str) -> RawCommit:
        raw = self.raw(oid)
        tree, parents = "", []
        for line in raw.partition(b"\n\n")[0].split(b"\n"):
            key, _, value = line.partition(b" ")
            if key == b"tree":
                tree = value.decode()
            elif key == b"parent":
                parents.append(value.decode())
        return RawCommit(tree, tuple(parents), raw)

    def _tree(self, oid: str) -> tuple[TreeEntry, ...]:
        raw = self.raw(oid)
        found, at = [], 0
        while at < len(raw):
            end = raw.index(b"\0", at)
            mode, _, name = raw[at:end].partition(b" ")
            at = end + 1 + self._width
            found.append(TreeEntry(mode.decode(), name, raw[end + 1 : at].hex()))
        return tuple(found)

    def close(self) -> None:
        """End the process."""
        self._reader.close()


class ObjectWriter:
    """Puts objects into Git's database, many at a time as one pack."""

    def __init__(self, repo: Repo) -> None:
        self._repo = repo
        self._kind = _object_format(repo)
        self._waiting: dict[str, tuple[str, bytes]] = {}
        self._seen: set[str] = set()
        self._bytes = 0

    def write(self, kind: str, data: bytes) -> str:
        """Take an object; its name. It can be read after the next `flush`."""
        whole = b"%s %d\0" % (kind.encode(), len(data))
        oid = hashlib.new(self._kind, whole + data).hexdigest()
        if oid not in self._seen:
            self._seen.add(oid)
            self._waiting[oid] = (kind, data)
            self._bytes += len(data)
            if len(self._waiting) >= _BATCH_COUNT or self._bytes >= _BATCH_BYTES:
                self.flush()
        return oid

    def flush(self) -> None:
        """Give Git what is waiting."""
        if not self._waiting:
            return
        parts = [b"PACK" + struct.pack(">II", 2, len(self._waiting))]
        for kind, data in self._waiting.values():
            parts += [_pack_header(_KINDS[kind], len(data)), zlib.compress(data, 1)]
        body = b"".join(parts)
        pack = body + hashlib.new(self._kind, body).digest()
        self._repo.git("index-pack", "--stdin", stdin=pack)
        self._waiting.clear()
        self._bytes = 0


def _object_format(repo: Repo) -> str:
    return repo.config.get("extensions.objectformat", "sha1")


def _pack_header(kind: int, size: int) -> bytes:
    first, size = kind << 4 | size & 15, size >> 4
    out = bytearray()
    while size:
        out.append(first | 0x80)
        first, size = size & 0x7F, size >> 7
    out.append(first)
    return bytes(out)


def tree_bytes(entries: Iterable[TreeEntry]) -> bytes:
    """A tree as Git stores it: sorted as if the names of directories ended in a slash."""
    ordered = sorted(entries, key=lambda e: e.name + (b"/" if e.mode == TREE else b""))
    return b"".join(b"%s %s\0%s" % (e.mode.encode(), e.name, bytes.fromhex(e.oid)) for e in ordered)


def rewritten_commit(raw: bytes, tree: str, parents: Mapping[str, str]) -> tuple[bytes, bool]:
    """A commit with another tree and other parents; whether a signature was dropped for it."""
    head, blank, message = raw.partition(b"\n\n")
    lines, dropped = [], False
    for key, line in _headers(head):
        if key == b"tree":
            lines.append(b"tree " + tree.encode())
        elif key == b"parent":
            old = line[len(b"parent ") :].decode()
            lines.append(b"parent " + parents.get(old, old).encode())
        elif key in _SIGNED:
            dropped = True
        else:
            lines.append(line)
    return b"\n".join(lines) + blank + message, dropped


def _headers(head: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Headers with the lines that go on with them."""
    whole = b""
    for line in head.split(b"\n"):
        if line.startswith(b" "):
            whole += b"\n" + line
            continue
        if whole:
            yield whole.partition(b" ")[0], whole
        whole = line
    if whole:
        yield whole.partition(b" ")[0], whole


def tag_target(raw: bytes) -> tuple[str, str]:
    """What a tag object names: (id, kind)."""
    fields = dict(line.split(b" ", 1) for line in raw.split(b"\n\n", 1)[0].split(b"\n") if line)
    return fields[b"object"].decode(), fields[b"type"].decode()


def rewritten_tag(raw: bytes, target: str) -> tuple[bytes, bool]:
    """A tag object that names another object; whether a signature was dropped for it."""
    head, blank, message = raw.partition(b"\n\n")
    lines = [
        b"object " + target.encode() if key == b"object" else line
        for key, line in _headers(head)
        if key not in _SIGNED
    ]
    starts = [at for mark in _SIGNATURES if (at := _line_start(message, mark)) >= 0]
    kept = message[: min(starts)] if starts else message
    dropped = bool(starts) or any(key in _SIGNED for key, _ in _headers(head))
    return b"\n".join(lines) + blank + kept, dropped


def _line_start(text: bytes, mark: bytes) -> int:
    if text.startswith(mark):
        return 0
    at = text.find(b"\n" + mark)
    return at + 1 if at >= 0 else -1
