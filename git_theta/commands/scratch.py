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
from git_theta.commands.model_versions import Held
from git_theta.commands.session import Session
from git_theta.core.chain import Bytes, Encoded, Slice, digest_of
from git_theta.core.clean import OPAQUE, Cleaner, Tools, Whole
from git_theta.core.feeds import ChunkFeed, Feed, LayoutFeed
from git_theta.core.layout import Layout
from git_theta.core.manifest import Chunk, Manifest, Place, Segment, dump, parse
from git_theta.core.payload import Buffer, Header, body
from git_theta.core.sketch import Summary
from git_theta.core.sketch import unpack as unpack_summary
from git_theta.core.splitting import BytesSource, side_by_side, split_proven
from git_theta.core.units import plan
from git_theta.errors import CorruptError, FormatError, MissingError
from git_theta.repo.streams import FileReader, PlainStream
from git_theta.repo.summaries import read_summaries

_HEAD = 4096
NOWHERE = "0" * 64


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
        return Place(NOWHERE, spot, 1)

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


@dataclass(frozen=True, slots=True)
class Found:
    """What one pass over a file found: all that is kept of it for another process."""

    manifest: Manifest
    summaries: list[bytes]
    skeleton: bytes
    starts: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """For msgpack; the object table may be made up, since nothing lies anywhere."""
        places = {p.oid for c in self.manifest.all_chunks() for p in (c.at, c.summary) if p}
        whole = self.manifest._replace(objects=dict.fromkeys(places, 1 << 50))
        chunks = {chunk.digest: chunk for chunk in whole.all_chunks()}
        bases = {c.base: c for c in chunks.values() if c.base and c.base not in chunks}
        if bases:
            whole = _without_bases(whole)
        return {
            "manifest": dump(whole),
            "summaries": self.summaries,
            "skeleton": self.skeleton,
            "starts": self.starts,
        }

    @classmethod
    def read(cls, raw: dict[str, Any]) -> Found:
        """Read what `to_dict` gave.

        Raises:
            ManifestError: it is damaged.
        """
        return cls(
            manifest=parse(raw["manifest"]),
            summaries=list(raw["summaries"]),
            skeleton=raw["skeleton"],
            starts=dict(raw["starts"]),
        )


def _without_bases(manifest: Manifest) -> Manifest:
    """Forget what updates are applied to: the bytes are read from the file."""

    def plain(segment: Segment) -> Segment:
        return segment._replace(chunks=tuple(c._replace(base=None) for c in segment.chunks))

    segments = {digest: plain(segment) for digest, segment in manifest.segments.items()}
    tensors = {
        name: t._replace(segment=segments[t.segment.digest] if t.shared else plain(t.segment))
        for name, t in manifest.tensors.items()
    }
    skeleton = plain(manifest.skeleton)
    return manifest._replace(tensors=tensors, segments=segments, skeleton=skeleton, bases={})


class Scratch:
    """An open file, seen as a manifest. The file must stay open and as it is.

    Chunks that are `known` are named as they are known; `found` is what an earlier pass found.
    """

    def __init__(
        self,
        session: Session,
        path: str,
        handle: int,
        *,
        known: Mapping[str, Chunk] | None = None,
        found: Found | None = None,
    ) -> None:
        self._session = session
        self._file = FileReader(handle)
        self._split = b""
        if found is None:
            found = self._pass(path, handle, known or {})
        self._found = found
        self.manifest = found.manifest

    def _pass(self, path: str, handle: int, known: Mapping[str, Chunk]) -> Found:
        summaries, update = _Kept(), _Forgetful()
        tools: Tools[int] = Tools(
            # The skeleton is wanted as it is, whether it is known or not.
            known=lambda digest: None if update.keeping else known.get(digest),
            data=_Kept(),
            summaries=summaries,
            update=update,
            threads=self._session.settings.threads,
        )
        way = _find_way(self._session, path, handle, self._file)
        cleaner = Cleaner(tools, way.whole)
        cleaner.read(way.feed)
        update.keeping = True
        torn = way.feed.truncated or way.layout is None
        views = () if torn or way.layout is None else way.layout.tensors
        manifest = cleaner.manifest(OPAQUE if torn else way.name, views)
        skeleton = manifest.skeleton
        chunks = tuple(known.get(chunk.digest, chunk) for chunk in skeleton.chunks)
        manifest = manifest._replace(skeleton=skeleton._replace(chunks=chunks))
        self._split = way.data
        starts = {} if way.layout is None else _starts(manifest, way.layout)
        return Found(manifest, summaries.records, b"".join(update.kept), starts)

    def found(self) -> Found | None:
        """What another process may start from; None for a format that is not read in place."""
        return None if self._split else self._found

    def summaries(self, chunks: Iterable[Chunk]) -> dict[str, Summary]:
        """Those of new chunks are at hand, those of known ones in the store."""
        told: dict[str, Summary] = {}
        stored: dict[Place, str] = {}
        for chunk in chunks:
            place = chunk.summary
            if place is not None and place.oid == NOWHERE:
                record = memoryview(self._found.summaries[place.offset])
                told[chunk.digest] = unpack_summary(body(record))
            elif place is not None:
                stored[place] = chunk.digest
        read = read_summaries(self._session.store, stored)
        return told | {stored[place]: summary for place, summary in read.items()}

    def here(self, chunk: Chunk) -> bool:
        """Whether the file has it."""
        return chunk.digest in self._found.starts

    def weights(self, chunk: Chunk, out: Bytes, held: Held | None = None) -> Bytes:  # noqa: ARG002
        """Read a chunk of the file again; what it would be stored as does not matter.

        Raises:
            MissingError: the file changed in the meantime.
        """
        start = self._found.starts[chunk.digest]
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
        return self._found.skeleton

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
