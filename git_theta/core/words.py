"""Stored floats as numbers to compute with, and back: by their bits, in numpy.

bf16, which numpy does not know, is the upper half of float32. Two of them make one word, so what
is done to them is done to the lower halves of all words, then to the upper ones: numbers made of
bf16 lie in that order, and `narrow` knows it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[Any]

FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<f4"}
"""The dtypes that can be widened here."""

# The width of a word in bytes, and the bits of infinity.
_INFINITE = {
    "F64": (8, 0x7FF0 << 48),
    "F32": (4, 0x7F80 << 16),
    "F16": (2, 0x7C00),
    "BF16": (2, 0x7F80),
}
_UPPER = np.uint32(0xFFFF0000)


def has_only_finite(data: Bytes, dtype: str) -> bool:
    """Whether there is no NaN and no infinity among stored numbers of a dtype in `FLOATS`.

    The bits of floats are ordered as integers are, negative ones by themselves, and what is not
    finite comes behind all numbers: so two largest words tell, without any number being made.
    """
    if not len(data):
        return True
    width, least = _INFINITE[dtype]
    negative = 1 << (8 * width - 1)
    signed, unsigned = data.view(f"<i{width}"), data.view(f"<u{width}")
    return int(signed.max()) < least and int(unsigned.max()) < negative + least


def widen(data: Bytes, dtype: str, room: Bytes) -> Numbers:
    """Stored numbers as float32 (float64 as it is), in `room` or where they are."""
    if dtype == "F16":
        wide = room[: 2 * len(data)].view("<f4")
        np.copyto(wide, data.view("<f2"))
        return wide
    if dtype != "BF16":
        return data.view(FLOATS[dtype])
    count = len(data) // 2
    half = count // 2
    words = room[: 4 * count].view("<u4")
    pairs = data[: 4 * half].view("<u4")
    np.left_shift(pairs, 16, out=words[:half])
    np.bitwise_and(pairs, _UPPER, out=words[half : 2 * half])
    if count % 2:
        words[-1] = int(data[4 * half :].view("<u2")[0]) << 16
    return words.view("<f4")


def narrow(numbers: Numbers, dtype: str, out: Bytes) -> None:
    """What `widen` made, or numbers in its order, rounded to the nearest, ties to even.

    `numbers` are used up. What is too large becomes infinite; a NaN does not stay one for sure
    unless it is one that arithmetic on stored numbers gives.
    """
    if dtype != "BF16":
        with np.errstate(all="ignore"):
            np.copyto(out.view("<f2" if dtype == "F16" else FLOATS[dtype]), numbers, "unsafe")
        return
    words = numbers.view("<u4")
    half = len(words) // 2
    pairs = out[: 4 * half].view("<u4")
    for part in (words[:half], words[half:]):
        odd = pairs if len(part) == half else np.empty(len(part), np.uint32)
        np.right_shift(part, 16, out=odd)
        np.bitwise_and(odd, 1, out=odd)
        np.add(odd, np.uint32(0x7FFF), out=odd)
        np.add(part, odd, out=part)
    np.right_shift(words[:half], 16, out=words[:half])
    np.bitwise_and(words[half : 2 * half], _UPPER, out=pairs)
    np.bitwise_or(pairs, words[:half], out=pairs)
    if len(words) % 2:
        out[4 * half :].view("<u2")[0] = int(words[-1]) >> 16
