"""A file turned into a manifest, in one pass over its bytes.

The calling thread only reads. One thread digests the whole file, a pool digests, looks up and
encodes chunks, one thread appends records in file order, so that the same file always makes the
same packs. Memory is bounded by the units in flight.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeAlias, TypeVar

import numpy as np
from blake3 import blake3

from git_theta.core import planes, sketch
from git_theta.core import skeleton as skeletons
from git_theta.core.chain import Bytes, Slice, Update, digest_of, write_record
from git_theta.core.choice import Outcome, dense_record
from git_theta.core.dtypes import DTYPES
from git_theta.core.feeds import Feed
from git_theta.core.layout import TensorView
from git_theta.core.manifest import CHUNK, Chunk, Manifest, Place, Segment, Tensor
from git_theta.core.payload import Buffer, Header, pack
from git_theta.core.relatives import Where
from git_theta.core.sketch import Summary
from git_theta.core.units import Piece, Span, Unit

OPAQUE = "opaque"
SUMMARY = "summary"
_SMALL = 64 << 10
_FEW = 8
_AHEAD = 2

Spot = TypeVar("Spot")


class Packs(Protocol[Spot]):
    """Where records are appended; their places are known once `finish` was called."""

    def append(self, buffers: Sequence[Buffer]) -> Spot: ...

    def place(self, spot: Spot) -> Place: ...

    def finish(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools(Generic[Spot]):
    """What the outside lends: the packs, the reuse rule and the encoders.

    `known` finds a chunk that may be used again by the digest of its plain bytes; it is not asked
    for tensors that are to be stored `anew`. `store` makes
    the record of a tensor's chunk; without it, as for all other bytes, `update` does; where it
    could do nothing else, `plain` may say so. All are called from several threads. `expect` is
    told of what `known` will be asked for next. `writing` gives what is done once all that was
    appended to the packs is written.
    """

    known: Callable[[str], Chunk | None]
    expect: Callable[[Sequence[str]], None] = lambda _: None
    plain: Callable[[], bool] = lambda: False
    writing: Callable[[], Future[None] | None] = lambda: None
    anew: frozenset[str] = frozenset()
    data: Packs[Spot]
    summaries: Packs[Spot]
    update: Update
    store: Callable[[Slice, str, Where, Summary | None], Outcome] | None = None
    threads: int = 2


@dataclass(slots=True)
class _Fresh:
    """A chunk to be stored: its record, and that of its summary."""

    digest: str
    size: int
    outcome: Outcome
    summary: list[Buffer] | None


@dataclass(slots=True)
class _Stored(Generic[Spot]):
    """A chunk in packs that have no name yet."""

    digest: str
    size: int
    kind: str
    base: str | None
    spot: Spot
    summary: Spot | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """The file behind tensors that a format split out of it: they are no byte ranges of it."""

    size: int
    digest: str
    skeleton: bytes


# What digests a unit, what appends it (and then says when that is written), and its buffer.
_Flight: TypeAlias = tuple[Future[None], Future[Future[None] | None], Bytes]


class Cleaner(Generic[Spot]):
    """One pass over one file: `read` it, then ask for the `manifest`."""

    def __init__(self, tools: Tools[Spot], whole: Whole | None = None) -> None:
        self._tools = tools
        self._split = whole
        self._whole = blake3()
        self._size = 0
        self._hashers: dict[int, blake3] = {}
        self._stored: dict[str, _Stored[Spot]] = {}
        self._events: list[tuple[int | None, bytes | Chunk | _Stored[Spot]]] = []
        self._spans: list[Span] = []
        self._hash = ThreadPoolExecutor(1)
        self._write = ThreadPoolExecutor(1)
        self._work = ThreadPoolExecutor(tools.threads)
        self._one_by_one = threading.Lock()
        self._flight: deque[_Flight] = deque()
        self._waiting = 0

    def read(self, feed: Feed) -> None:
        """Read a whole file through a feed."""
        self._spans = feed.spans
        try:
            for buffer, unit in feed.units(self._buffer):
                self._submit(buffer, unit)
            while self._flight:
                self._land()
        finally:
            for pool in (self._work, self._write, self._hash):
                pool.shutdown(cancel_futures=True)

    @property
    def digest(self) -> str:
        """BLAKE3 of the whole file, once it was read."""
        return self._whole.hexdigest() if self._split is None else self._split.digest

    @property
    def size(self) -> int:
        """The length of the file in bytes."""
        return self._size if self._split is None else self._split.size

    def _buffer(self, size: int) -> Bytes:
        """A buffer that no thread uses any more, if it can be: fresh memory is slow."""
        room = (self._tools.threads + _AHEAD) * CHUNK
        while self._flight and (self._waiting + size > room or self._has_landed()):
            used = self._land()
            if len(used) >= size:
                return used
        return np.empty(size, np.uint8)

    def _has_landed(self) -> bool:
        hashed, appended, _ = self._flight[0]
        if not (hashed.done() and appended.done()):
            return False
        written = appended.result()
        return written is None or written.done()

    def _submit(self, buffer: Bytes, unit: Unit) -> None:
        self._size += unit.size
        data = buffer[: unit.size]
        hashed = self._hash.submit(self._digest, data, unit)
        made = self._work.submit(self._encode, data, unit)
        appended = self._write.submit(self._append, made, unit)
        self._flight.append((hashed, appended, buffer))
        self._waiting += len(buffer)

    def _land(self) -> Bytes:
        hashed, appended, buffer = self._flight.popleft()
        self._waiting -= len(buffer)
        hashed.result()
        written = appended.result()
        if written is not None:
            written.result()
        return buffer

    # --- on the threads ------------------------------------------------------------------------

    def _digest(self, data: Bytes, unit: Unit) -> None:
        self._whole.update(data.data)
        for piece in unit.pieces:
            if piece.span is not None and self._spans[piece.span].size > CHUNK:
                hasher = self._hashers.setdefault(piece.span, blake3())
                hasher.update(data[piece.start : piece.start + piece.size].data)

    def _encode(self, data: Bytes, unit: Unit) -> list[_Fresh | Chunk | bytes]:
        # Threads that all work on small pieces spend their time taking the interpreter from each
        # other; one after the other they are done sooner.
        small = unit.size < _SMALL * len(unit.pieces)
        with self._one_by_one if small else nullcontext():
            found: list[_Fresh | Chunk | bytes] = []
            for alike, run in itertools.groupby(unit.pieces, self._alike):
                pieces = list(run)
                if alike is None or len(pieces) < _FEW:
                    found += [self._encode_piece(data, piece) for piece in pieces]
                else:
                    found += self._encode_rows(data, pieces)
            return found

    def _alike(self, piece: Piece) -> tuple[int, str] | None:
        """What small tensors that can be encoded together have in common."""
        if piece.span is None or not 0 < piece.size < _SMALL:
            return None
        span = self._spans[piece.span]
        whole = span.size == piece.size and span.dtype in DTYPES and span.name
        return (piece.size, span.dtype) if whole else None

    def _encode_rows(self, data: Bytes, pieces: Sequence[Piece]) -> list[_Fresh | Chunk | bytes]:
        """What `_encode_piece` makes of each of some tensors that are alike, one behind another."""
        tools, size, end = self._tools, pieces[0].size, pieces[-1].start + pieces[-1].size
        rows = data[pieces[0].start : end].reshape(-1, size)
        spans = [self._spans[piece.span] for piece in pieces if piece.span is not None]
        digests = [blake3(row.data).hexdigest() for row in rows]
        tools.expect(digests)
        known = [
            None if span.name in tools.anew else tools.known(digest)
            for span, digest in zip(spans, digests, strict=True)
        ]
        found: list[_Fresh | Chunk | bytes | None] = [
            chunk if chunk is not None and chunk.size == size else None for chunk in known
        ]
        left = [index for index, chunk in enumerate(found) if chunk is None]
        if not left:
            return [one for one in found if one is not None]
        rows = rows[left] if len(left) < len(rows) else rows
        summaries = sketch.summarize_rows(rows, spans[0].dtype)
        outcomes = self._dense_rows(rows, [digests[i] for i in left], spans[0])
        for row, (index, summary) in enumerate(zip(left, summaries, strict=True)):
            span, digest = spans[index], digests[index]
            if outcomes is None:
                new = _slice(rows[row], span, pieces[index])
                outcome = _joined(self._outcome(new, digest, span, pieces[index], summary))
            else:
                outcome = outcomes[row]
            found[index] = _Fresh(digest, size, outcome, packed_summary(summary))
        return [one for one in found if one is not None]

    def _dense_rows(self, rows: Bytes, digests: Sequence[str], span: Span) -> list[Outcome] | None:
        """Records of small tensors that are alike; None where there may be other ways."""
        update = self._tools.update
        many = getattr(update, "encode_rows", None)
        if many is None or not (self._tools.store is None or self._tools.plain()):
            return None
        cut = _cut(rows[0], span)
        made = many(rows, cut)
        name = update.name
        return [
            Outcome([b"".join(write_record(Slice(data=row, cut=cut), digest, name, encoded))], name)
            for row, digest, encoded in zip(rows, digests, made, strict=True)
        ]

    def _encode_piece(self, data: Bytes, piece: Piece) -> _Fresh | Chunk | bytes:
        plain = data[piece.start : piece.start + piece.size]
        if piece.span is None:
            return plain.tobytes()
        digest = digest_of(plain)
        span = self._spans[piece.span]
        known = None if span.name in self._tools.anew else self._tools.known(digest)
        if known is not None and known.size == piece.size:
            return known
        summary = sketch.summarize(plain, span.dtype)
        outcome = self._outcome(_slice(plain, span, piece), digest, span, piece, summary)
        if piece.size < _SMALL:
            outcome = _joined(outcome)
        return _Fresh(digest, piece.size, outcome, packed_summary(summary))

    def _outcome(
        self, new: Slice, digest: str, span: Span, piece: Piece, summary: Summary | None
    ) -> Outcome:
        if self._tools.store is None or not span.name:
            return dense_record(self._tools.update, new, digest)
        where = Where(span.name, span.size, piece.at)
        return self._tools.store(new, digest, where, summary)

    def _append(
        self, made: Future[list[_Fresh | Chunk | bytes]], unit: Unit
    ) -> Future[None] | None:
        for piece, outcome in zip(unit.pieces, made.result(), strict=True):
            if isinstance(outcome, _Fresh):
                self._events.append((piece.span, self._store(outcome)))
            else:
                self._events.append((piece.span, outcome))
        return self._tools.writing()

    def _store(self, fresh: _Fresh) -> _Stored[Spot]:
        seen = self._stored.get(fresh.digest)
        if seen is None:
            spot = self._tools.data.append(fresh.outcome.record)
            summary = None
            if fresh.summary is not None:
                summary = self._tools.summaries.append(fresh.summary)
            kind, base = fresh.outcome.kind, fresh.outcome.base
            seen = _Stored(fresh.digest, fresh.size, kind, base, spot, summary)
            self._stored[fresh.digest] = seen
        return seen

    # --- afterwards ----------------------------------------------------------------------------

    def manifest(self, format_name: str, views: Sequence[TensorView]) -> Manifest:
        """Store the skeleton, finish the packs and describe the file.

        `views` are the tensors that the spans refer to; without them every segment stands for
        itself. The object table is left empty.
        """
        parts = self._parts()
        digests = {span: self._digest_of(span, found) for span, found in parts.items()}
        names = {
            span: views[self._spans[span].views[0]].name
            for span in parts
            if views and len(self._spans[span].views) == 1
        }
        skeleton = self._store_bytes(self._skeleton(digests, names))
        self._tools.data.finish()
        self._tools.summaries.finish()
        segments = {span: self._segment(digests[span], found) for span, found in parts.items()}
        tensors = {
            views[view].name: _tensor(views[view], segment, shared=span not in names)
            for span, segment in segments.items()
            for view in (self._spans[span].views if views else ())
        }
        return Manifest(
            format=format_name,
            size=self.size,
            digest=self.digest,
            skeleton=skeleton,
            tensors=tensors,
            segments={s.digest: s for span, s in segments.items() if span not in names},
        )

    def _parts(self) -> dict[int, list[Chunk | _Stored[Spot]]]:
        """The chunks of each span, spans in file order."""
        found: dict[int, list[Chunk | _Stored[Spot]]] = {}
        for span, event in self._events:
            if span is not None and not isinstance(event, bytes):
                found.setdefault(span, []).append(event)
        return found

    def _digest_of(self, span: int, parts: Sequence[Chunk | _Stored[Spot]]) -> str:
        hasher = self._hashers.get(span)
        return parts[0].digest if hasher is None else hasher.hexdigest()

    def _skeleton(self, digests: Mapping[int, str], names: Mapping[int, str]) -> bytes:
        order = tuple(
            names[span] if span in names else bytes.fromhex(digest)
            for span, digest in digests.items()
        )
        if self._split is not None:
            return skeletons.pack(skeletons.Skeleton(None, order, self._split.skeleton))
        runs, data, last = [0], [], None
        for span, event in self._events:
            if isinstance(event, bytes):
                runs[-1] += len(event)
                data.append(event)
            elif span != last:
                runs.append(0)
                last = span
        return skeletons.pack(skeletons.Skeleton(tuple(runs), order, b"".join(data)))

    def _store_bytes(self, plain: bytes) -> Segment:
        """Store bytes that do not pass through a feed; finishes the data pack."""
        parts: list[Chunk | _Stored[Spot]] = []
        for start in range(0, len(plain), CHUNK):
            part = np.frombuffer(plain[start : start + CHUNK], np.uint8)
            digest = digest_of(part)
            known = self._tools.known(digest)
            if known is not None and known.size == len(part):
                parts.append(known)
            else:
                new = Slice(data=part, cut=planes.Grain())
                outcome = dense_record(self._tools.update, new, digest)
                parts.append(self._store(_Fresh(digest, len(part), outcome, None)))
        self._tools.data.finish()
        return self._segment(digest_of(plain), parts)

    def _segment(self, digest: str, parts: Sequence[Chunk | _Stored[Spot]]) -> Segment:
        chunks = tuple(p if isinstance(p, Chunk) else self._placed(p) for p in parts)
        return Segment(digest, sum(chunk.size for chunk in chunks), chunks)

    def _placed(self, stored: _Stored[Spot]) -> Chunk:
        at = self._tools.data.place(stored.spot)
        summary = None
        if stored.summary is not None:
            summary = self._tools.summaries.place(stored.summary)
        return Chunk(stored.digest, stored.size, stored.kind, at, stored.base, summary)


def _joined(outcome: Outcome) -> Outcome:
    """The same with all buffers of its record in one."""
    return replace(outcome, record=[b"".join(outcome.record)])


def _tensor(view: TensorView, segment: Segment, *, shared: bool) -> Tensor:
    return Tensor(view.dtype, view.shape, segment, shared, view.offset, view.strides)


def _cut(plain: Bytes, span: Span) -> planes.Grain:
    if span.dtype in DTYPES:
        return planes.grain(span.dtype)
    return planes.Grain(span.word) if span.word > 1 else planes.guess_grain(plain)


def _slice(plain: Bytes, span: Span, piece: Piece) -> Slice:
    known = DTYPES.get(span.dtype)
    start = 0 if known is None else piece.at * 8 // known.bits
    return Slice(
        data=plain,
        cut=_cut(plain, span),
        dtype="" if known is None else span.dtype,
        columns=span.columns,
        start=start,
    )


def packed_summary(summary: Summary | None) -> list[Buffer] | None:
    """The record of a summary, if there is one."""
    if summary is None:
        return None
    packed = summary.pack()
    header = Header(digest=bytes.fromhex(digest_of(packed)), size=len(packed), kind=SUMMARY)
    return [b"".join(pack(header, [packed]))]
