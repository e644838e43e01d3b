"""A new version of a large file made out of the old one: only what differs is written."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from git_theta.commands.session import Session
from git_theta.core.manifest import Manifest, parse
from git_theta.core.patching import Patch, digest_of_parts, patches
from git_theta.errors import ManifestError
from git_theta.repo.exchange import put_in_place
from git_theta.repo.keeping import Kept, Looks, alone_with, digest_of_file, find
from git_theta.repo.streams import write_at
from git_theta.repo.temporary import umask

# What is held in memory of all files that Git has not replaced yet, in bytes.
_FORESEEN = 64 << 20
# So much later, in nanoseconds, a change gives a file another time on any file system.
_RACY = 2_000_000_000


class Foreseen(NamedTuple):
    """The old file that was read, and the bytes that make the new one of it, by offset."""

    looks: Looks
    patches: list[tuple[int, bytes]]

    @property
    def size(self) -> int:
        """Bytes held in memory."""
        return sum(len(data) for _, data in self.patches)


def write_by_patching(
    session: Session,
    path: str,
    text: bytes,
    target: Path,
    advance: Callable[[int], None],
) -> bool:
    """Make a kept old file into a new one and move it to its place; says whether that was done.

    What is kept may be the new file already: a merge writes it as it goes.

    It is not done where nothing was kept, where somebody still has the old file open, or where
    the old file turns out not to have been what its manifest said.

    Raises:
        CorruptError: what is stored is not what the manifest names.
        MissingError: an object is not here.
    """
    if (path, text) not in session.ahead:
        make_ahead(session, path, text)
    made = session.ahead.pop((path, text), None)
    if made is None:
        return False
    advance(made.stat().st_size)
    put_in_place(made, target)
    return True


def make_ahead(session: Session, path: str, text: bytes) -> None:
    """Make a kept old file into a new one, to be moved to its place later, if that can be done.

    Raises:
        CorruptError: what is stored is not what the manifest names.
        MissingError: an object is not here.
    """
    kept = find(session.settings.kept, path)
    if kept is None:
        return
    manifest = parse(text)
    foreseen = session.foreseen.pop((path, text), None)
    with alone_with(kept.file) as handle:
        if handle is None:
            return
        if foreseen is not None and foreseen.looks == Looks.of(os.fstat(handle)):
            _write(handle, foreseen.patches, manifest.size)
        else:
            found = _patches(session, kept, manifest, handle)
            if found is None:
                return
            _write(handle, ((patch.offset, patch.data) for patch in found), manifest.size)
            digest = _proven(session, manifest, handle)
            if digest is None:
                return
            if not manifest.digest:
                session.catalog.keep_manifest(digest, text)
        os.fchmod(handle, 0o666 & ~umask())
    session.ahead[path, text] = kept.file


def foresee(session: Session, path: str, text: bytes, advance: Callable[[int], None]) -> None:
    """Decode what a kept file lacks that Git has not replaced yet, and prove what it will be.

    Only if it is little, which is held in memory, and the file was not changed just now: that a
    file is still the one that was read here is known by its times.

    Raises:
        CorruptError: what is stored is not what the manifest names.
        MissingError: an object is not here.
    """
    kept, manifest = find(session.settings.kept, path, names=2), parse(text)
    if kept is None or not manifest.digest:
        return
    with kept.file.open("rb", buffering=0) as file:
        handle = file.fileno()
        looks = Looks.of(os.fstat(handle))
        if looks.changed > time.time_ns() - _RACY:
            return
        room = _FORESEEN - sum(one.size for one in session.foreseen.values())
        laid = []
        for patch in _patches(session, kept, manifest, handle) or ():
            laid.append((patch.offset, bytes(patch.data)))
            room -= len(patch.data)
            if room < 0:
                return
        if digest_of_file(handle, manifest.size, laid, advance) == manifest.digest:
            session.foreseen[path, text] = Foreseen(looks, laid)


def _patches(
    session: Session, kept: Kept, manifest: Manifest, handle: int
) -> Iterator[Patch] | None:
    try:
        old = parse(kept.text)
    except ManifestError:
        return None
    if os.fstat(handle).st_size != old.size:
        return None
    threads = session.settings.threads
    return patches(old, manifest, session.store.lend, session.plugins, threads=threads)


def _write(handle: int, laid: Iterable[tuple[int, bytes | memoryview]], size: int) -> None:
    for offset, data in laid:
        write_at(handle, memoryview(data), offset)
    os.ftruncate(handle, size)


def _proven(session: Session, manifest: Manifest, handle: int) -> str | None:
    """The digest of a file that is what its manifest says, else None.

    A merged file has no digest to be compared; all of its parts have.
    """
    if manifest.digest:
        right = digest_of_file(handle, manifest.size) == manifest.digest
        return manifest.digest if right else None

    def fill(view: memoryview, at: int) -> int:
        return os.preadv(handle, [view], at)

    if os.fstat(handle).st_size != manifest.size:
        return None
    return digest_of_parts(manifest, fill, session.store.lend, session.plugins)
