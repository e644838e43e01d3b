"""Two versions of a model compared: which tensors changed, and what the metrics say of each."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from blake3 import blake3

from git_theta import registry
from git_theta.commands.model_versions import Source, Stored, Version
from git_theta.core.chain import Bytes
from git_theta.core.changes import CHANGED, PERMUTED, RENAMED, RESHAPED, Change, compare
from git_theta.core.dtypes import DTYPES, nbytes
from git_theta.core.facts import (
    ChunkPair,
    Sums,
    estimate,
    measurable,
    perhaps_permuted,
    with_updates,
)
from git_theta.core.manifest import Chunk, Tensor
from git_theta.core.metric import WEIGHTS, BlockMetric, Facts, Meter, Metric, Pair, Value
from git_theta.core.sketch import Summary

_SMALL = 1024
_FEW_SMALL = 4000
# Of hundreds of fine-tuned tensors, some keep norm and mean to a millionth by chance.
_FAR = 0.02
_PLAIN_KINDS = ("dense", "delta")
_DIGEST = 32  # bytes

Watch = Callable[[Pair], Meter]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A changed tensor and what is known of the change."""

    change: Change
    what: str
    sure: bool = True
    facts: Facts | None = None
    values: Mapping[str, Value] = field(default_factory=dict)
    kinds: tuple[str, ...] = ()
    stored: int = 0

    @property
    def relative(self) -> float | None:
        """The L2 norm of the difference relative to that of the old values."""
        facts = self.facts
        if facts is None or facts.square is None or facts.old_square is None:
            return None
        if not facts.old_square:
            return math.inf if facts.square else 0.0
        return math.sqrt(facts.square / facts.old_square)


@dataclass(frozen=True, slots=True)
class _Lined:
    """A tensor whose chunks can be compared one by one: (old, new, number of elements)."""

    change: Change
    old: Tensor
    new: Tensor
    sources: tuple[Source, Source]
    chunks: tuple[tuple[Chunk, Chunk, int], ...]

    def side(self, number: int) -> list[Chunk]:
        """The chunks of the old side (0) or the new one (1)."""
        return [(old, new)[number] for old, new, _ in self.chunks]


def measure(
    old: Version,
    new: Version,
    *,
    exact: bool,
    threads: int = 2,
    watch: Watch | None = None,
) -> tuple[list[Measured], tuple[str, ...]]:
    """The changed tensors, measured, and the names of the unchanged ones.

    Without `exact`, distances come from sketches. Tensors too small to have one are read where
    that costs little. `watch` gives another meter for each tensor that is read.
    """
    compared = compare(old.tensors, new.tensors)
    lined: dict[str, _Lined] = {}
    for change in compared.changes:
        found = _line_up(change, old, new)
        if found is not None:
            lined[change.name] = found
    summaries = _summaries(lined.values())
    asked = [pair for pair in lined.values() if exact or _is_small(pair)]
    if not exact and len(asked) > _FEW_SMALL:
        asked = []
    facts = _read_all(list(filter(_is_readable, asked)), summaries, threads, watch)
    rows = [
        _row(
            change,
            _home(change, old, new),
            lined.get(change.name),
            summaries,
            facts.get(change.name),
        )
        for change in compared.changes
    ]
    return rows, tuple(sorted((*compared.unchanged, *old.aside)))


# --- which chunks to compare ---------------------------------------------------------------------


def _line_up(change: Change, old: Version, new: Version) -> _Lined | None:
    """Pair the chunks of a tensor, where both sides have as many values in the same places."""
    before, after = change.old, change.new
    if before is None or after is None or change.what in (RENAMED, RESHAPED):
        return None
    if not (measurable(before.dtype) and measurable(after.dtype)):
        return None
    if not (_is_whole(before) and _is_whole(after)) or before.strides != after.strides:
        return None
    widths = [DTYPES[tensor.dtype].bits // 8 for tensor in (before, after)]
    if len(before.segment.chunks) != len(after.segment.chunks):
        return None
    chunks = []
    for one, other in zip(before.segment.chunks, after.segment.chunks, strict=True):
        if one.size // widths[0] != other.size // widths[1]:
            return None
        chunks.append((one, other, one.size // widths[0]))
    sources = (old.sources[change.name], new.sources[change.name])
    return _Lined(change, before, after, sources, tuple(chunks))


def _is_whole(tensor: Tensor) -> bool:
    """Whether the tensor is all of its segment."""
    return not tensor.offset and nbytes(tensor.dtype, tensor.shape) == tensor.segment.size


def _is_readable(pair: _Lined) -> bool:
    old, new = pair.sources
    return all(a.digest == b.digest or (old.here(a) and new.here(b)) for a, b, _ in pair.chunks)


def _is_small(pair: _Lined) -> bool:
    return len(pair.chunks) == 1 and pair.chunks[0][2] < _SMALL


Summaries = Mapping[tuple[int, str], Summary]


def _summaries(pairs: Iterable[_Lined]) -> Summaries:
    """All summaries that the pairs need and that are here: by (source, digest of the chunk)."""
    wanted: dict[int, tuple[Source, list[Chunk]]] = {}
    for pair in pairs:
        for side in (0, 1):
            source = pair.sources[side]
            chunks = wanted.setdefault(id(source), (source, []))[1]
            chunks.extend(pair.side(side))
    return {
        (key, digest): summary
        for key, (source, chunks) in wanted.items()
        for digest, summary in source.summaries(chunks).items()
    }


def _chunk_pairs(pair: _Lined, summaries: Summaries) -> list[ChunkPair]:
    old, new = map(id, pair.sources)
    return [
        ChunkPair(
            summaries.get((old, a.digest)),
            summaries.get((new, b.digest)),
            a.digest == b.digest and pair.old.dtype == pair.new.dtype,
            count,
        )
        for a, b, count in pair.chunks
    ]


# --- one tensor ----------------------------------------------------------------------------------


@cache
def metrics() -> dict[str, Metric]:
    """The installed metrics, built-in ones first, in the order of their columns."""
    found: dict[str, Metric] = {
        name: registry.load("metrics", name) for name in registry.names("metrics")
    }
    return dict(sorted(found.items(), key=lambda item: (getattr(item[1], "order", 100), item[0])))


@cache
def _told_by(exact: bool) -> tuple[tuple[str, Metric], ...]:
    """The metrics that can be asked, with the weights read or not."""
    return tuple((n, metric) for n, metric in metrics().items() if exact or metric.needs != WEIGHTS)


def _home(change: Change, old: Version, new: Version) -> Source:
    return (old if change.new is None else new).sources[change.name]


def _stored(change: Change, source: Source) -> tuple[tuple[str, ...], int]:
    """The kinds of update that store a tensor, and its records' bytes; none of what is not yet."""
    chunks = change.tensor.segment.chunks
    if not (isinstance(source, Stored) or source.objects(chunks)):
        return (), 0
    if len(chunks) == 1:
        return (chunks[0].kind,), chunks[0].at.size
    kinds = sorted({chunk.kind for chunk in chunks})
    return tuple(kinds), sum(place.size for place in {chunk.at for chunk in chunks})


def _row(
    change: Change,
    source: Source,
    pair: _Lined | None,
    summaries: Summaries,
    read: tuple[Facts, Mapping[str, Value], bool] | None,
) -> Measured:
    kinds, stored = _stored(change, source)
    if pair is None:
        return Measured(change=change, what=change.what, kinds=kinds, stored=stored)
    chunk_pairs = _chunk_pairs(pair, summaries)
    updates = _parameters(pair)
    if read is not None:
        facts, values, permuted = read
        facts = with_updates(facts, updates)
        sure = True
    else:
        facts, values, sure = estimate(chunk_pairs, updates), {}, False
        permuted = perhaps_permuted(chunk_pairs) and _is_far(facts)
    what = PERMUTED if permuted and change.what == CHANGED else change.what
    told = dict(values)
    for name, metric in _told_by(facts.exact):
        if name in told:
            continue
        value = metric.value(facts)
        if value is not None:
            told[name] = value
    return Measured(
        change=change,
        what=what,
        sure=sure or what != PERMUTED,
        facts=facts,
        values=told,
        kinds=kinds,
        stored=stored,
    )


def _is_far(facts: Facts) -> bool:
    """Whether the values moved further than a fine-tune moves them, as estimates tell."""
    square, old_square = facts.square, facts.old_square
    return square is None or old_square is None or square >= _FAR * _FAR * old_square


def _parameters(pair: _Lined) -> dict[str, Mapping[str, Any]]:
    """What the updates say that make the new side from the old one."""
    found: dict[str, Mapping[str, Any]] = {}
    for old, new, _ in pair.chunks:
        if old.digest == new.digest or new.kind in found:
            continue
        tells = new.base == old.digest and new.kind not in _PLAIN_KINDS
        found[new.kind] = pair.sources[1].parameters(new) if tells else {}
    return found


# --- the weights ---------------------------------------------------------------------------------

Read = tuple[Facts, Mapping[str, Value], bool]


def _read_all(
    pairs: Sequence[_Lined], summaries: Summaries, threads: int, watch: Watch | None
) -> dict[str, Read]:
    """Read the weights of some tensors, the largest first, several at a time."""
    ordered = sorted(pairs, key=lambda pair: -pair.new.segment.size)

    def work(pair: _Lined) -> tuple[str, Read]:
        return pair.change.name, _read_one(pair, summaries, watch)

    if not ordered or ordered[0].new.segment.size < 1 << 16:
        return dict(map(work, ordered))
    with ThreadPoolExecutor(threads) as pool:
        return dict(pool.map(work, ordered))


class _Buffers(threading.local):
    """Two buffers for each thread: fresh memory costs more than what is done in it."""

    def __init__(self) -> None:
        self._held = [np.empty(0, np.uint8), np.empty(0, np.uint8)]

    def take(self, side: int, size: int) -> Bytes:
        """A buffer of this size, whose former contents are lost."""
        if len(self._held[side]) < size:
            self._held[side] = np.empty(size, np.uint8)
        return self._held[side][:size]


_buffers = _Buffers()


def _read_one(pair: _Lined, summaries: Summaries, watch: Watch | None) -> Read:
    told = Pair(name=pair.change.name, old=pair.old, new=pair.new)
    meters = dict(_meters(told))
    watched = () if watch is None else (watch(told),)
    sums = Sums(meters=(*meters.values(), *watched))
    start = 0
    dtypes = (pair.old.dtype, pair.new.dtype)
    for (a, b, count), lately in zip(pair.chunks, _chunk_pairs(pair, summaries), strict=True):
        if lately.same and lately.new is not None:
            sums.add_unchanged(lately.new)
        else:
            before, after = _both(pair.sources, a, b)
            sums.add(before, after, dtypes, start, (lately.old, lately.new))
        start += count
    values = {name: value for name, meter in meters.items() if (value := meter.result())}
    for meter in watched:
        meter.result()
    permuted = perhaps_permuted(_chunk_pairs(pair, summaries)) and _is_permuted(pair)
    return sums.facts({}), values, permuted


def _both(sources: tuple[Source, Source], old: Chunk, new: Chunk) -> tuple[Bytes, Bytes]:
    """The bytes of both sides; one that is an update of the other is made from what was read."""
    before, after = _buffers.take(0, old.size), _buffers.take(1, new.size)
    if old.base == new.digest:
        after = sources[1].weights(new, after)
        return sources[0].weights(old, before, {new.digest: after}), after
    before = sources[0].weights(old, before)
    return before, sources[1].weights(new, after, {old.digest: before})


def _meters(pair: Pair) -> Iterator[tuple[str, Meter]]:
    for name, metric in metrics().items():
        if isinstance(metric, BlockMetric):
            meter = metric.meter(pair)
            if meter is not None:
                yield name, meter


def _is_permuted(pair: _Lined) -> bool:
    """Whether the rows (the elements, of a vector) are the same ones in another order."""
    shape = pair.new.shape
    if not shape or not shape[0] or pair.old.dtype != pair.new.dtype or pair.old.strides:
        return False
    width = pair.new.segment.size // shape[0]
    old, new = (
        sorted_rows((source.weights(c, np.empty(c.size, np.uint8)) for c in pair.side(side)), width)
        for side, source in enumerate(pair.sources)
    )
    return bool(np.array_equal(old, new))


def sorted_rows(parts: Iterable[Bytes], width: int) -> Bytes:
    """All rows, sorted; of wide rows their digests, so that no more than a part is held."""
    rows: list[Bytes] = []
    left = np.empty(0, np.uint8)
    for part in parts:
        data = np.concatenate((left, part)) if len(left) else part
        whole = len(data) // width * width
        rows.append(_row_names(data[:whole], width))
        left = data[whole:].copy()
    found = np.concatenate(rows)
    named = min(width, _DIGEST)
    return np.sort(found.view(f"u{named}" if named in (1, 2, 4, 8) else f"V{named}"))


def _row_names(data: Bytes, width: int) -> Bytes:
    if width <= _DIGEST:
        return data
    names = b"".join(
        blake3(data[at : at + width].data).digest() for at in range(0, len(data), width)
    )
    return np.frombuffer(names, np.uint8)
