"""The loops over numbers that cost most: planes, differences, changed places, sums.

`_loops.c` has them for where a C compiler was at hand when this was installed. Here is the same in
numpy, bit for bit, which takes two to six times as long. Words are unsigned and little-endian; a
difference of words is taken modulo 2^n and folded, so that 0, -1, 1, -2, ... become 0, 1, 2, 3, ...
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from git_theta.core.compiled import LOOPS

compiled = LOOPS

BLOCK = 512 << 10
_TILE = 64 << 10
_JUMPS_BELOW = 0.03
_SUMS = (7, 23, 52)
LANES = 64
MOST = 256 << 10
_FIRST = 8

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.unsignedinteger]
Floats = npt.NDArray[np.floating[Any]]
Places = npt.NDArray[np.int64]
Wide = npt.NDArray[np.float64]


class Signs(NamedTuple):
    """A stream of signs, and where in it those of some numbers begin.

    `values` are 1 and -1, `bits` the same as bits, the lowest of each byte first, where 1 is minus;
    behind them come 64 bits more.
    """

    values: Floats
    bits: Bytes
    start: int


class _Scratch(threading.local):
    """Work arrays of one thread: fresh memory costs more than the work done in it."""

    def __init__(self) -> None:
        self.words = np.empty(BLOCK * 8, np.uint8)
        self.spare = np.empty(BLOCK * 8, np.uint8)
        self.tile = np.empty(_TILE * 8, np.uint8)
        self.places = np.empty(_TILE, np.int64)
        self.changed = np.empty(BLOCK + BLOCK // 8, np.bool_)


_scratch = _Scratch()


def split(new: Words, room: Bytes, *, turn: int = 0, old: Words | None = None) -> list[Bytes]:
    """Cut at most 512 Ki words into their bytes: planes in `room`, that of the lowest bytes first.

    Words are turned left by some bits before; or their differences from `old` are cut.
    """
    width, count = new.dtype.itemsize, len(new)
    planes = [room[index * count : (index + 1) * count] for index in range(width)]
    if compiled is not None:
        one, other = np.ascontiguousarray(new), None if old is None else np.ascontiguousarray(old)
        compiled.split(one, other, room[: new.nbytes], width, turn)
        return planes
    words = new if old is None else fold(new, old, _like(_scratch.spare, new))
    for index, plane in enumerate(planes):
        if turn and not index:
            _turned_low(plane, words, turn)
        elif index:
            shifted = _like(_scratch.words, words)
            np.right_shift(words, 8 * index - turn, out=shifted)
            np.copyto(plane, shifted, casting="unsafe")
        else:
            np.copyto(plane, words, casting="unsafe")
    return planes


def _turned_low(plane: Bytes, words: Words, turn: int) -> None:
    """The lowest bytes of turned words, which are never made: a shift finds all other bytes."""
    high, shifted = _like(_scratch.spare, words), _like(_scratch.words, words)
    np.left_shift(words, turn, out=shifted)
    np.right_shift(words, 8 * words.dtype.itemsize - turn, out=high)
    np.bitwise_or(shifted, high, out=shifted)
    np.copyto(plane, shifted, casting="unsafe")


def join(planes: list[Bytes], out: Words, *, turn: int = 0, old: Words | None = None) -> None:
    """Undo `split`: fill at most 512 Ki words from planes; those above the last are zero.

    `out` may be `old`.

    Raises:
        ValueError: a plane has not one byte for each word.
    """
    if compiled is not None and out.flags.c_contiguous:
        other = None if old is None else np.ascontiguousarray(old)
        compiled.join(planes, other, out, out.dtype.itemsize, turn)
        return
    if any(len(plane) != len(out) for plane in planes):
        raise ValueError("a plane has the wrong length")
    words = out if old is None else _like(_scratch.words, out)
    np.copyto(words, planes[-1])
    for plane in reversed(planes[:-1]):
        np.left_shift(words, 8, out=words)
        np.bitwise_or(words, plane, out=words)
    if old is not None:
        unfold(words, old, out)
    elif turn:
        high = _like(_scratch.words, out)
        np.left_shift(out, 8 * out.dtype.itemsize - turn, out=high)
        np.right_shift(out, turn, out=out)
        np.bitwise_or(out, high, out=out)


def fold(new: Words, reference: Words, out: Words) -> Words:
    """Folded differences, in numpy; `out` may be `new`."""
    for start in range(0, len(out), _TILE):
        part = out[start : start + _TILE]
        np.subtract(new[start : start + _TILE], reference[start : start + _TILE], out=part)
        _fold(part)
    return out


def _fold(part: Words) -> None:
    signed = np.dtype(f"<i{part.dtype.itemsize}")
    sign = _like(_scratch.tile, part)
    np.right_shift(part.view(signed), 8 * part.dtype.itemsize - 1, out=sign.view(signed))
    np.left_shift(part, 1, out=part)
    np.bitwise_xor(part, sign, out=part)


def unfold(folded: Words, reference: Words, out: Words) -> None:
    """Undo `fold`; `folded` is used up, `out` may be `reference`."""
    for start in range(0, len(out), _TILE):
        part = folded[start : start + _TILE]
        _unfold(part)
        np.add(part, reference[start : start + _TILE], out=out[start : start + _TILE])


def _unfold(part: Words) -> None:
    sign = _like(_scratch.tile, part)
    np.bitwise_and(part, 1, out=sign)
    np.negative(sign, out=sign)
    np.right_shift(part, 1, out=part)
    np.bitwise_xor(part, sign, out=part)


def gather(new: Words, old: Words, bits: Bytes, values: Words) -> int:
    """The folded differences of the words that changed, in `values`; returns how many those are.

    `bits` gets one for each word, the first one's the highest of the first byte. There are at most
    512 Ki words, and room for all of them in both.
    """
    if compiled is not None:
        found: int = compiled.gather(new, old, bits, values, new.dtype.itemsize)
        return found
    changed, count = _scratch.changed[: len(new)], 0
    for start in range(0, len(new), _TILE):
        tile = _like(_scratch.spare, new[start : start + _TILE])
        np.subtract(new[start : start + _TILE], old[start : start + _TILE], out=tile)
        where = np.not_equal(tile, 0, out=changed[start : start + _TILE])
        places = np.flatnonzero(where)
        _fold(np.take(tile, places, mode="clip", out=values[count : count + len(places)]))
        count += len(places)
    bits[: -(-len(new) // 8)] = np.packbits(changed)
    return count


def spread(bits: Bytes, values: Words, old: Words, out: Words) -> None:
    """Undo `gather`; `values` may be used up, `out` may be `old`.

    Raises:
        ValueError: there are more or fewer values than bits that are set.
    """
    if compiled is not None:
        compiled.spread(bits, values, old, out, out.dtype.itemsize)
        return
    changed = np.unpackbits(bits, count=len(out)).view(np.bool_)
    if np.count_nonzero(changed) != len(values):
        raise ValueError("there are more or fewer values than places")
    at = 0
    for start in range(0, len(out), _TILE):
        places = np.flatnonzero(changed[start : start + _TILE])
        tile = _like(_scratch.spare, out[start : start + _TILE])
        tile.fill(0)
        found = values[at : at + len(places)]
        _unfold(found)
        tile[places] = found
        np.add(tile, old[start : start + _TILE], out=out[start : start + _TILE])
        at += len(places)


def seek(new: Words, old: Words, gaps: Words, values: Words, gap: int) -> tuple[int, int]:
    """The folded differences of the words that changed, and how many did not before each of them.

    There are at most 512 Ki words, and room for all of them in `gaps` (32 bits) and `values`.
    `gap` words were the same before these. Returns how many changed, and how many are the same
    behind the last of those.
    """
    if compiled is not None:
        done: tuple[int, int] = compiled.seek(new, old, gaps, values, new.dtype.itemsize, gap)
        return done
    places = _places(np.not_equal(new, old, out=_scratch.changed[: len(new)]))
    count = len(places)
    if not count:
        return 0, gap + len(new)
    found = values[:count]
    np.take(new, places, mode="clip", out=found)
    fold(found, old[places], found)
    np.copyto(gaps[:count], np.diff(places, prepend=-1 - gap) - 1, casting="unsafe")
    return count, len(new) - 1 - int(places[-1])


def _places(changed: npt.NDArray[np.bool_]) -> Places:
    """Where booleans at the start of the thread's scratch are true.

    Where numpy is to find a few in a hundred it jumps from one to the next, which takes longer
    than to look at them all. It does that where there are more, so more are put behind the end.
    """
    size, count = len(changed), np.count_nonzero(changed)
    if not _JUMPS_BELOW * size < count <= size // 8:
        return np.flatnonzero(changed)
    more = _scratch.changed[: size + size // 8]
    more[size:] = True
    return np.flatnonzero(more)[:count]


def scatter(gaps: Words, values: Words, out: Words, at: int) -> int:
    """Undo `seek`: add folded differences to the words at some places; returns what comes next.

    `at` is the word from which the first gap counts. `values` may be used up.

    Raises:
        ValueError: a place is beyond the end.
    """
    if compiled is not None:
        after: int = compiled.scatter(gaps, values, out, out.dtype.itemsize, at)
        if after < 0:
            raise ValueError("a place is beyond the end")
        return after
    for start in range(0, len(gaps), _TILE):
        part = gaps[start : start + _TILE]
        places = _scratch.places[: len(part)]
        np.add(part, 1, out=places, dtype=np.int64)
        places[0] += at - 1
        np.cumsum(places, out=places)
        at = int(places[-1]) + 1
        if at > len(out):
            raise ValueError("a place is beyond the end")
        changes = values[start : start + _TILE]
        _unfold(changes)
        out[places] += changes
    return at


def plus_product(
    factors: tuple[Floats, Floats], base: Words, out: Words, *, mantissa: int, skip: int
) -> bool:
    """Floats in `base` plus the product of two factors, as `updates/rounding.py` adds them.

    Only in C, and not for all floats: False where nothing was done. `mantissa` is how many bits
    that of the floats has. The factors are one of rows and one of columns, both float32 or float64,
    whose product is exact in that; the words begin `skip` numbers after the start of a row.
    """
    if compiled is None or mantissa not in _SUMS:
        return False
    left, right = map(np.ascontiguousarray, factors)
    width, rank = left.dtype.itemsize, left.shape[1]
    compiled.plus_product(left, right, base, out, mantissa, width, rank, skip)
    return True


def totals(
    rows: Floats | Words, numbers: Wide, bins: Floats | None = None, signs: Signs | None = None
) -> None:
    """Statistics of each row of a contiguous table of at most 256 Ki columns.

    The table holds float32 numbers, or bf16 ones as 16-bit words. A row of `numbers` (float64, 4
    columns) gets the sum of squares, the sum, the smallest and the largest number of one; the last
    two mean something only where the first is finite. A row of `bins` (float32, 64 columns) gets
    sums of the numbers under `signs`: number i goes to sum i mod 64.

    Numbers are added in float32 by halving: zeros behind them make their count 512 times a power of
    two, then the second half is added to the first until 64 sums are left. Those of squares and of
    values are halved on in float64.
    """
    count = rows.shape[1]
    if compiled is not None:
        to: npt.NDArray[Any] = numbers
        bits: Bytes | None = None
        start = 0
        if bins is not None and signs is not None:
            to, (_, bits, start) = bins, signs
        compiled.totals(rows, rows.dtype.itemsize, count, _scratch.words, numbers, to, bits, start)
        return
    height = _FIRST
    while height * LANES < count:
        height *= 2
    some = MOST // (height * LANES)
    for at in range(0, len(rows), some):
        part = slice(at, at + some)
        values = single(rows[part])
        grid = np.zeros((len(values), height * LANES), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(values, values, out=grid[:, :count])
            numbers[part, 0] = _total(_halved(grid))
            grid[:, :count], grid[:, count:] = values, 0
            numbers[part, 1] = _total(_halved(grid))
            if bins is not None and signs is not None:
                np.multiply(values, signs.values[signs.start :][:count], out=grid[:, :count])
                grid[:, count:] = 0
                bins[part] = _halved(grid) + np.float32(0)  # a zero has no sign
            numbers[part, 2] = values.min(axis=1)
            numbers[part, 3] = values.max(axis=1)


def single(numbers: Floats | Words) -> Floats:
    """Numbers as float32: such ones as they are, 16-bit words as the bf16 numbers that they are."""
    if numbers.dtype == np.float32:
        return numbers.view(np.float32)
    wide = numbers.astype(np.uint32)
    np.left_shift(wide, 16, out=wide)
    return wide.view(np.float32)


def _halved(grid: Floats) -> Floats:
    width = grid.shape[1]
    while width > LANES:
        width //= 2
        np.add(grid[:, :width], grid[:, width : 2 * width], out=grid[:, :width])
    return grid[:, :LANES]


def _total(sums: Floats) -> Wide:
    wide, width = sums.astype(np.float64), LANES
    while width > 1:
        width //= 2
        wide[:, :width] += wide[:, width : 2 * width]
    return wide[:, 0]


def _like(buffer: Bytes, words: Words) -> Words:
    """The start of a work array, as so many words of that kind."""
    return buffer[: words.nbytes].view(words.dtype)
