"""A base brought to the dtype and length of the chunk that an update is made for.

What is done to it is written into the record, so that a reader does the same: a cast, a shift, and
a map of rows, in this order. Bytes that come from nowhere are zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from git_theta.core.casts import Bytes, cast, castable, width
from git_theta.core.manifest import MAX_CHUNK
from git_theta.core.payload import expand, squeeze
from git_theta.errors import CorruptError

Map = npt.NDArray[np.int32]

LEAST_ROW = 16
_HASHED = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """Which row of the base each row of the chunk comes from; -1 for none.

    `size` is the length of a row in bytes. The first whole row of the chunk begins at its byte
    `lead`, that of the base at its byte `base_lead`; what lies before and behind is zero.
    """

    size: int
    lead: int
    base_lead: int
    source: Map


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Align:
    """How a base becomes one of the right dtype and length.

    `cast` has the dtypes before and after. Byte i is byte i + `shift` of the (cast) base. With
    `rows`, whole rows are taken instead.
    """

    cast: tuple[str, str] | None = None
    shift: int = 0
    rows: Rows | None = None

    def is_plain(self, size: int, base_size: int) -> bool:
        """Whether a base of this size needs nothing."""
        return self.cast is None and not self.shift and self.rows is None and size == base_size

    def apply(self, base: Bytes, out: Bytes) -> None:
        """Fill `out` with the aligned base.

        Raises:
            CorruptError: the base does not fit.
        """
        if self.rows is not None:
            if self.cast is not None:
                base = _whole_cast(base, *self.cast)
            _take_rows(base, out, self.rows)
        elif self.cast is not None:
            _shifted_cast(base, out, self.shift, *self.cast)
        else:
            start, end = _overlap(len(base), len(out), self.shift)
            out[:start] = 0
            out[end:] = 0
            out[start:end] = base[start + self.shift : end + self.shift]


PLAIN = Align()


def _overlap(base: int, size: int, shift: int) -> tuple[int, int]:
    """The bytes of a chunk that lie in a base."""
    start = min(size, max(0, -shift))
    return start, max(start, min(size, base - shift))


def _widths(base: Bytes, old: str, new: str) -> tuple[int, int]:
    if not castable(old, new) or len(base) % width(old):
        raise CorruptError("a stored record casts its base in a way that is not possible")
    return width(old), width(new)


def _whole_cast(base: Bytes, old: str, new: str) -> Bytes:
    before, after = _widths(base, old, new)
    size = len(base) // before * after
    if size > 2 * MAX_CHUNK:
        raise CorruptError("a stored record makes its base too large")
    out = np.empty(size, np.uint8)
    cast(base, old, new, out)
    return out


def _shifted_cast(base: Bytes, out: Bytes, shift: int, old: str, new: str) -> None:
    before, after = _widths(base, old, new)
    if shift % after or len(out) % after:
        raise CorruptError("a stored record shifts its base by part of a number")
    start, end = _overlap(len(base) // before * after, len(out), shift)
    out[:start] = 0
    out[end:] = 0
    first = (start + shift) // after
    cast(base[first * before :][: (end - start) // after * before], old, new, out[start:end])


def _take_rows(base: Bytes, out: Bytes, rows: Rows) -> None:
    new, old = whole_rows(out, rows.size, rows.lead), whole_rows(base, rows.size, rows.base_lead)
    if len(rows.source) != len(new) or (
        len(rows.source) and not -1 <= rows.source.min() <= rows.source.max() < len(old)
    ):
        raise CorruptError("a stored record maps rows that its base does not have")
    out[: rows.lead] = 0
    out[rows.lead + new.size :] = 0
    step = max(1, _HASHED // rows.size)
    for start in range(0, len(new), step):
        source = rows.source[start : start + step]
        part = new[start : start + step]
        if len(old):
            np.take(old, np.maximum(source, 0), axis=0, out=part, mode="clip")
        part[source < 0] = 0


def whole_rows(data: Bytes, size: int, lead: int) -> npt.NDArray[np.uint8]:
    """The whole rows of a chunk whose first one begins at byte `lead`, as a matrix."""
    count = max(0, len(data) - lead) // size
    return data[lead : lead + count * size].reshape(count, size)


# --- in a record's header ------------------------------------------------------------------------


def pack(align: Align) -> dict[str, Any]:
    """An alignment as it stands in a record's header."""
    out: dict[str, Any] = {}
    if align.cast is not None:
        out["c"] = list(align.cast)
    if align.shift:
        out["s"] = align.shift
    if align.rows is not None:
        rows = align.rows
        steps = np.diff(rows.source, prepend=np.int32(-1)).astype("<i4")
        packed = squeeze(steps.tobytes(), zstandard.ZstdCompressor(level=3))
        out["r"] = [rows.size, rows.lead, rows.base_lead, len(rows.source), bytes(packed)]
    return out


def unpack(raw: Any) -> Align:
    """Read an alignment from a record's header.

    Raises:
        ValueError, TypeError, KeyError, CorruptError: it is none.
    """
    given = raw.get("c")
    shift = raw.get("s", 0)
    if type(shift) is not int or abs(shift) > 16 * MAX_CHUNK:
        raise ValueError("not a shift")
    if given is not None:
        old, new = map(str, given)
        given = (old, new)
    rows = _rows(*raw["r"]) if "r" in raw else None
    return Align(cast=given, shift=shift, rows=rows)


def _rows(size: object, lead: object, base_lead: object, count: object, packed: object) -> Rows:
    row, first, base_first, rows = map(_natural, (size, lead, base_lead, count))
    if row < LEAST_ROW or row * rows > MAX_CHUNK:
        raise ValueError("rows of an impossible size")
    if first >= row or base_first >= row or not isinstance(packed, bytes):
        raise ValueError("not a row")
    plain = expand(packed, 4 * rows, zstandard.ZstdDecompressor())
    steps = np.frombuffer(plain, "<i4")
    with np.errstate(over="ignore"):
        source = np.cumsum(steps, dtype=np.int32) - np.int32(1)
    return Rows(size=row, lead=first, base_lead=base_first, source=source)


def _natural(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_CHUNK:
        raise ValueError(f"not a number of bytes or rows: {value!r}")
    return value


# --- found by the encoder ------------------------------------------------------------------------


def find_rows(new: Bytes, base: Bytes, size: int, lead: int, base_lead: int) -> Rows | None:
    """Find rows that moved: a map under which more rows are equal than where they stand.

    `base` has the dtype of `new` already. Rows that match none come from where their neighbours
    come from.
    """
    rows, old = whole_rows(new, size, lead), whole_rows(base, size, base_lead)
    if size < LEAST_ROW or not len(rows) or not len(old):
        return None
    hashes, known = _hashes(rows), _hashes(old)
    source = _matched(hashes, known)
    both = min(len(rows), len(old))
    staying = int(np.count_nonzero(hashes[:both] == known[:both]))
    if int(np.count_nonzero(source >= 0)) <= staying:
        return None
    return Rows(size=size, lead=lead, base_lead=base_lead, source=_continued(source, len(old)))


def _hashes(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """One number a row, from all of its bytes."""
    count, size = rows.shape
    unit = next(unit for unit in (8, 4, 2, 1) if size % unit == 0)
    words = rows.view(f"<u{unit}")
    factors = np.random.default_rng(1).integers(1, 1 << 63, words.shape[1], np.uint64) | np.uint64(
        1
    )
    found = np.empty(count, np.uint64)
    step = max(1, _HASHED // size)
    for start in range(0, count, step):
        part = words[start : start + step].astype(np.uint64)
        part ^= part >> np.uint64(31)
        part *= factors
        found[start : start + step] = part.sum(axis=1, dtype=np.uint64)
    return found


def _matched(hashes: npt.NDArray[np.uint64], known: npt.NDArray[np.uint64]) -> Map:
    order = np.argsort(known, kind="stable")
    at = np.minimum(np.searchsorted(known[order], hashes), len(known) - 1)
    found = order[at].astype(np.int32)
    found[known[found] != hashes] = -1
    # Rows that are equal to several stay in their run, so that the map is short.
    follow = np.full(len(found), -1, np.int32)
    follow[1:] = np.where(found[:-1] >= 0, found[:-1] + 1, -1)
    fits = (follow >= 0) & (follow < len(known))
    fits &= known[np.clip(follow, 0, len(known) - 1)] == hashes
    found[fits] = follow[fits]
    return found


def _continued(source: Map, limit: int) -> Map:
    """Give rows without a match the place behind their predecessor's, if no row comes from it."""
    index = np.arange(len(source))
    last = np.maximum.accumulate(np.where(source >= 0, index, -1))
    guess = np.where(last >= 0, source[np.maximum(last, 0)] + (index - last), index)
    used = np.zeros(limit, bool)
    used[source[source >= 0]] = True
    good = (source < 0) & (guess < limit)
    good[good] = ~used[guess[good]]
    return np.where(good, guess, source).astype(np.int32)
