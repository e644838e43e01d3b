"""Finding by what the rows or columns of a matrix were scaled.

Like the search for thin factors, this has to be neither exact nor the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from git_theta.core.chain import Bytes
from git_theta.core.planes import WORDS, Words
from git_theta.updates import residual, rounding
from git_theta.updates.matrix import Matrix, crossings
from git_theta.updates.rounding import Float, Floats

_LINES = 128
_HELD_OUT = 32
_WORTH = 0.6
_ENOUGH = 1024
_SCALE_BYTES = 3

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Promise:
    """What a probe found: 0 for rows, 1 for columns, and about how many bytes this takes."""

    axis: int
    size: float


@np.errstate(all="ignore")
def probe(new: Bytes, base: Bytes, matrix: Matrix, kind: Float) -> Promise | None:
    """Ask a few rows and columns whether one scale explains what was held out of them."""
    rows = min(len(matrix.whole), _LINES)
    columns = min(matrix.columns, _LINES)
    if not rows:
        return None
    _, at = crossings(matrix, rows, columns)
    word = WORDS[kind.word]
    after, before = new.view(word)[at], base.view(word)[at]
    plain = residual.bits(after.ravel(), before.ravel())
    promises = []
    for axis, changed, old in ((0, after, before), (1, after.T, before.T)):
        bits = _scaled_bits(changed, old, kind)
        if bits is not None and bits < _WORTH * plain:
            lines = matrix.columns if axis else matrix.rows
            promises.append(Promise(axis, bits / 8 * matrix.count + lines * _SCALE_BYTES))
    return min(promises, key=lambda promise: promise.size, default=None)


def _scaled_bits(new: Words, base: Words, kind: Float) -> float | None:
    """The bits a word that are left where each line is scaled as its first part says."""
    kept = new.shape[1] - min(_HELD_OUT, new.shape[1] // 2)
    if kept < 2:
        return None
    scale = _fitted(*_moments(new[:, :kept], base[:, :kept], kind)).astype(kind.working)
    old = np.ascontiguousarray(base[:, kept:])
    out = np.empty(old.size, old.dtype)
    near = rounding.widened(old, kind) * scale[:, np.newaxis]
    rounding.narrowed(near.ravel(), old.ravel(), kind, out)
    return residual.bits(new[:, kept:].ravel(), out)


def _moments(new: Words, base: Words, kind: Float) -> tuple[Doubles, Doubles]:
    """For each line the sums of difference times base, and of base squared."""
    old = rounding.widened(np.ascontiguousarray(base), kind).astype(np.float64)
    change = rounding.widened(np.ascontiguousarray(new), kind) - old
    bad = ~(np.isfinite(change) & np.isfinite(old))
    change[bad] = 0
    old[bad] = 0
    return np.einsum("ij,ij->i", change, old), np.einsum("ij,ij->i", old, old)


def _fitted(product: Doubles, square: Doubles) -> Doubles:
    return 1.0 + np.where(square > 0, product / np.where(square > 0, square, 1), 0)


@np.errstate(all="ignore")
def recover(new: Bytes, base: Bytes, matrix: Matrix, kind: Float, axis: int) -> Floats:
    """The scale that fits best, in the working type."""
    word = WORDS[kind.word]
    pair = new.view(word), base.view(word)
    lines = matrix.columns if axis else matrix.rows
    product, square = np.zeros(lines), np.zeros(lines)
    low, high, seen = np.full(lines, -np.inf), np.full(lines, np.inf), 0
    for at, old, changed in _lines(*pair, matrix, axis):
        found = _moments(changed, old, kind)
        product[at] += found[0]
        square[at] += found[1]
        if kind.narrow and (seen < _ENOUGH or not axis):
            limits = _limits(changed[:, :_ENOUGH], old[:, :_ENOUGH], kind)
            low[at] = np.maximum(low[at], limits[0])
            high[at] = np.minimum(high[at], limits[1])
            seen += old.shape[1]
    scale = _fitted(product, square)
    sure = (low <= high) & np.isfinite(low) & np.isfinite(high)
    scale[sure] = (low[sure] + high[sure]) / 2
    fitted: Floats = scale.astype(kind.working)
    return fitted


def _limits(new: Words, base: Words, kind: Float) -> tuple[Doubles, Doubles]:
    """For each line the least and the greatest scale that rounds every base to what is there."""
    new, base = np.ascontiguousarray(new), np.ascontiguousarray(base)
    sizes = [
        np.abs(rounding.widened(words, kind).astype(np.float64))
        for words in (new - 1, new, new + 1)
    ]
    sign = np.where((new ^ base) >> (8 * kind.word - 1), -1.0, 1.0)
    old = np.abs(rounding.widened(base, kind).astype(np.float64))
    low, high = ((sizes[1] + size) / 2 / old * sign for size in (sizes[0], sizes[2]))
    usable = np.isfinite(low) & np.isfinite(high) & (sizes[1] > 0)
    least = np.where(usable, np.minimum(low, high), -np.inf).max(axis=1)
    most = np.where(usable, np.maximum(low, high), np.inf).min(axis=1)
    return least, most


def _lines(
    new: Words, base: Words, matrix: Matrix, axis: int
) -> Iterator[tuple[slice, Words, Words]]:
    """Which lines, the base's words, the new ones: one line a row, whether it is scaled or not.

    Rows come block by block; where rows are scaled, also the ones at the ends that are not whole.
    """
    ranges = list(matrix.blocks(matrix.whole))
    if axis == 0:
        ranges += [(row, row + 1) for row in {0, matrix.rows - 1} - set(matrix.whole)]
    for first, last in ranges:
        begin, end = matrix.inside(first, last)
        old, changed = (words[begin:end].reshape(last - first, -1) for words in (base, new))
        if axis:
            yield slice(0, matrix.columns), old.T, changed.T
        else:
            yield slice(first, last), old, changed
