"""Tensors of several manifests, read by ranges of their bytes."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from git_theta.commands.session import Session
from git_theta.core.chain import Bytes, decode_chunk, digest_of, links_of, scratch
from git_theta.core.manifest import CHUNK, Chunk, Manifest, Place, Segment
from git_theta.repo.remotes import resolve_missing

_KEPT = 4
_LARGE = 4 * CHUNK


class _Held(threading.local):
    """What one thread has read, by digest."""

    def __init__(self) -> None:
        self.chunks: dict[str, Bytes] = {}
        self.doubted = False


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
        self._held = _Held()
        self._places: Mapping[str, int] = {}
        self._copy: Callable[[int, Bytes], bool] = lambda _at, _out: False
        self.read = 0

    def add(self, chunks: Iterable[Chunk], sizes: Mapping[str, int]) -> None:
        """Make chunks known that were written meanwhile."""
        self._sizes.update(sizes)
        self.chunks.update((chunk.digest, chunk) for chunk in chunks)

    def look_in(self, copy: Callable[[int, Bytes], bool], places: Mapping[str, int]) -> None:
        """Take chunks, by digest, from places in a file that should hold them, if it does.

        `copy` fills an array from such a place. The bytes are proven as decoded ones are.
        """
        self._copy, self._places = copy, places

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

    def aligned(
        self, segments: Sequence[Segment | None], start: int, stop: int
    ) -> list[Bytes | None]:
        """The same range of several versions of a tensor; what they all stand on is read once.

        They are valid, and `held`, until this thread asks for others, or lets them go.
        """
        self.let_go()
        found = [_whole_chunks(s, start, stop) for s in segments if s is not None]
        rows = _rows(found)
        if rows is None:
            return [None if s is None else self.range(s, start, stop) for s in segments]
        size = stop - start
        outs = [None if s is None else _room(f"version {n}", size) for n, s in enumerate(segments)]
        room = [out for out in outs if out is not None]
        for row in rows:
            low, high = row[0][0] - start, row[0][0] - start + row[0][1].size
            self._read_row([chunk for _, chunk in row], [out[low:high] for out in room])
        return outs

    def _read_row(self, row: Sequence[Chunk], outs: Sequence[Bytes]) -> None:
        """Decode chunks that lie at the same place in several versions."""
        own, at_hand, lent = self._held.chunks, dict[str, Bytes](), 0
        left = []
        for chunk, out in zip(row, outs, strict=True):
            if self._copied(chunk, out):
                own[chunk.digest] = at_hand[chunk.digest] = out
            else:
                left.append((links_of(chunk, self.chunks), out))
        seen = Counter(link.digest for chain, _ in left for link in chain)
        read, updates = self._session.store.lend, self._session.plugins.updates
        for chain, out in left:
            chunk = chain[0]
            if chunk.digest in own:
                out[:] = own[chunk.digest]
                continue
            shared = next((link for link in chain[1:] if seen[link.digest] > 1), None)
            if shared is not None and shared.digest not in at_hand:
                # Of use here only; the proof of what is stored needs the same memory later.
                room = _room(f"shared {lent}" if lent else "proof", shared.size)
                lent += 1
                at_hand[shared.digest] = decode_chunk(shared, read, updates, self.chunks, room)
            decode_chunk(chunk, read, updates, self.chunks, out, at_hand)
            own[chunk.digest] = at_hand[chunk.digest] = out
            with self._guard:
                self.read += chunk.size

    def _copied(self, chunk: Chunk, out: Bytes) -> bool:
        """Fill an array from the file that should hold a chunk; says whether it did."""
        at = self._places.get(chunk.digest)
        if at is None:
            return False
        if not self._copy(at, out) or digest_of(out) != chunk.digest:
            self._places = {}  # it is not the file that it should be
            return False
        with self._guard:
            self.read += chunk.size
        return True

    def held(self, digest: str) -> Bytes | None:
        """The bytes of a chunk that this thread has just read with others, if they are as read."""
        found = self._held.chunks.get(digest)
        if found is not None and self._held.doubted and digest_of(found) != digest:
            return None
        return found

    def doubt(self) -> None:
        """Say that what this thread holds was lent to somebody who may have written to it."""
        self._held.doubted = True

    def let_go(self) -> None:
        """Hold nothing for this thread any more."""
        self._held.chunks, self._held.doubted = {}, False

    def chunk(self, chunk: Chunk) -> Bytes:
        """The plain bytes of one chunk."""
        return self._decoded(chunk)

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
        return decode_chunk(chunk, store.lend, plugins.updates, self.chunks)

    def _kept(self, chunk: Chunk) -> Bytes:
        """A chunk of which more will be asked soon."""
        plain = self._decoded(chunk)
        with self._guard:
            self._recent[chunk.digest] = plain
            self._recent.move_to_end(chunk.digest)
            while len(self._recent) > _KEPT:
                self._recent.popitem(last=False)
        return plain


def _room(name: str, size: int) -> Bytes:
    """Memory of this thread that it used before, unless that would be much to keep."""
    return scratch.take(name, size) if size <= _LARGE else np.empty(size, np.uint8)


def _whole_chunks(segment: Segment, start: int, stop: int) -> list[tuple[int, Chunk]] | None:
    """Where each chunk of a range begins, and the chunk; None where the range cuts one."""
    found, at = [], 0
    for chunk in segment.chunks:
        end = at + chunk.size
        if at < stop and end > start:
            if at < start or end > stop:
                return None
            found.append((at, chunk))
        at = end
    return found


def _rows(
    found: Sequence[list[tuple[int, Chunk]] | None],
) -> list[tuple[tuple[int, Chunk], ...]] | None:
    """Chunks at the same places side by side; None where versions are cut differently."""
    whole = [each for each in found if each]
    if not whole or len(whole) < len(found):
        return None
    shapes = {tuple((at, chunk.size) for at, chunk in each) for each in whole}
    return list(zip(*whole, strict=True)) if len(shapes) == 1 else None
