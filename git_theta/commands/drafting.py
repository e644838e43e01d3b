"""The merged file itself, written while it is computed, so that nobody has to restore it.

The frame of our side says where each tensor will probably lie. What was written for another place,
or not at all, is written at the end, when the real frame is known. The filter proves every byte
before the file comes into the work tree.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from git_theta.core.assembly import Version
from git_theta.core.chain import Bytes
from git_theta.core.checkpoint import file_parts
from git_theta.core.manifest import Chunk, Segment, Tensor
from git_theta.core.skeleton import Skeleton
from git_theta.repo.streams import open_regular, write_at


class Draft:
    """A file that comes into being. A disk that fails or is full only means that there is none.

    `replaced` is the file whose place it will take.
    """

    def __init__(self, file: Path, frame: Version, replaced: Path | None = None) -> None:
        self._places: dict[str, int] = {}
        for index, key in enumerate(frame.keys):
            for name in (key,) if isinstance(key, str) else key if isinstance(key, tuple) else ():
                self._places[name] = frame.file.offset(index)
        self._written: dict[int, str] = {}
        self._failed = False
        try:
            self._handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except OSError:
            self._handle, self._failed = -1, True
        self._replaced = None if replaced is None or self._failed else open_regular(replaced)

    def write(self, names: Sequence[str], start: int, plain: Bytes, digest: str) -> None:
        """Write a chunk of a tensor, or of tied ones. Called from several threads."""
        places = {self._places[name] for name in names if name in self._places}
        for place in () if self._failed else places:
            self._forget(place + start, len(plain))
            self._put(place + start, plain.data)
            self._written[place + start] = digest

    def old_places(self, tensors: Mapping[str, Tensor]) -> dict[str, int]:
        """Where the file that goes should hold the chunks of some tensors, by digest."""
        found: dict[str, int] = {}
        for name in self._places.keys() & tensors.keys() if self._replaced is not None else ():
            at = self._places[name]
            for chunk in tensors[name].segment.chunks:
                found[chunk.digest] = at
                at += chunk.size
        return found

    def read_old(self, at: int, out: Bytes) -> bool:
        """Read a part of the file that goes; says whether it was there."""
        if self._replaced is None:
            return False
        try:
            return os.preadv(self._replaced, [out.data], at) == len(out)
        except OSError:
            return False

    def finish(
        self, skeleton: Skeleton, segments: Sequence[Segment], read: Callable[[Chunk], Bytes]
    ) -> bool:
        """Write what is still lacking; says whether the file is whole."""
        if self._failed or skeleton.runs is None:
            return False
        at = 0
        for part in file_parts(skeleton, list(segments)):
            if part.chunk is None:
                self._put(at, part.data or memoryview(b""))
            elif self._written.get(at) != part.chunk.digest:
                self._put(at, read(part.chunk).data)
            at += part.size
        if not self._failed:
            os.ftruncate(self._handle, at)
        return not self._failed

    def close(self) -> None:
        """Let the file go."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        if self._replaced is not None:
            os.close(self._replaced)
            self._replaced = None

    def _forget(self, at: int, size: int) -> None:
        """Let the system use what it holds of the old file in memory for the new one.

        The old file goes in a moment. Memory that was not used for long is slow to come by, most of
        all on a virtual machine; that which comes free is at hand.
        """
        if self._replaced is not None and hasattr(os, "posix_fadvise"):
            with suppress(OSError):
                os.posix_fadvise(self._replaced, at, size, os.POSIX_FADV_DONTNEED)

    def _put(self, at: int, data: memoryview) -> None:
        try:
            write_at(self._handle, data, at)
        except OSError:
            self._failed = True
