"""The update for a matrix of which each row or column was scaled, as a merged IA3 adapter does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from git_theta.core import planes
from git_theta.core.chain import Bytes, Encoded, Slice
from git_theta.core.payload import Header
from git_theta.core.planes import BLOCK, WORDS, Grain
from git_theta.errors import CorruptError
from git_theta.updates import residual, rounding, scaling
from git_theta.updates.matrix import Matrix, matrix_of, read_matrix
from git_theta.updates.rounding import Float

Scale = npt.NDArray[np.floating[Any]]

ROWS, COLUMNS = 0, 1
# Less than this many numbers are not worth the look: differences of them take little anyway.
_LEAST = 2048


class Ia3Update:
    """One factor a row or a column, each product rounded once, and what is left."""

    name: ClassVar[str] = "ia3"
    needs_base: ClassVar[bool] = True
    in_place: ClassVar[bool] = True

    def estimate(self, new: Slice, base: Bytes | None) -> float | None:
        found = matrix_of(new)
        if found is None or base is None or len(base) != len(new.data):
            return None
        if found[0].count < _LEAST:
            return None
        promise = scaling.probe(new.data, base, *found)
        return None if promise is None else promise.size

    def encode(self, new: Slice, base: Bytes | None) -> Encoded | None:
        found = matrix_of(new)
        if found is None or base is None or len(base) != len(new.data):
            return None
        promise = scaling.probe(new.data, base, *found)
        if promise is None:
            return None
        scale = scaling.recover(new.data, base, *found, promise.axis)
        return _encode(new, base, _Model(*found, promise.axis, scale))

    def encode_with(self, new: Slice, base: Bytes, scale: Scale, axis: int) -> Encoded | None:
        """Encode with a known scale.

        `axis` 0 has a factor for each row of the tensor that the chunk touches, the first and the
        last of which it may hold in part; 1 has one for each column. None where the dtype has no
        products.
        """
        model = _known(new, scale, axis)
        if model is None or len(base) != len(new.data):
            return None
        return _encode(new, base, model)

    def apply(self, base: Slice, scale: Scale, axis: int) -> Bytes | None:
        """The chunk that `encode_with` stores for this scale with nothing left over."""
        model = _known(base, scale, axis)
        if model is None:
            return None
        out = np.empty(len(base.data), np.uint8)
        model.predict(base.data, out)
        return out

    def decode(
        self, header: Header, frames: Iterator[memoryview], base: Bytes | None, out: Bytes
    ) -> None:
        if base is None or len(base) != len(out) or header.block != BLOCK:
            raise CorruptError("a stored ia3 update lacks its base")
        residual.refuse_unknown(header.extra, "tcsa")
        model = _Model.read(header.extra, frames, len(out))
        model.predict(base, out)
        residual.decode(header.extra, frames, out, out, model.kind.word)


@dataclass(frozen=True, slots=True)
class _Model:
    """The scale of a chunk, in the working type of its dtype."""

    matrix: Matrix
    kind: Float
    axis: int
    scale: Scale

    @classmethod
    def read(cls, extra: Mapping[str, Any], frames: Iterator[memoryview], size: int) -> _Model:
        """The scale that a record holds, none of which is trusted."""
        matrix, kind = read_matrix(extra, size)
        axis = extra.get("a")
        if type(axis) is not int or axis not in (ROWS, COLUMNS):
            raise CorruptError("a stored ia3 update scales neither rows nor columns")
        count = matrix.columns if axis == COLUMNS else matrix.rows
        scale = np.empty(count, WORDS[np.dtype(kind.working).itemsize])
        for start in range(0, count, BLOCK):
            planes.decode_words(frames, scale[start : start + BLOCK])
        return cls(matrix, kind, axis, scale.view(kind.working))

    def frames(self) -> list[bytes]:
        """The scale in planes."""
        words = self.scale.view(WORDS[self.scale.itemsize])
        parts = (words[start : start + BLOCK] for start in range(0, len(words), BLOCK))
        return [frame for part in parts for frame in planes.encode_words(part)]

    def predict(self, base: Bytes, out: Bytes) -> None:
        """Base times scale, rounded once, rows by rows."""
        word, columns = WORDS[self.kind.word], self.matrix.columns
        words, result = base.view(word), out.view(word)
        for first, last in self.matrix.blocks():
            begin, end = self.matrix.inside(first, last)
            row = begin - self.matrix.begin(first)
            if self.axis == COLUMNS:
                scale = np.tile(self.scale, last - first)
            else:
                scale = np.repeat(self.scale[first:last], columns)
            old = words[begin:end]
            with np.errstate(all="ignore"):
                product = rounding.widened(old, self.kind) * scale[row : row + end - begin]
                rounding.narrowed(product, old, self.kind, result[begin:end])


def _known(like: Slice, scale: Scale, axis: int) -> _Model | None:
    """A known scale in the working type, or None where it does not fit the chunk."""
    found = matrix_of(like)
    if found is None or axis not in (ROWS, COLUMNS) or scale.ndim != 1:
        return None
    matrix, kind = found
    if len(scale) != (matrix.columns if axis == COLUMNS else matrix.rows):
        return None
    with np.errstate(over="ignore"):
        rounded = scale.astype(kind.working)
    return _Model(matrix, kind, axis, rounded) if np.isfinite(rounded).all() else None


def _encode(new: Slice, base: Bytes, model: _Model) -> Encoded:
    near = np.empty(len(base), np.uint8)
    model.predict(base, near)
    extra, frames = residual.encode(new.data, near, model.kind.word)
    matrix = model.matrix
    extra |= {"t": new.dtype, "c": matrix.columns, "s": matrix.skip, "a": model.axis}
    return Encoded(
        frames=[*model.frames(), *frames], cut=Grain(model.kind.word), block=BLOCK, extra=extra
    )
