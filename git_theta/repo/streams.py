"""Ways to read the bytes that Git hands over, and the work-tree file they may come from."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from blake3 import blake3

from git_theta.core.compiled import LOOPS
from git_theta.errors import RefusedError

# Git then streams what is larger, and maps no more of a pack at once.
STREAMING = (
    *("git", "-c", "core.bigFileThreshold=32m"),
    *("-c", "core.packedGitWindowSize=8m", "-c", "core.packedGitLimit=32m"),
)
_BLOCK = 1 << 20
_LOOK = 4 << 20
# For what one call writes, Linux takes memory in pieces as large as it has them. Small ones are
# those that were given back last; larger ones a virtual machine may have to ask its host for, which
# took half of the processor time of writing a large file.
_PIECE = 32 << 10


class Incoming(Protocol):
    """A stream that can be looked at before it is read.

    `file` has the same bytes and can be looked into anywhere; None for what Git hands over.
    """

    @property
    def file(self) -> FileReader | None: ...

    def head(self, size: int) -> bytes: ...

    def readinto(self, view: memoryview) -> int: ...

    def drain(self) -> None: ...


class CountedStream:
    """A stream that tells how many bytes of it were read."""

    def __init__(self, stream: Incoming, advance: Callable[[int], None]) -> None:
        self._stream = stream
        self._advance = advance
        self.file = stream.file

    def head(self, size: int) -> bytes:
        """The next bytes, without consuming them."""
        return self._stream.head(size)

    def readinto(self, view: memoryview) -> int:
        """Fill the view; fewer bytes only at the end."""
        got = self._stream.readinto(view)
        self._advance(got)
        return got

    def drain(self) -> None:
        """Read and forget the rest."""
        self._stream.drain()


class PlainStream:
    """A pipe or file read from where it stands."""

    file: FileReader | None = None

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._head = b""

    def head(self, size: int) -> bytes:
        """The next bytes, up to `size`, without consuming them."""
        while len(self._head) < size:
            more = os.read(self._handle, size - len(self._head))
            if not more:
                break
            self._head += more
        return self._head[:size]

    def readinto(self, view: memoryview) -> int:
        """Fill the view; fewer bytes only at the end."""
        done = min(len(view), len(self._head))
        view[:done] = self._head[:done]
        self._head = self._head[done:]
        while done < len(view):
            got = os.readv(self._handle, [view[done:]])
            if not got:
                break
            done += got
        return done

    def drain(self) -> None:
        """Read and forget the rest."""
        while os.read(self._handle, _BLOCK):
            pass


class HeadReader:
    """Random access to the beginning of a stream, which stays unread; for sequential formats."""

    size = None

    def __init__(self, stream: Incoming) -> None:
        self._stream = stream

    def read(self, offset: int, size: int) -> bytes:
        """Bytes from the head of the stream."""
        return self._stream.head(offset + size)[offset : offset + size]


class FileReader:
    """Random access to an open file, by `pread`: never mapped, since a truncation would kill."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.size = os.fstat(handle).st_size

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`."""
        return os.pread(self.handle, max(0, min(size, self.size - offset)), offset)


class FileStream(PlainStream):
    """A file that nobody else writes: read as a stream, and looked into as it is."""

    def __init__(self, handle: int) -> None:
        super().__init__(handle)
        self.file = FileReader(handle)


class StreamDiffers(Exception):  # noqa: N818 - not an error: the caller takes another way
    """The stream is not the work-tree file; `tail` was read of it and is nowhere else."""

    def __init__(self, tail: bytes) -> None:
        super().__init__()
        self.tail = tail


class ComparedStream:
    """A stream that is checked, byte for byte, against the file that was looked into."""

    def __init__(self, stream: Incoming, file: FileReader) -> None:
        self._stream = stream
        self.file = file
        self._check = bytearray(_BLOCK)
        self.equal = 0
        self.hasher = blake3()

    def readinto(self, view: memoryview) -> int:
        """Fill the view from the stream.

        Raises:
            StreamDiffers: file and stream part within these bytes.
        """
        got = self._stream.readinto(view)
        ended = got < len(view)
        same = self._same(view[:got])
        if same and ended:
            same = self.equal + got == self.file.size
        if not same:
            raise StreamDiffers(bytes(view[:got]))
        self.hasher.update(view[:got])
        self.equal += got
        return got

    def _same(self, view: memoryview) -> bool:
        for start in range(0, len(view), _BLOCK):
            part = view[start : start + _BLOCK]
            if not is_there(self.file.handle, self.equal + start, part, self._check):
                return False
        return True


def is_there(handle: int, offset: int, part: memoryview, room: bytearray) -> bool:
    """Whether a file has these bytes at a place; `room` has space for them."""
    check = memoryview(room)[: len(part)]
    if os.preadv(handle, [check], offset) != len(part):
        return False
    # A comparison of bytearrays is one of memory; that of views goes item by item.
    return (room if len(check) == len(room) else bytearray(check)) == part


class SeenStream:
    """A stream that may be looked through to its end, and read all the same.

    What was seen is not kept: it is read again from the work-tree file that it was compared with,
    and must then have the same digest.
    """

    file: None = None

    def __init__(self, stream: Incoming, handle: int) -> None:
        self._stream = stream
        self._handle = handle
        self._seen = blake3()
        self._again = blake3()
        self._equal = 0
        self._at = 0
        self._tail = b""

    def look(self) -> str | None:
        """The digest of the whole stream, or None where it is not the file."""
        buffer, room = bytearray(_LOOK), bytearray(_LOOK)
        while got := self._stream.readinto(memoryview(buffer)):
            part = memoryview(buffer)[:got]
            if not is_there(self._handle, self._equal, part, room):
                self._tail = bytes(part)
                return None
            self._seen.update(part)
            self._equal += got
        return self._seen.hexdigest()

    def head(self, size: int) -> bytes:
        """The next bytes, up to `size`, without consuming them."""
        found = os.pread(self._handle, max(0, min(size, self._equal - self._at)), self._at)
        if self._at + len(found) == self._equal and len(found) < size:
            found += self._tail[: size - len(found)]
            found += self._stream.head(size - len(found))
        return found[:size]

    def readinto(self, view: memoryview) -> int:
        """Fill the view; fewer bytes only at the end.

        Raises:
            RefusedError: the file is no longer what was seen.
        """
        done = 0
        while done < len(view) and self._at < self._equal:
            done += self._reread(view[done : done + self._equal - self._at])
        part = self._tail[: len(view) - done]
        view[done : done + len(part)] = part
        self._tail = self._tail[len(part) :]
        done += len(part)
        return done + self._stream.readinto(view[done:]) if done < len(view) else done

    def _reread(self, view: memoryview) -> int:
        got = os.preadv(self._handle, [view], self._at)
        self._again.update(view[:got])
        self._at += got
        ended = self._at == self._equal
        if not got or (ended and self._again.digest() != self._seen.digest()):
            raise RefusedError(
                "the file changed while it was being read", hint="run the command again"
            )
        return got

    def drain(self) -> None:
        """Forget the rest."""
        self._at, self._tail = self._equal, b""
        self._stream.drain()


def spool(stream: Incoming, handle: int) -> None:
    """Write the rest of a stream into a file."""
    buffer = memoryview(bytearray(_BLOCK))
    while got := stream.readinto(buffer):
        write_fully(handle, buffer[:got])


def copy_proven(compared: ComparedStream, source: FileReader, handle: int) -> bool:
    """Copy what file and stream had in common into another file; False if it changed since."""
    hasher = blake3()
    for start in range(0, compared.equal, _BLOCK):
        part = source.read(start, min(_BLOCK, compared.equal - start))
        hasher.update(part)
        write_fully(handle, memoryview(part))
    return hasher.digest() == compared.hasher.digest()


def write_fully(handle: int, view: memoryview) -> None:
    """`os.write` until everything is written."""
    if LOOPS is not None:
        LOOPS.write(handle, view, -1, _PIECE)
        return
    for start in range(0, len(view), _PIECE):
        piece = view[start : start + _PIECE]
        while piece:
            piece = piece[os.write(handle, piece) :]


def write_at(handle: int, view: memoryview, offset: int) -> None:
    """`os.pwrite` until everything is written."""
    if LOOPS is not None:
        LOOPS.write(handle, view, offset, _PIECE)
        return
    while view:
        done = os.pwrite(handle, view[:_PIECE], offset)
        view, offset = view[done:], offset + done


def open_regular(path: Path) -> int | None:
    """Open a regular file for reading, or return None."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    import stat

    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        return None
    return handle


def blob_into(cwd: Path, blob: str, handle: int) -> None:
    """Write a blob of Git's, whatever its size, into an open file."""
    subprocess.run(
        [*STREAMING, "cat-file", "blob", blob],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=handle,
        check=True,
    )
