"""What a picture of a tensor needs of its weights: distributions, and singular values."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from git_theta.core.metric import Block, Meter, Numbers, Pair, Value

_BINS = 48
_SIGMAS = 5.0
_SAMPLE = 1 << 18
_CELLS = 1 << 22
_VALUES = 32
_SPARE = 8

Floats = npt.NDArray[np.float32]


class Picture:
    """A meter that keeps a sample of both sides, and the difference as a matrix.

    Of a tensor with many values every so many are kept; of a tall matrix some of the rows.
    `histogram` has the shares of values in equal steps on both sides, `singular` the largest
    singular values of the difference, once `result` was asked for.
    """

    def __init__(self, pair: Pair) -> None:
        self._total = max(1, math.prod(pair.new.shape))
        self._every = -(-self._total // _SAMPLE)
        self._parts: tuple[list[Numbers], list[Numbers]] = ([], [])
        self._columns = math.prod(pair.new.shape[1:]) if len(pair.new.shape) > 1 else 0
        self._rows = pair.new.shape[0] if pair.new.shape else 0
        self.histogram: dict[str, Any] | None = None
        self.singular: dict[str, Any] | None = None
        self._stride = 1
        self._matrix = self._room()

    def _room(self) -> Floats | None:
        if self._columns < 2 or self._rows < 2 or self._columns > _CELLS:
            return None
        self._stride = max(1, -(-self._rows * self._columns // _CELLS))
        rows = -(-self._rows // self._stride)
        return np.zeros((rows, self._columns), np.float32)

    def add(self, block: Block) -> None:
        """Keep what is needed of a block."""
        first = -block.start % self._every
        self._parts[0].append(block.old[first :: self._every].copy())
        self._parts[1].append(block.new[first :: self._every].copy())
        if self._matrix is not None:
            self._fill(self._matrix, block)

    def _fill(self, matrix: Floats, block: Block) -> None:
        """Put the block's part of each kept row into the matrix."""
        end = block.start + len(block.new)
        for row in range(block.start // self._columns, -(-end // self._columns)):
            if row % self._stride:
                continue
            start = row * self._columns
            low, high = max(start, block.start), min(start + self._columns, end)
            part = block.difference[low - block.start : high - block.start]
            matrix[row // self._stride, low - start : high - start] = part

    def result(self) -> Value | None:
        """A picture is no value: it is drawn now, and what it was made from is given up."""
        self.histogram = self._histogram()
        self.singular = self._singular()
        self._parts, self._matrix = ([], []), None
        return None

    def _histogram(self) -> dict[str, Any] | None:
        if not self._parts[0]:
            return None
        sides = [np.concatenate(parts).astype(np.float64) for parts in self._parts]
        sides = [side[np.isfinite(side)] for side in sides]
        if not all(map(len, sides)):
            return None
        low, high, clipped = _range(sides)
        counts = [np.histogram(np.clip(side, low, high), _BINS, (low, high))[0] for side in sides]
        seen = len(sides[0])
        note = f"{seen:,} of {self._total:,} values" if self._every > 1 else f"{seen:,} values"
        if clipped:
            note += f"; the outermost bars hold what lies beyond {_SIGMAS:g} standard deviations"
        return {
            "low": low,
            "high": high,
            "old": _shares(counts[0]),
            "new": _shares(counts[1]),
            "note": note,
        }

    def _singular(self) -> dict[str, Any] | None:
        matrix = self._matrix
        if matrix is None or not self._parts[0] or not np.isfinite(matrix).all():
            return None
        found = _largest(matrix) * math.sqrt(self._stride)
        rest = float(np.vdot(matrix, matrix)) * self._stride
        share = float(np.dot(found, found)) / rest if rest else 0.0
        note = f"The {len(found)} largest hold {min(1.0, share):.1%} of the squared norm."
        if self._stride > 1:
            note += f" Estimated from one row in {self._stride}."
        return {"values": [_rounded(value) for value in found], "note": note}


class Pictures:
    """Makes a picture of each tensor that is read, up to a number of values in all."""

    def __init__(self) -> None:
        self.found: dict[str, Picture] = {}

    def __call__(self, pair: Pair) -> Meter:
        """A meter for one tensor. Called from several threads, for different tensors."""
        picture = Picture(pair)
        self.found[pair.name] = picture
        return picture


def _range(sides: list[npt.NDArray[Any]]) -> tuple[float, float, bool]:
    low = min(float(side.min()) for side in sides)
    high = max(float(side.max()) for side in sides)
    mean, spread = float(np.mean(sides[0])), float(np.std(sides[0]))
    near = (mean - _SIGMAS * spread, mean + _SIGMAS * spread)
    clipped = spread > 0 and (low < near[0] or high > near[1])
    if clipped:
        low, high = max(low, near[0]), min(high, near[1])
    if not high > low:
        low, high = low - 0.5, low + 0.5
    return low, high, clipped


def _shares(counts: npt.NDArray[Any]) -> list[float]:
    total = max(1, int(counts.sum()))
    return [round(float(count) / total, 6) for count in counts]


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


_one_at_a_time = threading.Lock()


def _largest(matrix: Floats) -> npt.NDArray[Any]:
    """The largest singular values: all of a small matrix, else by projection on a random space."""
    least = min(matrix.shape)
    with _one_at_a_time:  # the linear algebra has threads of its own
        if least <= 2 * (_VALUES + _SPARE):
            return np.linalg.svd(matrix.astype(np.float64), compute_uv=False)[:_VALUES]
        wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        random = np.random.default_rng(0).standard_normal((least, _VALUES + _SPARE), np.float32)
        seen = (wide @ (wide.T @ random)).astype(np.float64)
        # Orthogonal by its Gram matrix: only small matrices are ever taken apart.
        squares, turn = np.linalg.eigh(seen.T @ seen)
        kept = squares > 1e-12 * squares[-1]
        basis = seen @ (turn[:, kept] / np.sqrt(squares[kept]))
        part = (basis.astype(np.float32).T @ wide).astype(np.float64)
        found = np.linalg.eigvalsh(part @ part.T)[::-1][:_VALUES]
        return np.sqrt(np.maximum(found, 0))
