"""Old versions of files, kept while Git replaces them, to be made into new ones.

What is kept is a second link, whose bytes are in memory if they were. A file may be changed in
place only while nobody else looks at it: a program that has mapped the old model must go on seeing
the old model. Linux says so by a lease. Where it gives none, or the file has another name, a copy
that shares its blocks is kept, where the file system has such; else the old file is not used.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from blake3 import blake3

from git_theta.repo import temporary

_BLOCK = 4 << 20  # still in a cache when it is digested
_PREFIX = "kept-"
_CLONE = 0x40049409  # FICLONE of linux/fs.h


class Looks(NamedTuple):
    """Which file it is, and when it was changed."""

    inode: int
    size: int
    changed: int

    @classmethod
    def of(cls, stat: os.stat_result) -> Looks:
        """Of what the system says of a file."""
        return cls(stat.st_ino, stat.st_size, stat.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Kept:
    """The old file at a path, and the manifest that it should be the file of."""

    file: Path
    text: bytes


@contextmanager
def directory_in(scratch: Path) -> Iterator[Path]:
    """A new directory for kept files, removed afterwards; those of killed processes go first."""
    temporary.sweep(scratch, f"{_PREFIX}*")
    with temporary.new_directory(scratch, _PREFIX) as made:
        yield made


def keep(
    directory: Path, path: str, target: Path, text: bytes
) -> Literal["cloned", "linked"] | None:
    """Keep a work-tree file in a directory, with its manifest; says how, if that was possible."""
    name = place_for(directory, path)
    try:
        if target.is_symlink():
            return None
        describe(directory, path, text)
        if target.stat().st_nlink == 1 and _is_free(target):
            with suppress(OSError):  # a disk without links
                os.link(target, name)
                return "linked"
        return "cloned" if _clone(target, name) else None
    except OSError:  # another disk
        return None


def _is_free(target: Path) -> bool:
    with alone_with(target) as handle:
        return handle is not None


def _clone(source: Path, target: Path) -> bool:
    """Make a copy that shares its blocks with the source, where the file system can."""
    with target.open("xb") as copy:
        try:
            with source.open("rb") as file:
                fcntl.ioctl(copy, _CLONE, file.fileno())
        except OSError:
            target.unlink()
            return False
    return True


def describe(directory: Path, path: str, text: bytes) -> None:
    """Say which manifest the file that is kept of a path is the file of."""
    place_for(directory, path).with_suffix(".manifest").write_bytes(text)


def find(directory: Path | None, path: str, *, names: int = 1) -> Kept | None:
    """What was kept of a path, if it has so many names: two until Git has replaced the file."""
    if directory is None:
        return None
    name = place_for(directory, path)
    try:
        if name.stat().st_nlink != names:
            return None
        return Kept(name, name.with_suffix(".manifest").read_bytes())
    except OSError:
        return None


def place_for(directory: Path, path: str) -> Path:
    """Where a directory keeps the file of a path."""
    return directory / hashlib.sha256(os.fsencode(path)).hexdigest()


@contextmanager
def alone_with(file: Path) -> Iterator[int | None]:
    """Open a file for writing if no other process has it open or mapped, else yield None."""
    handle = -1
    try:
        handle = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except (OSError, AttributeError):  # somebody has it; or this system has no leases
        if handle >= 0:
            os.close(handle)
        yield None
        return
    try:
        yield handle
    finally:
        with suppress(OSError):
            fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        os.close(handle)


def digest_of_file(
    handle: int,
    size: int,
    over: Sequence[tuple[int, bytes]] = (),
    advance: Callable[[int], None] = lambda _: None,
) -> str:
    """BLAKE3 of the first `size` bytes of an open file, with others laid over it in file order."""
    whole = blake3(max_threads=blake3.AUTO)
    steps = list(_steps(size, over))
    read = _read_ahead(handle, [(at, length) for at, length, data in steps if data is None])
    for _, length, data in steps:
        if data is not None:
            whole.update(data)
            continue
        part = next(read)
        whole.update(part)
        advance(len(part))
        if len(part) < length:  # the file is shorter than that
            break
    return whole.hexdigest()


def _steps(size: int, over: Sequence[tuple[int, bytes]]) -> Iterator[tuple[int, int, bytes | None]]:
    """Places in file order, and what is laid over them; None where the file itself is read."""
    at = 0
    for start, data in (*over, (size, b"")):
        for place in range(at, start, _BLOCK):
            yield place, min(_BLOCK, start - place), None
        yield start, len(data), data
        at = start + len(data)


def _read_ahead(handle: int, places: Iterable[tuple[int, int]]) -> Iterator[memoryview]:
    """What a file has at some places, up to its end; each is valid until the next is asked for.

    While one is looked at, another thread reads the next.
    """
    from concurrent.futures import Future, ThreadPoolExecutor

    rooms = [memoryview(bytearray(_BLOCK)) for _ in range(2)]
    coming: Future[memoryview] | None = None
    with ThreadPoolExecutor(1) as pool:
        for number, (at, length) in enumerate(places):
            following = pool.submit(_read, handle, rooms[number % 2][:length], at)
            if coming is not None:
                yield coming.result()
            coming = following
        if coming is not None:
            yield coming.result()


def _read(handle: int, room: memoryview, at: int) -> memoryview:
    return room[: os.preadv(handle, [room], at)]
