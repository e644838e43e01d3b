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

from git_theta.core.chain import Bytes, scratch
from git_theta.core.planes import WORDS, Words
from git_theta.updates import residual, rounding
from git_theta.updates.matrix import Matrix, Places, crossings
from git_theta.updates.rounding import Float

_LEAST_LINES = 24
_HELD_OUT = 32
_SPARE_RANKS = 8
_MORE_BITS, _MOST_BITS = 3, 25
_SMALL, _LARGE = 120, 160
_NOTHING = 1e-14
_SMALLEST = 1e-6
_HUGE = 1e140
_WORTH = 0.9
_ALMOST = 0.99
_PART = 64 << 10

Doubles = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]


class Change:
    """The whole rows of the difference of two chunks, in float64, block by block."""

    def __init__(self, new: Bytes, base: Bytes, matrix: Matrix, kind: Float) -> None:
        self.kind = kind
        self.matrix = matrix
        self.new: Words = new.view(WORDS[kind.word])
        self.base: Words = base.view(WORDS[kind.word])
        self.rough: Singles | None = None

    @property
    def rows(self) -> int:
        """How many whole rows there are."""
        return len(self.matrix.whole)

    def values(self, at: slice | Places) -> Doubles:
        """The difference of some words; 0 where it is no number, or none that can be squared."""
        new = rounding.widened(self.new[at], self.kind)
        base = rounding.widened(self.base[at], self.kind)
        with np.errstate(invalid="ignore", over="ignore"):
            found = np.subtract(new, base, dtype=np.float64)
        if not (found.max(initial=0) < _HUGE and found.min(initial=0) > -_HUGE):
            found[~(np.abs(found) < _HUGE)] = 0
        return found

    def plus(self, at: Places, change: Doubles) -> Words:
        """The words of the base at some places, changed and rounded."""
        base = self.base[at]
        out = np.empty(len(base), base.dtype)
        with np.errstate(invalid="ignore", over="ignore"):
            rounding.narrowed(rounding.widened(base, self.kind) + change, base, self.kind, out)
        return out

    def blocks(self) -> Iterator[tuple[slice, Doubles]]:
        """The whole rows, a few at a time: their places among the whole rows, and values."""
        whole = self.matrix.whole
        for first, last in self.matrix.blocks(whole):
            at = slice(first - whole.start, last - whole.start)
            if self.rough is not None:
                yield at, self.rough[at].astype(np.float64)
            else:
                values = self.values(slice(*self.matrix.inside(first, last)))
                yield at, values.reshape(-1, self.matrix.columns)

    def roughly(self) -> Singles | None:
        """The whole rows in float32, made once; None for numbers of 64 bits.

        They are in a buffer of this thread, valid until the next change is asked for its own. With
        them `blocks` has no numbers to read; none of them were cleaned.
        """
        if self.rough is None and self.kind.word <= np.dtype(np.float32).itemsize:
            whole = self.matrix.whole
            count = len(whole) * self.matrix.columns
            out = scratch.take("change", 4 * count).view(np.float32)
            out = out.reshape(-1, self.matrix.columns)
            with np.errstate(invalid="ignore", over="ignore"):
                for first, last in self.matrix.blocks(whole):
                    at = slice(*self.matrix.inside(first, last))
                    new, base = (rounding.widened(w[at], self.kind) for w in (self.new, self.base))
                    rows = out[first - whole.start : last - whole.start]
                    np.subtract(new, base, out=rows.reshape(-1))
            self.rough = out
        return self.rough

    def times(self, right: Doubles) -> Doubles:
        """The difference times a thin matrix."""
        if self.rough is not None and self.kind.narrow:  # they hold more noise than float32 adds
            return (self.rough @ right.astype(np.float32)).astype(np.float64)
        out = np.empty((self.rows, right.shape[1]))
        for at, block in self.blocks():
            np.matmul(block, right, out=out[at])
        return out

    def transposed_times(self, left: Doubles) -> tuple[Doubles, float]:
        """The transposed difference times a thin matrix, and the sum of all squares."""
        if self.rough is not None and self.kind.narrow:
            turned = self.rough.T @ left.astype(np.float32)
            return turned.astype(np.float64), _energy(self.rough.reshape(-1))
        out, energy = np.zeros((self.matrix.columns, left.shape[1])), 0.0
        for at, block in self.blocks():
            out += block.T @ left[at]
            energy += float(np.vdot(block, block))
        return out, energy


def _energy(values: Singles) -> float:
    """The sum of all squares."""
    parts = [values[at : at + _PART] for at in range(0, len(values), _PART)]
    with np.errstate(over="ignore"):
        total = sum(float(np.dot(part, part)) for part in parts)
    if _SMALLEST < total < _HUGE:
        return total
    wide = (part.astype(np.float64) for part in parts)  # float32 may have lost all of it
    return sum(float(np.dot(part, part)) for part in wide)


@dataclass(frozen=True, slots=True)
class Promise:
    """What a probe found: a rank, and about how many bytes factors and differences take.

    `left` spans what the change does to the whole rows at `down`, the best directions first.
    """

    rank: int
    size: float
    down: Places
    left: Doubles


def probe(change: Change) -> Promise | None:
    """Ask a few rows and columns whether the change is of low rank.

    The crossings of some of them are decomposed, and what that says of the others is compared
    with what is there: an honest test, since noise in a small matrix always looks low-rank to a
    decomposition of its own, but never foretells what was held out.
    """
    kept = side(change)
    if not kept:
        return None
    down, at = crossings(change.matrix, kept + _HELD_OUT, kept + _HELD_OUT)
    found, held = change.values(at), at[kept:, kept:].ravel()
    left, sizes, right = _decomposed(found[:kept, :kept])
    steps = (found[kept:, :kept] @ right.T, left.T @ found[:kept, kept:])
    if not _hopeful(found[kept:, kept:], steps, sizes, change):
        return None
    rank, near = _best_rank(found[kept:, kept:], steps, sizes, change)
    if not rank:
        return None
    bits = residual.bits(change.new[held], change.plus(held, near.ravel()))
    if bits > _WORTH * residual.bits(change.new[held], change.base[held]):
        return None
    size = change.matrix.count * bits / 8 + _price(change, rank) / 8
    return Promise(rank, size, down[:kept], left)


def _decomposed(square: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """The singular values of a matrix and their vectors, at half the cost of asking for just that.

    What is smaller than `_SMALLEST` times the largest is not to be used.
    """
    squares, left = np.linalg.eigh(square @ square.T)
    left, sizes = left[:, ::-1], np.sqrt(np.maximum(squares[::-1], 0))
    return left, sizes, (left.T @ square) / np.maximum(sizes, 1 / _HUGE)[:, np.newaxis]


def side(change: Change) -> int:
    """How many rows and columns a probe decomposes; 0 where the matrix is too small for one."""
    rows, columns = change.rows, change.matrix.columns
    most = _LARGE if rows * columns >= 1 << 20 else _SMALL
    kept = min(rows, columns, most) - _HELD_OUT
    return kept if kept >= _LEAST_LINES else 0


def _hopeful(
    target: Doubles, steps: tuple[Doubles, Doubles], sizes: Doubles, change: Change
) -> bool:
    """Whether any rank might save something: `_best_rank` for all ranks at once, not as exactly.

    What differs by rounding differs only where next to nothing is left, which is a gain anyway.
    """
    energy, most = float(np.vdot(target, target)), len(sizes) - _SPARE_RANKS - 1
    tried = min(most, int(np.count_nonzero(sizes > _SMALLEST * sizes[0])))
    if energy < 1 / _HUGE**2 or tried < 1:
        return False
    down, across = steps[0][:, :tried] / sizes[:tried], steps[1][:tried]
    explained = np.einsum("ir,ir->r", down, target @ across.T)
    overlaps = np.tril((down.T @ down) * (across @ across.T))
    grown = 2 * overlaps.sum(axis=1) - np.diag(overlaps)
    left = energy - 2 * np.cumsum(explained) + np.cumsum(grown)
    gains = 0.5 * change.matrix.count * np.log2(energy / np.maximum(left, _NOTHING * energy))
    return bool((gains > _ALMOST * _price(change, 1) * np.arange(1, tried + 1)).any())


def _price(change: Change, rank: int) -> float:
    """About how many bits the factors of a rank take."""
    bits = min(change.kind.mantissa + _MORE_BITS, _MOST_BITS)
    return float(rank * (change.matrix.rows + change.matrix.columns) * bits)


def _best_rank(
    target: Doubles, steps: tuple[Doubles, Doubles], sizes: Doubles, change: Change
) -> tuple[int, Doubles]:
    """The rank that saves most, counting what its factors take, and what it foretells."""
    energy, rest = float(np.vdot(target, target)), target.copy()
    best, rank, saved = np.zeros_like(target), 0, 0.0
    if energy < 1 / _HUGE**2:
        return 0, best
    for tried in range(1, len(sizes) - _SPARE_RANKS):
        size = sizes[tried - 1]
        if not size > _SMALLEST * sizes[0]:
            break
        rest -= np.outer(steps[0][:, tried - 1] / size, steps[1][tried - 1])
        left = max(float(np.vdot(rest, rest)), _NOTHING * energy)
        gain = 0.5 * change.matrix.count * math.log2(energy / left) - _price(change, tried)
        if gain > saved:
            best, rank, saved = target - rest, tried, gain
    return rank, best


@dataclass(frozen=True, slots=True)
class Found:
    """The factors of the whole rows of a change, and the error that noise left in their product."""

    left: Doubles
    right: Doubles
    noise: float


def recover(change: Change, promise: Promise) -> Found | None:
    """The factors of a change, of about the promised rank, by a randomised decomposition."""
    width = min(promise.rank + _SPARE_RANKS, change.rows, change.matrix.columns)
    basis = _quick_basis(change, promise, width)
    if basis is None:
        start = np.random.default_rng(0).standard_normal((change.matrix.columns, width))
        basis = _basis(change, start)
    turned, energy = change.transposed_times(basis)
    right, sizes, left = np.linalg.svd(turned, full_matrices=False)
    keep = _worthy(sizes, energy, change)
    if not keep:
        return None
    root, matrix = np.sqrt(sizes[:keep]), change.matrix
    rest = max(energy - float(np.sum(sizes[:keep] ** 2)), _NOTHING * energy)
    noise = rest * keep * (1 / change.rows + 1 / matrix.columns) / (change.rows * matrix.columns)
    return Found((basis @ left[:keep].T) * root, (right[:, :keep] * root).T, math.sqrt(noise))


def _quick_basis(change: Change, promise: Promise, width: int) -> Doubles | None:
    """Like `_basis`, by what the probe has seen, for numbers whose own rounding is the most noise.

    None for others, and where float32 overflows.
    """
    rough = change.roughly() if change.kind.narrow else None
    if rough is None:
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        turned = rough[promise.down].T @ promise.left[:, :width].astype(np.float32)
        if not np.isfinite(turned).all():
            return None
        found = change.times(np.linalg.qr(turned)[0])
    return np.linalg.qr(found)[0] if np.isfinite(found).all() else None


def _basis(change: Change, start: Doubles) -> Doubles:
    """An orthonormal basis of about the space that the change's columns span."""
    turned = _turned(change, start)
    if turned is None:
        change.rough = None
        turned = change.transposed_times(np.linalg.qr(change.times(start))[0])[0]
    return np.linalg.qr(change.times(np.linalg.qr(turned)[0]))[0]


def _turned(change: Change, start: Doubles) -> Doubles | None:
    """The transposed difference times (the difference times a thin matrix), in float32.

    None for numbers of 64 bits, and where float32 overflows.
    """
    rough = change.roughly()
    if rough is None:
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        found = rough.T @ (rough @ start.astype(np.float32))
    return found.astype(np.float64) if np.isfinite(found).all() else None


def _worthy(sizes: Doubles, energy: float, change: Change) -> int:
    """The number of ranks with which factors and differences together are smallest."""
    rest = np.maximum(energy - np.cumsum(sizes**2), _NOTHING * energy)
    ranks = np.arange(1, len(sizes) + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        gains = 0.5 * change.matrix.count * np.log2(energy / rest) - _price(change, 1) * ranks
    best = int(np.argmax(gains))
    return best + 1 if gains[best] > 0 else 0


def completed(change: Change, found: Found) -> Doubles:
    """The left factor with lines for the rows that the chunk holds in part."""
    left, right = found.left, found.right
    matrix, whole = change.matrix, change.matrix.whole
    full = np.zeros((matrix.rows, left.shape[1]))
    full[whole.start : whole.stop] = left
    for row in {0, matrix.rows - 1} - set(whole):
        begin, end = matrix.inside(row, row + 1)
        column = begin - matrix.begin(row)
        part = right[:, column : column + end - begin]
        full[row] = np.linalg.lstsq(part.T, change.values(slice(begin, end)), rcond=None)[0]
    return full
