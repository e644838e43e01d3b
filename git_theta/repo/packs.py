"""Records are gathered into packs: objects of about 32 MiB, named once they are finished."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from git_theta.core.manifest import Place
from git_theta.core.payload import OBJECT_MAGIC, Buffer
from git_theta.errors import ThetaError
from git_theta.repo.objects import Store, store_failed, write_all

PACK = 32 << 20
_SMALL = 64 << 10
_GATHERED = 1 << 20


class Spot(NamedTuple):
    """Where a record will lie once its pack has a name."""

    pack: int
    offset: int
    size: int


class PackWriter:
    """Appends records to packs of about `PACK` bytes; not for use from several threads.

    Use as a context manager: an exception removes what has not landed. `announce` is told the name
    of each object that is not here yet, before it lands.
    """

    def __init__(
        self, store: Store, *, limit: int = PACK, announce: Callable[[str], None] | None = None
    ) -> None:
        self._store = store
        self._limit = limit
        self._announce = announce
        self._handle = -1
        self._path = Path()
        self._size = 0
        self._sha = hashlib.sha256()
        self._waiting = bytearray()
        self.finished: list[tuple[str, int]] = []

    def __enter__(self) -> PackWriter:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            self.finish()
        else:
            self.abandon()

    @property
    def written(self) -> int:
        """Bytes in packs, finished or not."""
        return self._size + sum(size for _, size in self.finished)

    def append(self, buffers: Sequence[Buffer]) -> Spot:
        """Add one record; its object has a name only after `finish`."""
        length = sum(map(len, buffers))
        if self._size and self._size + length > 2 * self._limit - (1 << 20):
            self._close_pack()
        if not self._size:
            self._open_pack()
        spot = Spot(len(self.finished), self._size, length)
        self._write(buffers)
        if self._size >= self._limit:
            self._close_pack()
        return spot

    def place(self, spot: Spot) -> Place:
        """Where a record lies, once its pack is finished."""
        return Place(self.finished[spot.pack][0], spot.offset, spot.size)

    def finish(self) -> None:
        """Give the last pack its name."""
        if self._size:
            self._close_pack()

    def abandon(self) -> None:
        """Remove the pack being written; finished ones stay until a collection takes them."""
        if self._size:
            self._size = 0
            self._waiting = bytearray()
            os.close(self._handle)
            self._path.unlink(missing_ok=True)

    def _open_pack(self) -> None:
        self._handle, self._path = self._store.temporary()
        self._sha = hashlib.sha256()
        self._write([OBJECT_MAGIC])

    def _write(self, buffers: Sequence[Buffer]) -> None:
        """Add bytes to the pack; small ones wait, so that a system call writes many records."""
        for buffer in buffers:
            self._size += len(buffer)
            if len(buffer) > _SMALL:
                self._flush()
                self._put(buffer)
            else:
                self._waiting += buffer
        if len(self._waiting) > _GATHERED:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._put(self._waiting)
            self._waiting = bytearray()

    def _put(self, buffer: Buffer) -> None:
        view = memoryview(buffer)
        try:
            write_all(self._handle, [view])
        except OSError as error:
            self.abandon()
            store_failed(error, "the object store cannot be written")
        self._sha.update(view)

    def _close_pack(self) -> None:
        self._flush()
        oid = self._sha.hexdigest()
        try:
            if self._announce is not None and not self._store.path(oid).exists():
                self._announce(oid)
            self._store.land(self._path, self._handle, oid)
        except ThetaError:
            self.abandon()
            raise
        os.close(self._handle)
        self.finished.append((oid, self._size))
        self._size = 0
