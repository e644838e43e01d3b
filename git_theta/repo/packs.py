"""Records are gathered into packs: objects of about 32 MiB, named once they are finished."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from git_theta.core.manifest import Place
from git_theta.core.payload import OBJECT_MAGIC, Buffer
from git_theta.errors import ThetaError
from git_theta.repo.objects import Store, store_failed
from git_theta.repo.streams import write_fully

PACK = 32 << 20
_SMALL = 64 << 10
_GATHERED = 1 << 20


class Spot(NamedTuple):
    """Where a record will lie once its pack has a name."""

    pack: int
    offset: int
    size: int


class _Pack:
    """One pack, written at once, or in a thread of its own that takes one buffer after another."""

    def __init__(self, store: Store, announce: Callable[[str], None] | None, own: bool) -> None:
        self._store = store
        self._announce = announce
        self._handle, self._path = store.temporary()
        self._sha = hashlib.sha256()
        self._lane = ThreadPoolExecutor(1) if own else None
        self._failed: BaseException | None = None
        self.last: Future[None] | None = None
        self.size = 0
        self.oid = ""

    def put(self, buffers: list[Buffer]) -> None:
        """Write some buffers, now or soon; they must stay as they are.

        The list is used up, so that each can be given back once it is written.
        """
        buffers.reverse()
        self._do(self._put, buffers)

    def close(self) -> None:
        """Give the pack its name once all is written."""
        self._do(self._land)
        if self._lane is not None:
            self._lane.shutdown(wait=False)

    def wait(self) -> None:
        """Wait until all that was put is written; raises what went wrong with that."""
        if self.last is not None:
            self.last.result()

    def abandon(self) -> None:
        """Remove it, unless it has landed."""
        if self._lane is not None:
            self._lane.shutdown(cancel_futures=True)
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
            self._path.unlink(missing_ok=True)

    def _do(self, work: Callable[..., None], *values: list[Buffer]) -> None:
        if self._lane is None:
            work(*values)
        else:
            self.last = self._lane.submit(self._unless_failed, work, *values)

    def _unless_failed(self, work: Callable[..., None], *values: list[Buffer]) -> None:
        """Do what comes next, if all before it was done; else say once more what went wrong."""
        if self._failed is not None:
            raise self._failed
        try:
            work(*values)
        except BaseException as error:
            self._failed = error
            raise

    def _put(self, buffers: list[Buffer]) -> None:
        while buffers:
            view = memoryview(buffers.pop())
            try:
                write_fully(self._handle, view)
            except OSError as error:
                store_failed(error, "the object store cannot be written")
            self._sha.update(view)

    def _land(self) -> None:
        oid = self._sha.hexdigest()
        if self._announce is not None and not self._store.path(oid).exists():
            self._announce(oid)
        self._store.land(self._path, self._handle, oid)
        os.close(self._handle)
        self._handle = -1
        self.oid = oid


class PackWriter:
    """Appends records to packs of about `PACK` bytes; not for use from several threads.

    Use as a context manager: an exception removes what has not landed. `announce` is told the name
    of each object that is not here yet, before it lands.

    With `lanes`, so many packs are written at a time, each in a thread of its own: to hash and to
    write takes longer than to encode. What is appended then must never change, and a failure to
    write it shows in `writing` and in `finish`.
    """

    def __init__(
        self,
        store: Store,
        *,
        limit: int = PACK,
        announce: Callable[[str], None] | None = None,
        lanes: int = 0,
    ) -> None:
        self._store = store
        self._limit = limit
        self._announce = announce
        self._lanes = lanes
        self._packs: list[_Pack] = []
        self._open: _Pack | None = None
        self._waiting = bytearray()

    def __enter__(self) -> PackWriter:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            self.finish()
        else:
            self.abandon()

    @property
    def finished(self) -> list[tuple[str, int]]:
        """The packs that have landed: their names and sizes."""
        return [(pack.oid, pack.size) for pack in self._packs if pack.oid]

    def append(self, buffers: Sequence[Buffer]) -> Spot:
        """Add one record; its object has a name only after `finish`."""
        length = sum(map(len, buffers))
        pack = self._open
        if pack is not None and pack.size + length > 2 * self._limit - (1 << 20):
            self._close_pack(pack)
            pack = None
        if pack is None:
            pack = self._open_pack()
        spot = Spot(len(self._packs) - 1, pack.size, length)
        self._write(pack, buffers)
        if pack.size >= self._limit:
            self._close_pack(pack)
        return spot

    def writing(self) -> Future[None] | None:
        """What is done once all that was appended last is written; None where it is already."""
        return self._packs[-1].last if self._packs else None

    def place(self, spot: Spot) -> Place:
        """Where a record lies, once its pack is finished."""
        return Place(self._packs[spot.pack].oid, spot.offset, spot.size)

    def finish(self) -> None:
        """Give the last pack its name."""
        if self._open is not None:
            self._close_pack(self._open)
        try:
            for pack in self._packs[-self._lanes :] if self._lanes else ():
                pack.wait()
        except ThetaError:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Remove the packs being written; finished ones stay until a collection takes them."""
        self._open = None
        self._waiting = bytearray()
        for pack in self._packs:
            pack.abandon()

    def _open_pack(self) -> _Pack:
        if 0 < self._lanes <= len(self._packs):
            self._packs[-self._lanes].wait()
        pack = self._open = _Pack(self._store, self._announce, self._lanes > 0)
        self._packs.append(pack)
        self._write(pack, [OBJECT_MAGIC])
        return pack

    def _write(self, pack: _Pack, buffers: Sequence[Buffer]) -> None:
        """Add bytes to the pack; small ones wait, so that a system call writes many records.

        The others go together: to hand a buffer to a thread costs as much as to write a small one.
        """
        ready: list[Buffer] = []
        for buffer in buffers:
            pack.size += len(buffer)
            if len(buffer) > _SMALL:
                ready += [*self._taken(), buffer]
            else:
                self._waiting += buffer
        if len(self._waiting) > _GATHERED:
            ready += self._taken()
        self._put(pack, ready)

    def _taken(self) -> list[Buffer]:
        """What waited, if anything did; it waits no longer."""
        waiting, self._waiting = self._waiting, bytearray()
        return [waiting] if waiting else []

    def _put(self, pack: _Pack, buffers: list[Buffer]) -> None:
        if not buffers:
            return
        try:
            pack.put(buffers)
        except ThetaError:
            self.abandon()
            raise

    def _close_pack(self, pack: _Pack) -> None:
        self._put(pack, self._taken())
        try:
            pack.close()
        except ThetaError:
            self.abandon()
            raise
        self._open = None
