"""Facts about a tensor in two versions: from summaries at no cost, from the weights exactly."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from git_theta.core.chain import Bytes
from git_theta.core.dtypes import COMPLEX, DTYPES
from git_theta.core.metric import Block, Facts, Meter, Numbers
from git_theta.core.sketch import WIDTH, Summary, numbers

# The norm of 64 sums under random signs, as an estimate of a norm: its relative standard deviation.
SKETCH_ERROR = 1 / math.sqrt(2 * WIDTH)
# Summaries whose counts, norms, means and extremes agree this well may be of the same values.
_AGREE = 1e-6
BLOCK = 1 << 17
_WIDE = ("F64", "C128", "I32", "U32", "I64", "U64")


class ChunkPair(NamedTuple):
    """A chunk in two versions: what its summaries say, where they are known."""

    old: Summary | None
    new: Summary | None
    same: bool
    values: int


def estimate(pairs: Sequence[ChunkPair], updates: Mapping[str, Mapping[str, Any]]) -> Facts:
    """Facts from summaries alone; distances are estimates, counts and norms are exact."""
    old = _total([pair.old for pair in pairs])
    new = _total([pair.new for pair in pairs])
    count = 0
    square = 0.0
    fourth = 0.0
    known = True
    for pair in pairs:
        count += pair.values
        if pair.same or not known:
            continue
        distance = None
        if pair.old is not None and pair.new is not None:
            distance = pair.old.distance(pair.new)
        if distance is None or not math.isfinite(distance):
            known = False
            continue
        square += distance * distance
        fourth += distance**4
    # Errors of chunks are independent, so that of their sum is smaller than that of each.
    error = SKETCH_ERROR * math.sqrt(fourth) / square if known and square else SKETCH_ERROR
    return Facts(
        exact=False,
        count=count,
        square=square if known else None,
        old_square=None if old is None else old.square,
        new_square=None if new is None else new.square,
        old_nans=None if old is None else old.nans,
        new_nans=None if new is None else new.nans,
        old_infinities=None if old is None else old.infinities,
        new_infinities=None if new is None else new.infinities,
        error=error if known else 0.0,
        updates=updates,
    )


class _Side(NamedTuple):
    square: float
    nans: int
    infinities: int


def _total(summaries: Iterable[Summary | None]) -> _Side | None:
    square, nans, infinities = 0.0, 0, 0
    for summary in summaries:
        if summary is None:
            return None
        square += summary.norm * summary.norm
        nans += summary.nans
        infinities += summary.infinities
    return _Side(square, nans, infinities)


def perhaps_permuted(pairs: Sequence[ChunkPair]) -> bool:
    """Whether both sides may hold the same values in another order, as far as summaries tell."""
    found = False
    for old, new, same, _ in pairs:
        if same:
            continue
        if old is None or new is None or old.sketch is None or new.sketch is None:
            return False
        if (old.count, old.nans, old.infinities) != (new.count, new.nans, new.infinities):
            return False
        if old.low != new.low or old.high != new.high or not old.norm:
            return False
        spread = old.norm / math.sqrt(old.count)
        if (
            abs(old.norm - new.norm) > _AGREE * old.norm
            or abs(old.mean - new.mean) > _AGREE * spread
        ):
            return False
        found = True
    return found


@dataclass(slots=True)
class Sums:
    """Exact totals over blocks of the weights of one tensor in two versions."""

    meters: Sequence[Meter] = ()
    count: int = 0
    differing: int = 0
    square: float = 0.0
    old_square: float = 0.0
    new_square: float = 0.0
    largest: float = 0.0
    flips: int = 0
    old_nans: int = 0
    new_nans: int = 0
    old_infinities: int = 0
    new_infinities: int = 0

    def add(
        self,
        old: Bytes,
        new: Bytes,
        dtypes: tuple[str, str],
        start: int,
        known: tuple[Summary | None, Summary | None] = (None, None),
    ) -> None:
        """Add a run of elements; `start` is the index of the first in its tensor.

        What the summaries of both sides know is not computed again.
        """
        before, after = known
        told = before is not None and after is not None
        widths = [DTYPES[dtype].bits // 8 for dtype in dtypes]
        total = len(old) // widths[0]
        wide = any(dtype in _WIDE for dtype in dtypes)
        for at in range(0, total, BLOCK):
            end = min(total, at + BLOCK)
            a, b = (
                side[at * width : end * width]
                for side, width in zip((old, new), widths, strict=True)
            )
            differing = _differing(a, b, widths[0]) if dtypes[0] == dtypes[1] else -1
            if differing:
                one, other = numbers(a, dtypes[0], wide=wide), numbers(b, dtypes[1], wide=wide)
                self._compare(start + at, one, other, differing)
                if not told:
                    self._sides(_square(one), _square(other))
            elif not told:
                both = _square(numbers(a, dtypes[0], wide=wide))
                self._sides(both, both)
            self.count += end - at
        if before is not None and after is not None:
            self._sides(_told(before), _told(after))

    def add_unchanged(self, summary: Summary) -> None:
        """Add a chunk that is the same on both sides, of which only the summary was read."""
        self.count += summary.count
        self._sides(_told(summary), _told(summary))

    def facts(self, updates: Mapping[str, Mapping[str, Any]]) -> Facts:
        """The totals as facts."""
        return Facts(
            exact=True,
            count=self.count,
            differing=self.differing,
            square=self.square,
            old_square=self.old_square,
            new_square=self.new_square,
            largest=self.largest,
            flips=self.flips,
            old_nans=self.old_nans,
            new_nans=self.new_nans,
            old_infinities=self.old_infinities,
            new_infinities=self.new_infinities,
            updates=updates,
        )

    def _compare(self, start: int, old: Numbers, new: Numbers, differing: int) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            difference = np.subtract(new, old)
            square = float(np.dot(difference, difference))
            if math.isfinite(square):
                low, high = float(difference.min()), float(difference.max())
            else:
                finite = difference[np.isfinite(difference)].astype(np.float64)
                square = float(np.dot(finite, finite))
                low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0, 0)
        self.square += square
        self.largest = max(self.largest, high, -low)
        self.differing += int(np.count_nonzero(difference)) if differing < 0 else differing
        self.flips += _flips(old, new)
        if self.meters:
            block = Block(start=start, old=old, new=new, difference=difference)
            for meter in self.meters:
                meter.add(block)

    def _sides(self, old: _Side, new: _Side) -> None:
        self.old_square += old.square
        self.old_nans += old.nans
        self.old_infinities += old.infinities
        self.new_square += new.square
        self.new_nans += new.nans
        self.new_infinities += new.infinities


def _told(summary: Summary) -> _Side:
    return _Side(summary.norm * summary.norm, summary.nans, summary.infinities)


def _differing(old: Bytes, new: Bytes, width: int) -> int:
    """How many elements have other bits."""
    kind = f"u{width}" if width in (1, 2, 4, 8) else f"V{width}"
    if kind[0] == "V":
        rows = (old != new).reshape(-1, width)
        return int(np.count_nonzero(rows.any(axis=1)))
    return int(np.count_nonzero(old.view(kind) != new.view(kind)))


def _square(values: Numbers) -> _Side:
    """The sum of squares of the finite values, and how many are NaN or infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        square = float(np.dot(values, values))
    if math.isfinite(square):
        return _Side(square, 0, 0)
    nans = int(np.count_nonzero(np.isnan(values)))
    finite = values[np.isfinite(values)].astype(np.float64)
    return _Side(float(np.dot(finite, finite)), nans, len(values) - len(finite) - nans)


def _flips(old: Numbers, new: Numbers) -> int:
    """How many values changed their sign; a zero has none."""
    kind = "i4" if old.dtype == np.float32 else "i8"
    turned = np.bitwise_xor(old.view(kind), new.view(kind)) < 0
    for side in (old, new):
        zeros = side == 0
        if zeros.any():
            turned &= ~zeros
    return int(np.count_nonzero(turned))


@cache
def measurable(dtype: str) -> bool:
    """Whether values of a dtype can be read as numbers, one after the other."""
    known = DTYPES.get(dtype)
    return known is not None and known.bits % 8 == 0 and known.kind not in ("other", COMPLEX)


def with_updates(facts: Facts, updates: Mapping[str, Mapping[str, Any]]) -> Facts:
    """The facts, and how the new side is stored."""
    return replace(facts, updates=updates)
