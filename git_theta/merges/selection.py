"""Exactly k entries of largest magnitude, without sorting; equal ones are taken by index.

A radix selection: the bits of a float that is not negative are ordered as the float is, so the
k-th largest is found digit by digit, each digit by one histogram over all blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

Parts = Callable[[], Iterable[Tensor]]
_DIGIT = 16
BINS = 1 << _DIGIT
FEW = 1 << 12


@dataclass(slots=True)
class Top:
    """The k largest: all above `value`, and the first `spare` of those equal to it.

    `whole` says that all equal ones belong to them. `keeps` is called with the blocks in order,
    once each.
    """

    value: float
    spare: int
    whole: bool

    def keeps(self, magnitudes: Tensor) -> Tensor:
        """Which entries of the next block belong to the k largest, as 1 and 0; overwrites it."""
        if self.whole or not self.spare:
            return magnitudes.ge_(self.value) if self.whole else magnitudes.gt_(self.value)
        same = magnitudes == self.value
        found = int(same.sum())
        if found <= self.spare:
            self.spare -= found
            return magnitudes.ge_(self.value)
        kept = same & (same.cumsum(0) <= self.spare)
        self.spare = 0
        return magnitudes.gt_(self.value).add_(kept)


def digits(dtype: torch.dtype) -> int:
    """How many histograms it takes."""
    return 4 if dtype == torch.float64 else 2


def histogram(magnitudes: Tensor, prefix: int, level: int) -> Tensor:
    """Counts of the next digit among entries whose digits so far are `prefix`; int64."""
    wide = magnitudes.dtype == torch.float64
    bits = magnitudes.view(torch.int64 if wide else torch.int32)
    shift = _DIGIT * (digits(magnitudes.dtype) - 1 - level)
    if level:
        bits = bits[(bits >> (shift + _DIGIT)) == prefix]
    digit = bits >> shift if shift else bits
    if level:
        digit = digit & (BINS - 1)
    return torch.bincount(digit, minlength=BINS)


def descend(counts: Tensor, k: int) -> tuple[int, int]:
    """The digit of the k-th largest, and how many of its entries are among the k."""
    above = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(above, k))
    before = int(above[place - 1]) if place else 0
    return len(counts) - 1 - place, k - before


def magnitude(bits: int, dtype: torch.dtype) -> float:
    """The float that has these bits."""
    whole = torch.int64 if dtype == torch.float64 else torch.int32
    return float(torch.tensor([bits], dtype=whole).view(dtype)[0])


def largest(parts: Parts, k: int) -> Top:
    """The k largest (k at least 1, at most all) of magnitudes that come in flat blocks.

    `parts` is called once for each digit and must give the same blocks every time.
    """
    few = list(islice(parts(), 2))
    if len(few) == 1 and few[0].numel() <= FEW:
        return _largest_of_few(few[0], k)
    prefix, left, level, equal = 0, k, 0, 0
    dtype = torch.float32
    while level < digits(dtype):
        counts: Tensor | None = None
        for block in parts():
            dtype = block.dtype
            found = histogram(block, prefix, level)
            counts = found if counts is None else counts.add_(found)
        if counts is None:
            raise ValueError("nothing to select from")
        counts = counts.cpu()
        digit, left = descend(counts, left)
        prefix = prefix << _DIGIT | digit
        equal = int(counts[digit])
        level += 1
    return Top(magnitude(prefix, dtype), left, left == equal)


def _largest_of_few(magnitudes: Tensor, k: int) -> Top:
    """The same by sorting, where the histograms would be larger than the block."""
    value = magnitudes.sort(descending=True).values[k - 1]
    spare = k - int((magnitudes > value).sum())
    return Top(float(value), spare, spare == int((magnitudes == value).sum()))


def count(share: float, size: int) -> int:
    """How many entries a density keeps: rounded down, but never none of some."""
    return min(size, max(1, int(share * size)))


def quantile(parts: Parts, size: int, share: float) -> float:
    """The entry at `share` of the way from the smallest to the largest, the lower of two."""
    return largest(parts, size - int(share * (size - 1))).value
