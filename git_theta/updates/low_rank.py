"""The update for a matrix whose change is a product of two thin ones, as a merged LoRA's is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from git_theta.core.chain import Bytes, Encoded, Slice
from git_theta.core.payload import Header
from git_theta.core.planes import BLOCK, WORDS, Grain
from git_theta.errors import CorruptError
from git_theta.updates import factors, recovery, residual, rounding
from git_theta.updates.factors import Thin
from git_theta.updates.recovery import Change, Matrix
from git_theta.updates.rounding import FLOATS, Float

Factor = npt.NDArray[np.floating[Any]]

_KNOWN_BITS = {"F64": 25, "F32": 24, "BF16": 20, "F16": 22}


class LowRankUpdate:
    """Two thin integer matrices whose product is exact on every machine, and what is left."""

    name: ClassVar[str] = "low-rank"
    needs_base: ClassVar[bool] = True

    def estimate(self, new: Slice, base: Bytes | None) -> float | None:
        change = _change(new, base)
        if change is None or base is None:
            return None
        promise = recovery.probe(change)
        if promise is None:
            return None
        word = FLOATS[new.dtype].word
        plain = residual.Sample(new.data, base, word).planes()
        return max(plain - promise.bits * change.matrix.count / 8, 0.0)

    def encode(self, new: Slice, base: Bytes | None) -> Encoded | None:
        change = _change(new, base)
        if change is None or base is None:
            return None
        promise = recovery.probe(change)
        found = promise and recovery.recover(change, promise.rank)
        if not found:
            return None
        left = recovery.completed(change, *found)
        bits = min(_KNOWN_BITS[new.dtype], factors.most_bits(left.shape[1]))
        return _encode(new, base, _quantised(left, found[1], bits))

    def encode_with(self, new: Slice, base: Bytes, left: Factor, right: Factor) -> Encoded | None:
        """Encode with known factors: the change is about `left @ right`.

        `left` has a line for each row of the tensor that the chunk touches, the first and the last
        of which it may hold in part; `right` has a column for each of the tensor's. A scale is to
        be multiplied into one of them before. None where the dtype has no products.
        """
        thin = _known(new, left, right)
        if thin is None or len(base) != len(new.data):
            return None
        return _encode(new, base, thin)

    def apply(self, base: Slice, left: Factor, right: Factor) -> Bytes | None:
        """The chunk that `encode_with` stores for these factors with nothing left over.

        Whoever is free to define the new weights takes these: they are base plus product, rounded
        once. Cutting a tensor into chunks differently does not change them.
        """
        thin = _known(base, left, right)
        found = recovery.matrix_of(base)
        if thin is None or found is None:
            return None
        out = np.empty(len(base.data), np.uint8)
        _predict(base.data, out, found[0], found[1], thin)
        return out

    def decode(
        self, header: Header, frames: Iterator[memoryview], base: Bytes | None, out: Bytes
    ) -> None:
        if base is None or len(base) != len(out) or header.block != BLOCK:
            raise CorruptError("a stored low-rank update lacks its base")
        matrix, kind, rank = _layout(header.extra, len(out))
        thin = (factors.read(frames, matrix.rows, rank), factors.read(frames, matrix.columns, rank))
        factors.check(*thin)
        _predict(base, out, matrix, kind, thin)
        residual.decode(header.extra, frames, out, out, kind.word)


def _change(new: Slice, base: Bytes | None) -> Change | None:
    found = recovery.matrix_of(new)
    if found is None or base is None or len(base) != len(new.data):
        return None
    return Change(new.data, base, *found)


def _known(like: Slice, left: Factor, right: Factor) -> tuple[Thin, Thin] | None:
    """Known factors in integers, or None where they do not fit the chunk."""
    found = recovery.matrix_of(like)
    if found is None or left.ndim != 2 or right.ndim != 2 or not left.shape[1]:
        return None
    if left.shape != (found[0].rows, right.shape[0]) or right.shape[1] != found[0].columns:
        return None
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return None
    bits = min(_KNOWN_BITS[like.dtype], factors.most_bits(left.shape[1]))
    return _quantised(left.astype(np.float64), right.astype(np.float64), bits)


def _quantised(left: factors.Doubles, right: factors.Doubles, bits: int) -> tuple[Thin, Thin]:
    return factors.quantised(left, bits), factors.quantised(right.T, bits)


def _encode(new: Slice, base: Bytes, thin: tuple[Thin, Thin]) -> Encoded | None:
    found = recovery.matrix_of(new)
    if found is None:
        return None
    matrix, kind = found
    near = np.empty(len(base), np.uint8)
    _predict(base, near, matrix, kind, thin)
    extra, frames = residual.encode(new.data, near, kind.word)
    extra |= {"t": new.dtype, "c": matrix.columns, "s": matrix.skip, "r": thin[0].whole.shape[1]}
    frames = [*thin[0].frames(), *thin[1].frames(), *frames]
    return Encoded(frames=frames, cut=Grain(kind.word), block=BLOCK, extra=extra)


def _layout(extra: Mapping[str, Any], size: int) -> tuple[Matrix, Float, int]:
    """What a header says of the matrix, none of it trusted."""
    kind = FLOATS.get(extra.get("t", ""))
    columns, skip, rank = (extra.get(key) for key in "csr")
    if kind is None or size % kind.word or not size:
        raise CorruptError("a stored low-rank update is of no float dtype")
    for value, most in ((columns, recovery.MOST_COLUMNS), (skip, columns), (rank, columns)):
        if type(value) is not int or type(most) is not int or not 0 <= value <= most:
            raise CorruptError("a stored low-rank update has an impossible shape")
    if not columns or not rank or skip == columns:
        raise CorruptError("a stored low-rank update has an impossible shape")
    matrix = Matrix(columns, skip, size // kind.word)
    if rank * (matrix.rows + columns) > 4 * (matrix.count + columns):
        raise CorruptError("a stored low-rank update has factors larger than its chunk")
    return matrix, kind, rank


def _predict(base: Bytes, out: Bytes, matrix: Matrix, kind: Float, thin: tuple[Thin, Thin]) -> None:
    """Base plus product, rounded once, rows by rows."""
    left, right = thin[0].values(), np.ascontiguousarray(thin[1].values().T)
    words, result = base.view(WORDS[kind.word]), out.view(WORDS[kind.word])
    for first, last in matrix.blocks():
        begin, end = matrix.inside(first, last)
        total = factors.product(left[first:last], right).ravel()
        total = total[begin - first * matrix.columns + matrix.skip :][: end - begin]
        old = words[begin:end]
        with np.errstate(invalid="ignore", over="ignore"):
            np.add(total, rounding.widened(old, kind), out=total)
            rounding.narrowed(total, old, kind, result[begin:end])
