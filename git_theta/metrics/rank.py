"""The rank of a difference: what an update says of itself, or a sample of rows and columns."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from git_theta.core.metric import SUMMARIES, Answer, Block, Facts, Meter, Need, Pair, Value

# Up to this size the singular values of a sample cost a tenth of a millisecond.
SIDE = 64
_EPSILON = {"BF16": 2.0**-8, "F16": 2.0**-11, "F32": 2.0**-24, "F64": 2.0**-53}


class Rank:
    """The rank of the difference of two matrices, up to what rounding hides."""

    name: ClassVar[str] = "rank"
    title: ClassVar[str] = "RANK"
    needs: ClassVar[Need] = SUMMARIES
    order: ClassVar[int] = 7

    def value(self, facts: Facts) -> Value | None:
        """The rank of the low-rank update that makes the new side from the old one."""
        rank = facts.updates.get("low-rank", {}).get("r")
        return Value(rank) if isinstance(rank, int) and len(facts.updates) == 1 else None

    def meter(self, pair: Pair) -> Meter | None:
        """Measure matrices of types with a known rounding error."""
        shape = pair.new.shape
        if len(shape) < 2 or pair.new.dtype not in _EPSILON or pair.old.strides is not None:
            return None
        rows, columns = shape[0], math.prod(shape[1:])
        return _Sampled(rows, columns, pair) if min(rows, columns) > 1 else None

    def text(self, value: Answer) -> str:
        """A number; more than a sample can show is "full"."""
        return f"{value}"


class _Sampled:
    """Gathers a fixed sample of rows and columns; a matrix of low rank has no more in it."""

    def __init__(self, rows: int, columns: int, pair: Pair) -> None:
        chosen = np.random.default_rng(rows * 1_000_003 + columns)
        sides = [
            np.sort(chosen.choice(length, min(length, SIDE), replace=False))
            for length in (rows, columns)
        ]
        self._shape = (len(sides[0]), len(sides[1]))
        self._full = min(rows, columns)
        self._places = (sides[0][:, np.newaxis] * columns + sides[1]).ravel()
        self._values = np.zeros(len(self._places))
        self._weights = np.zeros(len(self._places))
        self._epsilon = max(_EPSILON.get(t.dtype, 1.0) for t in (pair.old, pair.new))

    def add(self, block: Block) -> None:
        """Take what lies in the sample."""
        first, last = np.searchsorted(self._places, [block.start, block.start + len(block.new)])
        if first < last:
            where = self._places[first:last] - block.start
            self._values[first:last] = block.difference[where]
            self._weights[first:last] = block.new[where]

    def result(self) -> Value | None:
        """The number of singular values above what rounding alone would make."""
        sample: npt.NDArray[Any] = self._values.reshape(self._shape)
        if not np.isfinite(sample).all() or not np.isfinite(self._weights).all():
            return None
        rank = _rank(sample, self._epsilon * float(np.sqrt(np.mean(self._weights**2))))
        if rank <= min(self._shape) * 3 // 4 or min(self._shape) == self._full:
            return Value(rank)
        return None  # as far as the sample tells, of no low rank


def _rank(sample: npt.NDArray[Any], rounding: float) -> int:
    found = np.linalg.svd(sample, compute_uv=False)
    if not found[0]:
        return 0
    floor = rounding * (math.sqrt(sample.shape[0]) + math.sqrt(sample.shape[1]))
    return int(np.count_nonzero(found > max(floor, 1e-6 * found[0])))
