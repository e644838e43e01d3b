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

from git_theta.core.planes import Words

TILE = 128 << 10

Floats = npt.NDArray[np.floating[Any]]


class _Scratch(threading.local):
    """Work arrays of one thread, for `TILE` numbers."""

    def __init__(self) -> None:
        self.wide = np.empty(TILE, np.uint32)
        self.bits = np.empty(TILE, np.uint64)
        self.base = np.empty(TILE, np.uint64)


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


def widened(words: Words, kind: Float) -> Floats:
    """The numbers that words stand for, in their working type; maybe a view."""
    if not kind.narrow:
        return words.view(kind.working)
    if kind.mantissa == FLOATS["F16"].mantissa:
        return words.view("<f2").astype(np.float32)
    wide = words.astype(np.uint32)
    np.left_shift(wide, 16, out=wide)
    return wide.view(np.float32)


def narrowed(values: Floats, base: Words, kind: Float, out: Words) -> None:
    """Round results to the words of a dtype, once more where they are narrower than float32.

    `values` came of the numbers in `base`, which is taken instead where machines might differ.
    They are used up. `out` may be `base`.
    """
    for start in range(0, len(out), TILE):
        stop = min(start + TILE, len(out))
        part = _scratch.base[: stop - start].view(out.dtype)[: stop - start]
        _round(values[start:stop], kind, part)
        _keep_doubtful(part, base[start:stop], kind)
        out[start:stop] = part


def _round(values: Floats, kind: Float, out: Words) -> None:
    if not kind.narrow:
        np.copyto(out.view(kind.working), values, casting="same_kind")
        return
    if values.dtype == np.float32:
        wide = values.view(np.uint32)
    else:
        wide = _scratch.wide[: len(out)]
        np.copyto(wide.view(np.float32), values, casting="same_kind")
    if kind.mantissa == FLOATS["F16"].mantissa:
        np.copyto(out.view("<f2"), wide.view(np.float32), casting="same_kind")
        return
    even = _scratch.bits.view(np.uint32)[: len(out)]
    np.right_shift(wide, 16, out=even)
    np.bitwise_and(even, 1, out=even)
    np.add(even, 0x7FFF, out=even)
    np.add(wide, even, out=wide)
    np.right_shift(wide, 16, out=wide)
    np.copyto(out, wide, casting="unsafe")


def _keep_doubtful(words: Words, base: Words, kind: Float) -> None:
    """Take the base's word where it or the result is no normal number; zeros of the base are."""
    shape = _Shape(kind)
    result_odd = shape.odd(words)
    base_odd = shape.odd(base)
    if base_odd is not None:
        base_odd &= (base << 1) != 0
        result_odd = base_odd if result_odd is None else result_odd | base_odd
    if result_odd is not None:
        np.copyto(words, base, where=result_odd)


class _Shape:
    """Where the exponents of a dtype begin and end."""

    def __init__(self, kind: Float) -> None:
        bits = 8 * kind.word
        self.least = 1 << (kind.mantissa + 1)
        self.span = (1 << bits) - 2 * self.least

    def odd(self, words: Words) -> npt.NDArray[np.bool_] | None:
        """Which words are zero, subnormal or not finite; None where none is."""
        shifted = _scratch.bits[: len(words)].view(words.dtype)[: len(words)]
        np.add(words, words, out=shifted)
        np.subtract(shifted, words.dtype.type(self.least), out=shifted)
        if not len(words) or shifted.max() < self.span:
            return None
        odd: npt.NDArray[np.bool_] = shifted >= self.span
        return odd
