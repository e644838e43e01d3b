"""Finding by what the rows or columns of a matrix were scaled.

Like the search for thin factors, this has to be neither exact nor the same everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from git_theta.core.chain import Bytes
from git_theta.core.planes import WORDS, Words
from git_theta.updates import residual, rounding
from git_theta.updates.matrix import Matrix
from git_theta.updates.rounding import Float, Floats

_LINES = 128
_HELD_OUT = 32
_WORTH = 0.6
_SCALE_BYTES = 3

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Promise:
    """What a probe found: 0 for rows, 1 for columns, and about how many bytes this takes."""

    axis: int
    size: float


def probe(new: Bytes, base: Bytes, matrix: Matrix, kind: Float) -> Promise | None:
    """Ask a few rows and columns whether one scale explains what was held out of them."""
    rows = min(len(matrix.whole), _LINES)
    columns = min(matrix.columns, _LINES)
    if not rows:
        return None
    rng = np.random.default_rng(0)
    down = matrix.whole.start + rng.choice(len(matrix.whole), rows, replace=False)
    across = rng.choice(matrix.columns, columns, replace=False)
    at = down[:, np.newaxis] * matrix.columns - matrix.skip + across
    word = WORDS[kind.word]
    pair = new.view(word)[at], base.view(word)[at]
    plain = _bits(*pair)
    promises = []
    for axis in (0, 1):
        bits = _scaled_bits(*(pair if axis == 0 else (pair[0].T, pair[1].T)), kind)
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
    with np.errstate(all="ignore"):
        near = rounding.widened(old, kind) * scale[:, np.newaxis]
        rounding.narrowed(near.ravel(), old.ravel(), kind, out)
    return _bits(new[:, kept:], out.reshape(old.shape))


def _bits(new: Words, near: Words) -> float:
    """About how many bits a word the differences take."""
    flat = np.ascontiguousarray(new).ravel()
    folded = residual.fold(flat, np.ascontiguousarray(near).ravel(), np.empty_like(flat))
    changed = folded[folded != 0]
    share = len(changed) / max(1, len(folded))
    if not share:
        return 2.0**-8
    entropy = -share * math.log2(share) - (1 - share) * math.log2(1 - share) if share < 1 else 0.0
    return entropy + share * float(np.log2(changed.astype(np.float64)).mean() + 1)


def _moments(new: Words, base: Words, kind: Float) -> tuple[Doubles, Doubles]:
    """For each line the sums of difference times base, and of base squared."""
    old = rounding.widened(np.ascontiguousarray(base), kind).astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        change = rounding.widened(np.ascontiguousarray(new), kind) - old
        bad = ~(np.isfinite(change) & np.isfinite(old))
        change[bad] = 0
        old[bad] = 0
        return np.einsum("ij,ij->i", change, old), np.einsum("ij,ij->i", old, old)


def _fitted(product: Doubles, square: Doubles) -> Doubles:
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        return 1.0 + np.where(square > 0, product / np.where(square > 0, square, 1), 0)


def recover(new: Bytes, base: Bytes, matrix: Matrix, kind: Float, axis: int) -> Floats:
    """The scale that fits best, in the working type."""
    word = WORDS[kind.word]
    words, others = new.view(word), base.view(word)
    product, square = (np.zeros(matrix.columns if axis else matrix.rows) for _ in range(2))
    for first, last in _ranges(matrix, axis):
        begin, end = matrix.inside(first, last)
        at = (last - first, -1)
        pair = words[begin:end].reshape(at), others[begin:end].reshape(at)
        if axis:
            found = _moments(pair[0].T, pair[1].T, kind)
            product += found[0]
            square += found[1]
        else:
            product[first:last], square[first:last] = _moments(*pair, kind)
    scale: Floats = _fitted(product, square).astype(kind.working)
    return scale


def _ranges(matrix: Matrix, axis: int) -> list[tuple[int, int]]:
    """Rows by blocks; where rows are scaled, also the ones at the ends that are not whole."""
    ranges = list(matrix.blocks(matrix.whole))
    if axis == 0:
        ranges += [(row, row + 1) for row in {0, matrix.rows - 1} - set(matrix.whole)]
    return ranges
