"""Thin matrices of small integers, whose product is exact in whatever order it is summed up.

Each row of the left factor, and each column of the right, is a row of integers times a power of
two. Integers are so small that every partial sum of a product is an integer below 2^53, which
float64 holds exactly: neither the library that multiplies, nor its threads, its blocks, or fused
operations can change a bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from git_theta.core import planes
from git_theta.core.planes import BLOCK
from git_theta.errors import CorruptError

_SUM_BITS, _SINGLE_BITS = 53, 24
_FAR, _NEAR = 400, 50
_TRIED = 64
_LEAST_BITS = 4
_UNSEEN = 0.5

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int32]


def most_bits(rank: int) -> int:
    """How many bits an integer may have so that all sums of `rank` products are exact."""
    return (_SUM_BITS - (rank - 1).bit_length()) // 2


@dataclass(frozen=True, slots=True)
class Thin:
    """One factor, as lines: rows of the left one, columns of the right one."""

    whole: Integers
    exponents: npt.NDArray[np.int16]

    def values(self) -> Doubles:
        """The numbers that the lines stand for."""
        return np.ldexp(self.whole.astype(np.float64), self.exponents[:, np.newaxis])

    @property
    def largest(self) -> int:
        """The size of the largest integer."""
        return int(np.abs(self.whole.astype(np.int64)).max(initial=0))

    def frames(self) -> list[bytes]:
        """The factor as frames: its exponents in planes, then its integers."""
        frames: list[bytes] = []
        for array in (self.exponents.astype("<i2"), self.whole.astype("<i4")):
            flat = array.ravel().view(f"<u{array.itemsize}")
            zero = np.zeros(min(BLOCK, len(flat)), flat.dtype)
            for start in range(0, len(flat), BLOCK):
                part = flat[start : start + BLOCK]
                frames += planes.encode_words(part, old=zero[: len(part)])
        return frames


def quantised(lines: Doubles, bits: int) -> Thin:
    """Lines rounded to integers of `bits` bits, each by its own largest number."""
    largest = np.abs(lines).max(axis=1, initial=0.0)
    exponents = np.clip(np.frexp(largest)[1] - bits, -_FAR, _FAR).astype(np.int16)
    whole = np.rint(np.ldexp(lines, -exponents.astype(np.int32)[:, np.newaxis]))
    most = (1 << bits) - 1
    return Thin(np.clip(whole, -most, most).astype(np.int32), exponents)


def enough_bits(left: Doubles, right: Doubles, noise: float) -> int:
    """The fewest bits whose rounding is lost in an error of the product that is there anyway."""
    most = most_bits(left.shape[1])
    few = left[:: max(1, len(left) // _TRIED)], right[:, :: max(1, right.shape[1] // _TRIED)]
    rounded = [quantised(lines, most - 2).values() for lines in (few[0], few[1].T)]
    error = float(np.sqrt(np.mean((few[0] @ few[1] - rounded[0] @ rounded[1].T) ** 2)))
    spare = math.floor(math.log2(min(max(noise * _UNSEEN / max(error, 1e-300), 1e-9), 1e9)))
    return min(max(most - 2 - spare, _LEAST_BITS), most)


def read(frames: Iterator[memoryview], lines: int, rank: int) -> Thin:
    """Undo `Thin.frames`.

    Raises:
        CorruptError: the frames hold something else.
    """
    exponents = _unfolded(frames, lines, np.dtype("<u2")).view("<i2").astype(np.int16)
    whole = _unfolded(frames, lines * rank, np.dtype("<u4")).view("<i4")
    if len(exponents) and np.abs(exponents.astype(np.int32)).max() > _FAR:
        raise CorruptError("a stored factor has an impossible exponent")
    return Thin(whole.reshape(lines, rank).astype(np.int32), exponents)


def _unfolded(
    frames: Iterator[memoryview], count: int, dtype: np.dtype[Any]
) -> npt.NDArray[np.unsignedinteger]:
    out = np.empty(count, dtype)
    zero = np.zeros(min(BLOCK, count), dtype)
    for start in range(0, count, BLOCK):
        part = out[start : start + BLOCK]
        planes.decode_words(frames, part, zero[: len(part)])
    return out


def check(left: Thin, right: Thin) -> None:
    """Make sure that the product of two factors is exact.

    Raises:
        CorruptError: a partial sum might not be.
    """
    if left.largest * right.largest * left.whole.shape[1] >= 1 << _SUM_BITS:
        raise CorruptError("the product of two stored factors is not exact")


def fit_single(left: Thin, right: Thin) -> bool:
    """Whether the product of two factors is exact in float32 too.

    A float32 number plus such a product, rounded once to float32, is what it is by way of float64:
    where float64 has to round the sum, one of the two is so small beside the other that it changes
    nothing.
    """
    if left.largest * right.largest * left.whole.shape[1] >= 1 << _SINGLE_BITS:
        return False
    return all(int(np.abs(f.exponents).max(initial=0)) <= _NEAR for f in (left, right))


def product(left: Floats, right: Floats, out: Floats | None = None) -> Floats:
    """The exact product of two factors' values, both of one type; may use `out` to hold it."""
    if not _library_is_exact(left.dtype):
        return sequential(left, right)
    found: Floats = np.matmul(left, right, out=out)
    return found


def sequential(left: Floats, right: Floats) -> Floats:
    """The same product, one rank after the other, with no library."""
    total = np.zeros((len(left), right.shape[1]), left.dtype)
    for column, row in zip(left.T, right, strict=True):
        total += column[:, np.newaxis] * row
    return total


@cache
def _library_is_exact(dtype: np.dtype[Any]) -> bool:
    """Whether the library multiplies truly in this type, by a trial that uses all of its bits."""
    rank = 8
    bits = _SUM_BITS if dtype == np.float64 else _SINGLE_BITS
    most = (1 << (bits - (rank - 1).bit_length()) // 2) - 1
    left = most - np.arange(64 * rank).reshape(64, rank) % most
    right = most - 3 * np.arange(rank * 64).reshape(rank, 64) % most
    found = left.astype(dtype) @ right.astype(dtype)
    return bool(np.array_equal(found, (left @ right).astype(dtype)))
