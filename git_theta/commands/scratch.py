"""A file that is not stored (a work-tree file, a raw blob) seen as if it were: one pass, no trace.

The manifest made here names nothing that exists; its chunks are read from the file again, and
its summaries are kept in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from git_theta.commands.clean import recognise
from git_theta.commands.session import Session
from git_theta.core.chain import Bytes, Encoded, Slice, digest_of
from git_theta.core.clean import OPAQUE, Cleaner, Tools, Whole
from git_theta.core.feeds import ChunkFeed, Feed, LayoutFeed
from git_theta.core.layout import Layout
from git_theta.core.manifest import Chunk, Manifest, Place
from git_theta.core.payload import Buffer, Header, body
from git_theta.core.sketch import Summary
from git_theta.core.sketch import unpack as unpack_summary
from git_theta.core.splitting import BytesSource, side_by_side, split_proven
from git_theta.core.units import plan
from git_theta.errors import CorruptError, FormatError, MissingError
from git_theta.repo.streams import FileReader, PlainStream

_HEAD = 4096
_NOWHERE = "0" * 64


@dataclass(eq=False)
class _Forgetful:
    """An update that keeps nothing of a chunk but, when told to, its plain bytes."""

    name: ClassVar[str] = "dense"
    needs_base: ClassVar[bool] = False
    keeping: bool = False
    kept: list[bytes] = field(default_factory=list)

    def estimate(self, new: Slice, base: Bytes | None) -> float | None:  # noqa: ARG002
        return 0.0

    def encode(self, new: Slice, base: Bytes | None) -> Encoded | None:  # noqa: ARG002
        if self.keeping:
            self.kept.append(new.data.tobytes())
        return Encoded(frames=[], cut=new.cut, block=0)

    def decode(
        self,
        header: Header,  # noqa: ARG002
        frames: Iterator[memoryview],  # noqa: ARG002
        base: Bytes | None,  # noqa: ARG002
        out: Bytes,  # noqa: ARG002
    ) -> None:
        raise CorruptError("nothing was stored")


class _Kept:
    """A pack in memory; its records are numbered."""

    def __init__(self) -> None:
        self.records: list[bytes] = []

    def append(self, buffers: Sequence[Buffer]) -> int:
        self.records.append(b"".join(buffers))
        return len(self.records) - 1

    def place(self, spot: int) -> Place:
        return Place(_NOWHERE, spot, 1)

    def finish(self) -> None:
        """There is nothing to name."""


@dataclass(frozen=True, slots=True)
class _Way:
    """How a file is read: the format's name, the feed, what lies where, and all of it if split."""

    name: str
    feed: Feed
    layout: Layout | None = None
    whole: Whole | None = None
    data: bytes = b""


def _unknown(digest: str) -> Chunk | None:  # noqa: ARG001
    return None


class Scratch:
    """An open file, seen as a manifest. The file must stay open and as it is."""

    def __init__(self, session: Session, path: str, handle: int) -> None:
        self._file = FileReader(handle)
        self._summaries = _Kept()
        update = _Forgetful()
        tools: Tools[int] = Tools(
            known=_unknown,
            data=_Kept(),
            summaries=self._summaries,
            update=update,
            threads=session.settings.threads,
        )
        way = _find_way(session, path, handle, self._file)
        cleaner = Cleaner(tools, way.whole)
        cleaner.read(way.feed)
        update.keeping = True
        torn = way.feed.truncated or way.layout is None
        views = () if torn or way.layout is None else way.layout.tensors
        self.manifest: Manifest = cleaner.manifest(OPAQUE if torn else way.name, views)
        self._skeleton = b"".join(update.kept)
        self._split = way.data
        self._starts = {} if way.layout is None else _starts(self.manifest, way.layout)

    def summaries(self, chunks: Iterable[Chunk]) -> dict[str, Summary]:
        """All of them are at hand."""
        return {
            chunk.digest: unpack_summary(body(memoryview(self._summaries.records[place.offset])))
            for chunk in chunks
            if (place := chunk.summary) is not None
        }

    def here(self, chunk: Chunk) -> bool:
        """Whether the file has it."""
        return chunk.digest in self._starts

    def weights(self, chunk: Chunk, out: Bytes) -> Bytes:
        """Read a chunk of the file again.

        Raises:
            MissingError: the file changed in the meantime.
        """
        start = self._starts[chunk.digest]
        if self._split:
            out[:] = np.frombuffer(self._split, np.uint8)[start : start + chunk.size]
        elif os.preadv(self._file.handle, [out.data], start) != chunk.size:
            raise MissingError("the file changed while it was read", hint="run the command again")
        if digest_of(out) != chunk.digest:
            raise MissingError("the file changed while it was read", hint="run the command again")
        return out

    def parameters(self, chunk: Chunk) -> Mapping[str, Any]:  # noqa: ARG002
        """Nothing is stored, so nothing is said."""
        return {}

    def skeleton(self) -> bytes | None:
        """The plain bytes of the skeleton."""
        return self._skeleton

    def objects(self, chunks: Iterable[Chunk]) -> dict[str, int]:  # noqa: ARG002
        """None are needed."""
        return {}


def _find_way(session: Session, path: str, handle: int, file: FileReader) -> _Way:
    """The same choice that `git add` would make."""
    os.lseek(handle, 0, os.SEEK_SET)
    stream = PlainStream(handle)
    found = recognise(session, path, file.read(0, _HEAD))
    try:
        if found.plugin is None:
            return _Way(OPAQUE, ChunkFeed(stream))
        if hasattr(found.plugin, "split"):
            whole, tensors = split_proven(found.plugin, file, session.settings.memory)
            layout = side_by_side(tensors)
            data = [tensor.data for tensor in tensors]
            feed = LayoutFeed(BytesSource(data), *plan(layout))
            return _Way(found.name, feed, layout, whole, b"".join(data))
        layout = found.plugin.locate(file)
        return _Way(found.name, LayoutFeed(stream, *plan(layout)), layout)
    except FormatError:
        return _Way(OPAQUE, ChunkFeed(stream))


def _starts(manifest: Manifest, layout: Layout) -> dict[str, int]:
    """Where in the file each chunk of a tensor begins, by its digest."""
    found = {}
    for view in layout.tensors:
        at = layout.segments[view.segment].offset
        tensor = manifest.tensors.get(view.name)
        for chunk in tensor.segment.chunks if tensor is not None else ():
            found[chunk.digest] = at
            at += chunk.size
    return found
