"""Tensors of several manifests, read by ranges of their bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping

import numpy as np

from git_theta.commands.session import Session
from git_theta.core.chain import Bytes, decode_chunk
from git_theta.core.manifest import Chunk, Manifest, Place, Segment
from git_theta.repo.remotes import resolve_missing

_KEPT = 4


class Source:
    """Reads segments of some manifests. Safe to use from several threads."""

    def __init__(self, session: Session, manifests: Iterable[Manifest]) -> None:
        self._session = session
        self._sizes: dict[str, int] = {}
        self.chunks: dict[str, Chunk] = {}
        for manifest in manifests:
            self._sizes.update(manifest.objects)
            for chunk in manifest.all_chunks():
                self.chunks.setdefault(chunk.digest, chunk)
        self._guard = threading.Lock()
        self._recent: OrderedDict[str, Bytes] = OrderedDict()
        self.read = 0

    def add(self, chunks: Iterable[Chunk], sizes: Mapping[str, int]) -> None:
        """Make chunks known that were written meanwhile."""
        self._sizes.update(sizes)
        self.chunks.update((chunk.digest, chunk) for chunk in chunks)

    def size(self, oid: str) -> int:
        """The size of an object that a known chunk lies in."""
        return self._sizes[oid]

    def closure(self, chunks: Iterable[Chunk]) -> dict[str, Chunk]:
        """The bases that chunks need, by digest."""
        found: dict[str, Chunk] = {}
        for chunk in chunks:
            base = chunk.base
            while base is not None and base not in found:
                found[base] = self.chunks[base]
                base = found[base].base
        return found

    def bases(self, chunks: Iterable[Chunk]) -> dict[str, Chunk]:
        """The bases that chunks need and that are none of them, without their summaries."""
        own = {chunk.digest: chunk for chunk in chunks}
        found = self.closure(own.values())
        return {d: c._replace(summary=None) for d, c in found.items() if d not in own}

    def sizes_of(self, segment: Segment) -> dict[str, int]:
        """The sizes of the objects that a segment's own records lie in."""
        oids = {chunk.at.oid for chunk in segment.chunks}
        oids |= {chunk.summary.oid for chunk in segment.chunks if chunk.summary is not None}
        return {oid: self._sizes[oid] for oid in oids}

    def places(self, segments: Iterable[Segment]) -> set[Place]:
        """The records that reading some segments takes, bases included."""
        chunks = [chunk for segment in segments for chunk in segment.chunks]
        return {c.at for c in (*chunks, *self.closure(chunks).values())}

    def missing(self, segments: Iterable[Segment]) -> dict[str, int]:
        """Objects that reading some segments takes and that are not here."""
        oids = {place.oid for place in self.places(segments)}
        sizes = {oid: self._sizes[oid] for oid in oids}
        return self._session.store.lacking(sizes)

    def fetch(self, segments: Iterable[Segment]) -> None:
        """Download what is needed to read some segments and is not here.

        Raises:
            MissingError: it is nowhere.
            TransferError: a remote cannot be reached.
        """
        missing = self.missing(segments)
        if missing:
            resolve_missing(self._session.repo, self._session.store, missing)

    def range(self, segment: Segment, start: int, stop: int) -> Bytes:
        """The plain bytes `start` to `stop` of a segment, proven."""
        parts, at = [], 0
        for chunk in segment.chunks:
            end = at + chunk.size
            if at < stop and end > start:
                low, high = max(start - at, 0), min(stop - at, chunk.size)
                whole = low == 0 and high == chunk.size
                parts.append(self._decoded(chunk) if whole else self._kept(chunk)[low:high])
            at = end
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, np.uint8)

    def whole(self, segment: Segment) -> Bytes:
        """All plain bytes of a segment."""
        return self.range(segment, 0, segment.size)

    def bytes_of(self, segment: Segment, start: int, stop: int) -> bytes:
        """A range as bytes."""
        return self.range(segment, start, stop).tobytes()

    def _decoded(self, chunk: Chunk) -> Bytes:
        with self._guard:
            if chunk.digest in self._recent:
                return self._recent[chunk.digest]
            self.read += chunk.size
        store, plugins = self._session.store, self._session.plugins
        return decode_chunk(chunk, store.read, plugins.updates, self.chunks)

    def _kept(self, chunk: Chunk) -> Bytes:
        """A chunk of which more will be asked soon."""
        plain = self._decoded(chunk)
        with self._guard:
            self._recent[chunk.digest] = plain
            self._recent.move_to_end(chunk.digest)
            while len(self._recent) > _KEPT:
                self._recent.popitem(last=False)
        return plain
