"""Where a chunk's base may be found: by the tensor's name, else by the sketch of its values.

Names are looked up in the manifests of the file's own path first, in their order, then in those of
other paths. Where no name helps, the nearest sketch among chunks of the same dtype and length is
taken, if it is near. A base must be earned like any chunk that is used again.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from git_theta.core.align import LEAST_ROW, Align, find_rows
from git_theta.core.casts import cast, castable, width
from git_theta.core.chain import (
    Base,
    Bytes,
    Read,
    Slice,
    Updates,
    decode_chunk,
    scratch,
)
from git_theta.core.dtypes import DTYPES
from git_theta.core.layout import TensorView, columns_of, is_whole
from git_theta.core.manifest import Chunk, Manifest, Tensor
from git_theta.core.nearest import Nearest, read_summary
from git_theta.core.sketch import Summary
from git_theta.errors import ThetaError

_FAR = 1.2
_WORTH_A_LOOK = 1 << 20
_PER_NAME = 4


class Where(NamedTuple):
    """Where a chunk lies: the tensor's name and size, and the chunk's start in it, in bytes."""

    name: str
    size: int
    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lender:
    """What the outside lends: the reuse rule, chunks by digest, and the store.

    `known` gives a chunk that may be used; `chunks` are all it may need to be decoded. `held`
    gives the bytes of a chunk that somebody has just read, and that are still those.
    """

    known: Callable[[str], Chunk | None]
    links: Callable[[Chunk], Sequence[Chunk]]
    chunks: Mapping[str, Chunk]
    read: Read
    updates: Updates
    held: Callable[[str], Bytes | None] = lambda _: None


@dataclass(frozen=True, slots=True)
class _Part:
    """A chunk of a tensor, and where it lies in it (in bytes)."""

    chunk: Chunk
    dtype: str
    columns: int
    start: int
    whole: int


@dataclass(slots=True)
class Kin:
    """A relative of a chunk: its record, and how the two lie to each other."""

    lender: Lender
    chunk: Chunk
    part: _Part
    where: Where
    rows: bool = False
    links: int = 0
    stored: int = 0
    root: int = 0

    def __post_init__(self) -> None:
        chain = self.lender.links(self.chunk)
        self.links = len(chain) - 1
        self.stored = sum(link.at.size for link in chain)
        self.root = chain[-1].at.size

    def load(self, new: Slice) -> tuple[Base, Bytes] | None:
        """Decode the base and align it."""
        data = self._read()
        if data is None:
            return None
        align = self._align(new, data)
        if align is None:
            return None
        if align.is_plain(len(new.data), len(data)):
            return Base(digest=self.chunk.digest), data
        fit = scratch.take("fit", len(new.data))
        align.apply(data, fit)
        return Base(digest=self.chunk.digest, align=align), fit

    def _read(self) -> Bytes | None:
        lender, digest = self.lender, self.chunk.digest
        held = lender.held(digest)
        if held is not None:
            return held
        data = scratch.take("base", self.chunk.size)
        try:
            return decode_chunk(self.chunk, lender.read, lender.updates, lender.chunks, data)
        except ThetaError:
            return None

    def _align(self, new: Slice, data: Bytes) -> Align | None:
        part, where = self.part, self.where
        change = None if part.dtype == new.dtype else (part.dtype, new.dtype)
        before, after = (1, 1) if change is None else map(width, change)
        start = part.start // before * after
        plain = Align(cast=change, shift=where.start - start)
        if not self.rows and part.whole // before * after == where.size:
            return plain
        size = new.columns * (DTYPES[new.dtype].bits // 8) if new.dtype in DTYPES else 0
        if new.columns != part.columns or size < LEAST_ROW:
            return None if self.rows else plain
        if change is not None:
            wide = np.empty(len(data) // before * after, np.uint8)
            cast(data, *change, wide)
            data = wide
        rows = find_rows(new.data, data, size, -where.start % size, -start % size)
        if rows is not None:
            return Align(cast=change, rows=rows)
        return None if self.rows else plain


class Relatives:
    """Finds bases for the chunks of one file. Safe to use from several threads.

    `own` are manifests of the file's path, `others` gives those of other paths.
    """

    def __init__(
        self, lender: Lender, own: Sequence[Manifest], others: Callable[[], Iterable[Manifest]]
    ) -> None:
        self._lender = lender
        self._own = own
        self._others = others
        self._guard = threading.RLock()
        self._read: list[Manifest] | None = None
        self._names: dict[str, list[Tensor]] = {}
        self._nearest: Nearest | None = None
        self._based: dict[str, set[str]] = {}

    def cuts(self, view: TensorView, size: int) -> Sequence[int]:
        """Where to cut a tensor so that its chunks correspond to those of its predecessor.

        Returns the places, in bytes from its start; none where it has no predecessor.
        """
        for manifest in self._own:
            tensor = manifest.tensors.get(view.name)
            if tensor is not None and is_whole(view, size):
                return _cuts(tensor, view.dtype, size)
        return ()

    def any(self) -> bool:
        """Whether there is any manifest in which a relative could be found."""
        with self._guard:
            return bool(self._own or self._others_read())

    def of(self, new: Slice, digest: str, where: Where, summary: Summary | None) -> Iterator[Kin]:
        """Relatives of a chunk, the likeliest first; later ones are looked for when asked."""
        seen = {digest}
        first: Kin | None = None
        for part in self._by_name(new, where, summary):
            kin = self._kin(digest, part, where) if part.chunk.digest not in seen else None
            if kin is not None:
                seen.add(part.chunk.digest)
                yield kin
                first = first or kin
        if first is not None and first.part.whole == where.size and new.columns:
            yield replace(first, rows=True)
        if summary is not None:
            chunk = self._shelf().find(summary, len(new.data), seen)
            if chunk is not None:
                alike = _Part(chunk, new.dtype, 0, where.start, where.size)
                kin = self._kin(digest, alike, where)
                if kin is not None:
                    yield kin

    def _by_name(self, new: Slice, where: Where, summary: Summary | None) -> Iterator[_Part]:
        own = [m.tensors[where.name] for m in self._own if where.name in m.tensors]
        yield from self._ordered(own, new, where, summary)
        yield from self._ordered(self._elsewhere(where.name), new, where, summary)

    def _ordered(
        self, tensors: Iterable[Tensor], new: Slice, where: Where, summary: Summary | None
    ) -> list[_Part]:
        """The corresponding chunks of some tensors: those known to be near first, none far."""
        found: dict[str, _Part] = {}
        for tensor in tensors:
            part = _corresponding(tensor, new, where)
            if part is not None:
                found.setdefault(part.chunk.digest, part)
        parts = list(found.values())[:_PER_NAME]
        if summary is None or (len(parts) < 2 and len(new.data) < _WORTH_A_LOOK):
            return parts
        ranked = [(self._distance(part, summary), part) for part in parts]
        return [part for apart, part in sorted(ranked, key=lambda pair: pair[0]) if apart < _FAR]

    def _distance(self, part: _Part, summary: Summary) -> float:
        """The distance to a chunk in units of the larger norm; 1 where it is not known."""
        other = read_summary(self._lender.read, part.chunk)
        apart = None if other is None else summary.distance(other)
        if other is None or apart is None:
            return 1.0
        norm = max(summary.norm, other.norm)
        return apart / norm if norm else 0.0

    def _kin(self, digest: str, part: _Part, where: Where) -> Kin | None:
        chunk = self._lender.known(part.chunk.digest)
        if chunk is None or chunk.size != part.chunk.size:
            return None
        if not self._may_stand_on(digest, chunk):
            return None
        return Kin(self._lender, chunk, part, where)

    def _may_stand_on(self, digest: str, base: Chunk) -> bool:
        """Whether no chain would bite its tail: where all is stored anew, chunks may swap places.

        What is noted stays noted even if the base is not used in the end; that costs little.
        """
        with self._guard:
            waiting = [base.digest]
            seen: set[str] = set()
            while waiting:
                at = waiting.pop()
                if at == digest:
                    return False
                if at in seen:
                    continue
                seen.add(at)
                stored = self._lender.chunks.get(at)
                waiting += self._based.get(at, ())
                if stored is not None and stored.base is not None:
                    waiting.append(stored.base)
            self._based.setdefault(digest, set()).add(base.digest)
            return True

    def _others_read(self) -> list[Manifest]:
        if self._read is None:
            self._read = list(self._others())
            for manifest in self._read:
                for name, tensor in manifest.tensors.items():
                    self._names.setdefault(name, []).append(tensor)
        return self._read

    def _elsewhere(self, name: str) -> list[Tensor]:
        with self._guard:
            self._others_read()
            return self._names.get(name, [])

    def _shelf(self) -> Nearest:
        with self._guard:
            if self._nearest is None:
                manifests = [*self._own, *self._others_read()]
                self._nearest = Nearest(manifests, self._lender.read)
            return self._nearest


def _ratio(old: str, new: str) -> tuple[int, int] | None:
    """How many bytes of the new dtype stand for how many of the old; None where it cannot be."""
    if old == new:
        return 1, 1
    return (width(new), width(old)) if castable(old, new) else None


def _corresponding(tensor: Tensor, new: Slice, where: Where) -> _Part | None:
    """The chunk of an older tensor that has most of the elements of a new chunk."""
    ratio = _ratio(tensor.dtype, new.dtype)
    columns = columns_of(tensor.shape)
    if ratio is None or not is_whole(tensor, tensor.segment.size):
        return None
    if columns != new.columns and tensor.segment.size * ratio[0] != where.size * ratio[1]:
        return None
    start, end = (at * ratio[1] // ratio[0] for at in (where.start, where.start + len(new.data)))
    found, best, at = None, 0, 0
    for chunk in tensor.segment.chunks:
        common = min(end, at + chunk.size) - max(start, at)
        if common > best:
            found = _Part(chunk, tensor.dtype, columns, at, tensor.segment.size)
            best = common
        at += chunk.size
    return found


def _cuts(tensor: Tensor, dtype: str, size: int) -> list[int]:
    """The places at which a predecessor is cut, in the bytes of the new dtype."""
    ratio = _ratio(tensor.dtype, dtype)
    if ratio is None or len(tensor.segment.chunks) < 2 or not is_whole(tensor, tensor.segment.size):
        return []
    places = itertools.accumulate(chunk.size for chunk in tensor.segment.chunks[:-1])
    return [cut for at in places if 0 < (cut := at * ratio[0] // ratio[1]) < size]
