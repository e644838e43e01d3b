"""Float arithmetic that gives the same bits on every machine.

Sums and products here are single operations, correctly rounded by IEEE 754. What machines do not
agree on is left out: the bits of NaNs, and subnormal numbers, which some processes flush to zero.
Where the number at hand or the result is one of those, the number at hand is taken as it is.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from git_theta.core.planes import WORDS, Words

TILE = 128 << 10

Floats = npt.NDArray[np.floating[Any]]


class _Scratch(threading.local):
    """Work arrays of one thread, for `TILE` numbers."""

    def __init__(self) -> None:
        self.wide = np.empty(TILE, np.uint64)
        self.bits = np.empty(TILE, np.uint64)
        self.part = np.empty(TILE, np.uint64)


_scratch = _Scratch()


@dataclass(frozen=True, slots=True)
class Float:
    """A dtype with products: the width of a word in bytes, and the bits of its mantissa."""

    word: int
    mantissa: int

    @property
    def narrow(self) -> bool:
        """Whether numbers are widened to float32 to calculate with them."""
        return self.word == 2

    @property
    def working(self) -> type[np.floating[Any]]:
        """The type that holds every number of the dtype, and in which a scale is kept."""
        return np.float64 if self.word == 8 else np.float32


FLOATS = {"F64": Float(8, 52), "F32": Float(4, 23), "BF16": Float(2, 7), "F16": Float(2, 10)}


def widened(words: Words, kind: Float, out: Words | None = None) -> Floats:
    """The numbers that words stand for, in their working type; maybe a view.

    `out` has room for as many numbers of 32 bits, for dtypes that are narrower than that.
    """
    if not kind.narrow:
        return words.view(kind.working)
    wide = np.empty(words.shape, np.uint32) if out is None else out
    if kind.mantissa == FLOATS["F16"].mantissa:
        np.copyto(wide.view(np.float32), words.view("<f2"))
        return wide.view(np.float32)
    np.copyto(wide, words)
    np.left_shift(wide, 16, out=wide)
    return wide.view(np.float32)


def added(changes: Floats, base: Words, kind: Float, out: Words) -> None:
    """The numbers in `base` plus finite changes, rounded once to words; `out` may be `base`.

    The changes, in float32 or float64, are used up.
    """
    for start in range(0, len(out), TILE):
        old, total = base[start : start + TILE], changes[start : start + TILE]
        numbers = widened(old, kind, _room(_scratch.wide, old.size, 4))
        if numbers.dtype != total.dtype:  # numpy would convert in small pieces
            double = _room(_scratch.bits, old.size, 8).view(np.float64)
            np.copyto(double, numbers)
            numbers = double
        np.add(total, numbers, out=total)
        _settle(total, old, kind, out[start : start + TILE])


def narrowed(values: Floats, base: Words, kind: Float, out: Words) -> None:
    """Round results to the words of a dtype, once more where they are narrower than float32.

    `values` came of the numbers in `base`, which is taken instead where machines might differ;
    they are not finite where that is not. They are used up. `out` may be `base`.
    """
    for start in range(0, len(out), TILE):
        stop = start + TILE
        _settle(values[start:stop], base[start:stop], kind, out[start:stop])


def _room(buffer: Words, count: int, word: int) -> Words:
    """The first `count` words of some width in a work array."""
    return buffer.view(WORDS[word])[:count]


def _settle(values: Floats, base: Words, kind: Float, out: Words) -> None:
    """Round up to `TILE` results, and take the base's words where they are in doubt."""
    part = _room(_scratch.part, len(out), kind.word)
    _round(values, kind, part)
    _keep_doubtful(part, base, kind)
    out[:] = part


def _round(values: Floats, kind: Float, out: Words) -> None:
    if not kind.narrow:
        np.copyto(out.view(kind.working), values, casting="same_kind")
        return
    wide, even = (_room(each, len(out), 4) for each in (_scratch.bits, _scratch.wide))
    if values.dtype == np.float32:
        wide = values.view(np.uint32)
    else:
        np.copyto(wide.view(np.float32), values, casting="same_kind")
    if kind.mantissa == FLOATS["F16"].mantissa:
        np.copyto(out.view("<f2"), wide.view(np.float32), casting="same_kind")
        return
    np.right_shift(wide, 16, out=even)
    np.bitwise_and(even, 1, out=even)
    np.add(wide, even, out=wide)
    np.add(wide, 0x7FFF, out=wide)
    np.right_shift(wide, 16, out=wide)
    np.copyto(out, wide, casting="unsafe")


def _keep_doubtful(words: Words, base: Words, kind: Float) -> None:
    """Take the base's word where it or the result is no normal number; zeros of the base are."""
    if not len(words):
        return
    least = 1 << kind.mantissa
    signed = base.view(f"<i{kind.word}")
    # What is not finite makes a result that is not. A sign alone is the least signed number.
    small = np.minimum.reduce(base) < least or (
        np.minimum.reduce(signed) < least - (1 << (8 * kind.word - 1))
    )
    if not small and np.maximum.reduce(_magnitudes(words, least)) < _span(kind):
        return
    odd = _magnitudes(words, least) >= _span(kind)
    odd |= (_magnitudes(base, least) >= _span(kind)) & (base << 1 != 0)
    np.copyto(words, base, where=odd)


def _span(kind: Float) -> int:
    return (1 << 8 * kind.word) - (4 << kind.mantissa)


def _magnitudes(words: Words, least: int) -> Words:
    """Words without their sign, so that those of normal numbers come first; the thread's own."""
    found = _room(_scratch.bits, len(words), words.dtype.itemsize)
    np.add(words, words, out=found)
    np.subtract(found, words.dtype.type(2 * least), out=found)
    return found
