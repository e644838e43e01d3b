"""The update for a matrix whose change is a product of two thin ones, as a merged LoRA's is."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from git_theta.core import loops
from git_theta.core.chain import Bytes, Encoded, Slice, scratch
from git_theta.core.payload import Header
from git_theta.core.planes import BLOCK, WORDS, Grain
from git_theta.errors import CorruptError
from git_theta.updates import factors, recovery, residual, rounding
from git_theta.updates.factors import Thin
from git_theta.updates.library import one_thread
from git_theta.updates.matrix import Matrix, matrix_of, read_matrix
from git_theta.updates.recovery import Change, Promise
from git_theta.updates.rounding import Float

Factor = npt.NDArray[np.floating[Any]]

_SINGLE: np.dtype[np.floating[Any]] = np.dtype(np.float32)
_DOUBLE: np.dtype[np.floating[Any]] = np.dtype(np.float64)

# The bits of known factors by the bits of the dtype's mantissa; they depend on nothing else but
# the rank, so that chunks of one tensor agree.
_BITS = {52: 25, 23: 24, 10: 22, 7: 20}


class LowRankUpdate:
    """Two thin integer matrices whose product is exact on every machine, and what is left."""

    name: ClassVar[str] = "low-rank"
    needs_base: ClassVar[bool] = True
    in_place: ClassVar[bool] = True

    def estimate(self, new: Slice, base: Bytes | None) -> float | None:
        change = _change(new, base)
        if change is None or base is None or not recovery.side(change):
            return None
        with one_thread():
            promise = _promise(new, base, change)
        return None if promise is None else promise.size

    @one_thread()
    def encode(self, new: Slice, base: Bytes | None) -> Encoded | None:
        change = _change(new, base)
        if change is None or base is None:
            return None
        promise = _promise(new, base, change)
        if promise is None:
            return None
        found = recovery.recover(change, promise)
        if found is None:
            return None
        left = recovery.completed(change, found)
        bits = factors.enough_bits(left, found.right, found.noise)
        thin = factors.quantised(left, bits), factors.quantised(found.right.T, bits)
        return _encode(new, base, _Model(change.matrix, change.kind, *thin))

    @one_thread()
    def encode_with(self, new: Slice, base: Bytes, left: Factor, right: Factor) -> Encoded | None:
        """Encode with known factors: the change is about `left @ right`.

        `left` has a line for each row of the tensor that the chunk touches, the first and the last
        of which it may hold in part; `right` has a column for each of the tensor's. A scale is to
        be multiplied into one of them before. None where the dtype has no products, or where the
        factors have more numbers than the chunk.
        """
        model = _known(new, left, right)
        if model is None or len(base) != len(new.data):
            return None
        return _encode(new, base, model)

    @one_thread()
    def apply(self, base: Slice, left: Factor, right: Factor) -> Bytes | None:
        """The chunk that `encode_with` stores for these factors with nothing left over.

        Whoever is free to define the new weights takes these: they are base plus product, rounded
        once. Cutting a tensor into chunks differently does not change them.
        """
        model = _known(base, left, right)
        if model is None:
            return None
        out = np.empty(len(base.data), np.uint8)
        model.predict(base.data, out)
        return out

    @one_thread()
    def decode(
        self, header: Header, frames: Iterator[memoryview], base: Bytes | None, out: Bytes
    ) -> None:
        if base is None or len(base) != len(out) or header.block != BLOCK:
            raise CorruptError("a stored low-rank update lacks its base")
        residual.refuse_unknown(header.extra, "tcsr")
        model = _Model.read(header.extra, frames, len(out))
        model.predict(base, out)
        residual.decode(header.extra, frames, out, out, model.kind.word)


@dataclass(frozen=True, slots=True)
class _Model:
    """The factors of a chunk, and how it lies in its matrix."""

    matrix: Matrix
    kind: Float
    left: Thin
    right: Thin

    @classmethod
    def read(cls, extra: Mapping[str, Any], frames: Iterator[memoryview], size: int) -> _Model:
        """The factors that a record holds, none of which is trusted."""
        matrix, kind = read_matrix(extra, size)
        rank = extra.get("r")
        if type(rank) is not int or not 0 < rank <= matrix.columns:
            raise CorruptError("a stored low-rank update has an impossible rank")
        if rank * (matrix.rows + matrix.columns) > matrix.count:
            raise CorruptError("a stored low-rank update has factors larger than its chunk")
        left = factors.read(frames, matrix.rows, rank)
        right = factors.read(frames, matrix.columns, rank)
        factors.check(left, right)
        return cls(matrix, kind, left, right)

    def predict(self, base: Bytes, out: Bytes) -> None:
        """Base plus product, rounded once, rows by rows; `out` may be `base`."""
        single = self.kind.word <= _SINGLE.itemsize and factors.fit_single(self.left, self.right)
        working = _SINGLE if single else _DOUBLE
        left = self.left.values().astype(working)
        right = np.ascontiguousarray(self.right.values().T.astype(working))
        word = WORDS[self.kind.word]
        words, result = base.view(word), out.view(word)
        mantissa, skip = self.kind.mantissa, self.matrix.skip
        if loops.plus_product((left, right), words, result, mantissa=mantissa, skip=skip):
            return
        for first, last in self.matrix.blocks():
            begin, end = self.matrix.inside(first, last)
            room = scratch.take("product", (last - first) * self.matrix.columns * working.itemsize)
            rows = room.view(working).reshape(last - first, -1)
            total = factors.product(left[first:last], right, rows).reshape(-1)
            total = total[begin - self.matrix.begin(first) :][: end - begin]
            old = words[begin:end]
            with np.errstate(invalid="ignore", over="ignore"):
                rounding.added(total, old, self.kind, result[begin:end])


def _change(new: Slice, base: Bytes | None) -> Change | None:
    found = matrix_of(new)
    if found is None or base is None or len(base) != len(new.data):
        return None
    return Change(new.data, base, *found)


class _Last(threading.local):
    """What a thread asked last: who encodes a chunk has most often asked for an estimate."""

    def __init__(self) -> None:
        self.of: tuple[Slice, Bytes] | None = None
        self.promise: Promise | None = None


_last = _Last()


def _promise(new: Slice, base: Bytes, change: Change) -> Promise | None:
    """What a probe says of a chunk and its base, known again by the very objects."""
    last = _last.of
    if last is None or last[0] is not new or last[1] is not base:
        _last.promise = recovery.probe(change)
        _last.of = new, base
    return _last.promise


def _known(like: Slice, left: Factor, right: Factor) -> _Model | None:
    """Known factors in integers, or None where they do not fit the chunk."""
    found = matrix_of(like)
    if found is None or left.ndim != 2 or right.ndim != 2 or not left.shape[1]:
        return None
    matrix, kind = found
    if left.shape != (matrix.rows, right.shape[0]) or right.shape[1] != matrix.columns:
        return None
    if left.size + right.size > matrix.count:
        return None
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return None
    bits = min(_BITS[kind.mantissa], factors.most_bits(left.shape[1]))
    lines = left.astype(np.float64), right.T.astype(np.float64)
    return _Model(matrix, kind, *(factors.quantised(part, bits) for part in lines))


def _encode(new: Slice, base: Bytes, model: _Model) -> Encoded:
    near = np.empty(len(base), np.uint8)
    model.predict(base, near)
    extra, frames = residual.encode(new.data, near, model.kind.word)
    matrix, rank = model.matrix, model.left.whole.shape[1]
    extra |= {"t": new.dtype, "c": matrix.columns, "s": matrix.skip, "r": rank}
    return Encoded(
        frames=[*model.left.frames(), *model.right.frames(), *frames],
        cut=Grain(model.kind.word),
        block=BLOCK,
        extra=extra,
    )
