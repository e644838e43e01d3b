"""Finding the thin factors of a change: a cheap probe, then a randomised decomposition.

Nothing here has to be exact or the same everywhere: it only looks for numbers that are worth
storing. What they leave is stored beside them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from git_theta.core.chain import Bytes
from git_theta.core.planes import WORDS, Words
from git_theta.updates import rounding
from git_theta.updates.matrix import Matrix
from git_theta.updates.rounding import Float

_LEAST_LINES = 24
_HELD_OUT = 32
_SPARE_RANKS = 8
_FACTOR_BITS = 24

Doubles = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]


class Change:
    """The whole rows of the difference of two chunks, in float64, block by block."""

    def __init__(self, new: Bytes, base: Bytes, matrix: Matrix, kind: Float) -> None:
        self.kind = kind
        self.matrix = matrix
        self.new: Words = new.view(WORDS[kind.word])
        self.base: Words = base.view(WORDS[kind.word])

    @property
    def rows(self) -> int:
        """How many whole rows there are."""
        return len(self.matrix.whole)

    def values(self, at: slice | Places) -> Doubles:
        """The difference of some words; 0 where it is no number."""
        new = rounding.widened(self.new[at], self.kind)
        base = rounding.widened(self.base[at], self.kind)
        with np.errstate(invalid="ignore", over="ignore"):
            found = np.subtract(new, base, dtype=np.float64)
        if not np.isfinite(found).all():
            np.nan_to_num(found, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        return found

    def blocks(self) -> Iterator[tuple[slice, Doubles]]:
        """The whole rows, a few at a time: their places among the whole rows, and values."""
        whole = self.matrix.whole
        for first, last in self.matrix.blocks(whole):
            values = self.values(slice(*self.matrix.inside(first, last)))
            yield (
                slice(first - whole.start, last - whole.start),
                values.reshape(-1, self.matrix.columns),
            )

    def places(self, rows: Places, columns: Places) -> Places:
        """Where the crossings of some whole rows and columns lie among the words."""
        begin = self.matrix.begin(self.matrix.whole.start)
        return begin + rows[:, np.newaxis] * self.matrix.columns + columns

    def times(self, right: Doubles) -> Doubles:
        """The difference times a thin matrix."""
        out = np.empty((self.rows, right.shape[1]))
        for at, block in self.blocks():
            np.matmul(block, right, out=out[at])
        return out

    def transposed_times(self, left: Doubles) -> tuple[Doubles, float]:
        """The transposed difference times a thin matrix, and the sum of all squares."""
        out, energy = np.zeros((self.matrix.columns, left.shape[1])), 0.0
        for at, block in self.blocks():
            out += block.T @ left[at]
            energy += float(np.vdot(block, block))
        return out, energy


@dataclass(frozen=True, slots=True)
class Promise:
    """What a probe found: a rank, and how many bits a number it takes off the differences."""

    rank: int
    bits: float


def probe(change: Change) -> Promise | None:
    """Ask a few rows and columns whether the change is of low rank.

    The crossings of some of them are decomposed, and what that says of the others is compared
    with what is there: an honest test, since noise in a small matrix always looks low-rank to a
    decomposition of its own, but never foretells what was held out.
    """
    rows, columns = change.rows, change.matrix.columns
    side = min(rows, columns, 160 if rows * columns >= 1 << 20 else 128) - _HELD_OUT
    if side < _LEAST_LINES:
        return None
    rng = np.random.default_rng(0)
    at = change.places(
        rng.choice(rows, side + _HELD_OUT, replace=False),
        rng.choice(columns, side + _HELD_OUT, replace=False),
    )
    found = change.values(at)
    left, sizes, right = np.linalg.svd(found[:side, :side])
    target = found[side:, side:]
    steps = (found[side:, :side] @ right.T, left.T @ found[:side, side:])
    return _best_rank(target, steps, sizes, change.matrix)


def _best_rank(
    target: Doubles, steps: tuple[Doubles, Doubles], sizes: Doubles, matrix: Matrix
) -> Promise | None:
    """The rank that saves most, counting what its factors take."""
    energy = float(np.vdot(target, target))
    lines = (matrix.rows + matrix.columns) * _FACTOR_BITS / matrix.count
    rest, best = target.copy(), Promise(0, 0.0)
    for rank in range(1, len(sizes) - _SPARE_RANKS):
        size = sizes[rank - 1]
        if not size > 1e-14 * sizes[0]:
            break
        rest -= np.outer(steps[0][:, rank - 1] / size, steps[1][rank - 1])
        left = max(float(np.vdot(rest, rest)), 1e-30 * energy)
        saved = 0.5 * math.log2(energy / left) - rank * lines
        if saved > best.bits:
            best = Promise(rank, saved)
    return best if best.rank else None


def recover(change: Change, rank: int) -> tuple[Doubles, Doubles] | None:
    """The factors of a change, of about a rank, by a randomised decomposition in float64."""
    width = min(rank + _SPARE_RANKS, change.rows, change.matrix.columns)
    start = np.random.default_rng(0).standard_normal((change.matrix.columns, width))
    basis = np.linalg.qr(change.times(start))[0]
    for _ in range(1):
        turned, _energy = change.transposed_times(basis)
        basis = np.linalg.qr(change.times(np.linalg.qr(turned)[0]))[0]
    turned, energy = change.transposed_times(basis)
    right, sizes, left = np.linalg.svd(turned, full_matrices=False)
    keep = _worthy(sizes, energy, change.matrix)
    if not keep:
        return None
    root = np.sqrt(sizes[:keep])
    return (basis @ left[:keep].T) * root, (right[:, :keep] * root).T


def _worthy(sizes: Doubles, energy: float, matrix: Matrix) -> int:
    """How many ranks take more off the differences than their factors add."""
    price = (matrix.rows + matrix.columns) * _FACTOR_BITS / 2
    rest = energy
    for rank, square in enumerate(float(size) ** 2 for size in sizes):
        rest = max(rest - square, 1e-30 * energy)
        if not square or 0.5 * matrix.count * math.log2(1 + square / rest) < price:
            return rank
    return len(sizes)


def completed(change: Change, left: Doubles, right: Doubles) -> Doubles:
    """The left factor with lines for the rows that the chunk holds in part."""
    matrix, whole = change.matrix, change.matrix.whole
    full = np.zeros((matrix.rows, left.shape[1]))
    full[whole.start : whole.stop] = left
    for row in {0, matrix.rows - 1} - set(whole):
        begin, end = matrix.inside(row, row + 1)
        column = begin - matrix.begin(row)
        part = right[:, column : column + end - begin]
        full[row] = np.linalg.lstsq(part.T, change.values(slice(begin, end)), rcond=None)[0]
    return full
