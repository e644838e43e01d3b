"""New weights out of old ones, chunk by chunk: what a change makes of each chunk of its tensor.

An edit first makes the new chunk and later, when that is stored, hands the same numbers to the
update that stores it. Whatever the update restores from the base and the factors alone is what
the new chunk is, so nothing but the factors has to be kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np

from git_theta.core.chain import Bytes, Encoded, Slice
from git_theta.core.dtypes import DTYPES
from git_theta.core.values import Doubles, Integers, from_float, to_float

_PIECE = 1 << 20
# Dtypes of so few exponents that weights are subnormal.
_SHORT = ("F16",)


class Edit(Protocol):
    """What happens to one tensor."""

    kind: ClassVar[str]

    def changed(self, base: Slice) -> Bytes:
        """The new chunk, as many bytes as the old one."""
        ...

    def encoded(self, new: Slice, base: Bytes) -> tuple[str, Encoded] | None:
        """How to store the new chunk; None leaves that to the usual choice."""
        ...


class FactorUpdate(Protocol):
    """An update that stores a product of factors."""

    def apply(self, base: Slice, left: Doubles, right: Doubles) -> Bytes | None: ...

    def encode_with(
        self, new: Slice, base: Bytes, left: Doubles, right: Doubles
    ) -> Encoded | None: ...


class ScaleUpdate(Protocol):
    """An update that stores a scale of rows (axis 0) or columns (axis 1)."""

    def apply(self, base: Slice, scale: Doubles, axis: int) -> Bytes | None: ...

    def encode_with(self, new: Slice, base: Bytes, scale: Doubles, axis: int) -> Encoded | None: ...


def _elements(chunk: Slice) -> int:
    return len(chunk.data) * 8 // DTYPES[chunk.dtype].bits


def _rows(chunk: Slice) -> slice:
    """The rows of the tensor that a chunk has elements of."""
    last = chunk.start + max(1, _elements(chunk)) - 1
    return slice(chunk.start // chunk.columns, last // chunk.columns + 1)


def _within(chunk: Slice) -> slice:
    """The elements of a chunk among those of all the rows it touches."""
    first = chunk.start % chunk.columns
    return slice(first, first + _elements(chunk))


def _sum(base: Slice, left: Doubles, right: Doubles) -> Bytes:
    """Base and product where the update has no way of its own, in pieces of some rows."""
    old = to_float(base.data, base.dtype)
    step = max(1, _PIECE // max(1, base.columns))
    first, end = _within(base).start, _within(base).stop
    for row in range(0, len(left), step):
        low, high = row * base.columns, min((row + step) * base.columns, end)
        product = (left[row : row + step] @ right).reshape(-1)[max(0, first - low) : high - low]
        at = max(0, low - first)
        old[at : at + len(product)] += product
    return from_float(old, base.dtype)


def _mended(made: Bytes, base: Slice, exact: Bytes) -> Bytes:
    """Put right what the update left as it was, though the sum is another number.

    It leaves subnormal numbers alone, on which machines do not agree. Of half floats these are too
    many and too large for that; they cost a residual each.
    """
    width = DTYPES[base.dtype].bits // 8
    new, old, right = (part.reshape(-1, width) for part in (made.copy(), base.data, exact))
    left = (new == old).all(axis=1)
    new[left] = right[left]
    flat: Bytes = new.reshape(-1)
    return flat


@dataclass(frozen=True, slots=True)
class Product:
    """`left @ right` is added; both for the tensor as a matrix, dimensions after the first flat."""

    kind: ClassVar[str] = "low-rank"
    update: FactorUpdate
    left: Doubles
    right: Doubles

    def changed(self, base: Slice) -> Bytes:
        left = self.left[_rows(base)]
        made = self.update.apply(base, left, self.right)
        if made is None:
            return _sum(base, left, self.right)
        return _mended(made, base, _sum(base, left, self.right)) if base.dtype in _SHORT else made

    def encoded(self, new: Slice, base: Bytes) -> tuple[str, Encoded] | None:
        if not np.array_equal(self.changed(replace(new, data=base)), new.data):
            return None  # it is another base
        made = self.update.encode_with(new, base, self.left[_rows(new)], self.right)
        return None if made is None else (self.kind, made)


@dataclass(frozen=True, slots=True)
class Scaled:
    """Rows or columns are multiplied by a scale."""

    kind: ClassVar[str] = "ia3"
    update: ScaleUpdate
    scale: Doubles
    axis: int

    def changed(self, base: Slice) -> Bytes:
        part = self._part(base)
        made = self.update.apply(base, part, self.axis)
        if made is None:
            return self._scaled(base, part)
        return _mended(made, base, self._scaled(base, part)) if base.dtype in _SHORT else made

    def _scaled(self, base: Slice, part: Doubles) -> Bytes:
        if self.axis == 0:
            each = np.repeat(part, base.columns)[_within(base)]
        else:
            each = part[(base.start + np.arange(_elements(base))) % base.columns]
        return from_float(to_float(base.data, base.dtype) * each, base.dtype)

    def encoded(self, new: Slice, base: Bytes) -> tuple[str, Encoded] | None:
        if not np.array_equal(self.changed(replace(new, data=base)), new.data):
            return None
        made = self.update.encode_with(new, base, self._part(new), self.axis)
        return None if made is None else (self.kind, made)

    def _part(self, chunk: Slice) -> Doubles:
        return self.scale[_rows(chunk)] if self.axis == 0 else self.scale


@dataclass(frozen=True, slots=True)
class Multiplied:
    """Each number is multiplied by one of its own: a bias beside its scaled matrix."""

    kind: ClassVar[str] = "ia3"
    scale: Doubles

    def changed(self, base: Slice) -> Bytes:
        part = self.scale[base.start : base.start + _elements(base)]
        return from_float(to_float(base.data, base.dtype) * part, base.dtype)

    def encoded(self, new: Slice, base: Bytes) -> tuple[str, Encoded] | None:  # noqa: ARG002
        return None


@dataclass(frozen=True, slots=True)
class Added:
    """Values are added to the entries at some places, which are sorted."""

    kind: ClassVar[str] = "sparse"
    places: Integers
    values: Doubles

    def changed(self, base: Slice) -> Bytes:
        first, last = np.searchsorted(self.places, [base.start, base.start + _elements(base)])
        here = self.places[first:last] - base.start
        width = DTYPES[base.dtype].bits // 8
        new = base.data.copy().reshape(-1, width)
        sums = to_float(new[here].tobytes(), base.dtype) + self.values[first:last]
        new[here] = from_float(sums, base.dtype).reshape(-1, width)
        flat: Bytes = new.reshape(-1)
        return flat

    def encoded(self, new: Slice, base: Bytes) -> tuple[str, Encoded] | None:  # noqa: ARG002
        return None


@dataclass(frozen=True, slots=True)
class Kept:
    """Of what changed since a base, only changes above a size are kept; `of` reads that base."""

    kind: ClassVar[str] = "sparse"
    least: float
    of: Callable[[], Bytes]

    def changed(self, base: Slice) -> Bytes:
        old = _old(base, self.of())
        width = DTYPES[base.dtype].bits // 8
        apart = np.abs(to_float(base.data, base.dtype) - to_float(old, base.dtype))
        dropped = apart <= self.least
        new = base.data.copy().reshape(-1, width)
        new[dropped] = old.reshape(-1, width)[dropped]
        flat: Bytes = new.reshape(-1)
        return flat

    def encoded(self, new: Slice, base: Bytes) -> tuple[str, Encoded] | None:  # noqa: ARG002
        return None


@dataclass(frozen=True, slots=True)
class Rebased:
    """A product is added to another base than what stands in the file; `of` reads that base."""

    kind: ClassVar[str] = "low-rank"
    product: Product
    of: Callable[[], Bytes]

    def changed(self, base: Slice) -> Bytes:
        return self.product.changed(replace(base, data=_old(base, self.of())))

    def encoded(self, new: Slice, base: Bytes) -> tuple[str, Encoded] | None:
        return self.product.encoded(new, base)


def _old(chunk: Slice, whole: Bytes) -> Bytes:
    """The bytes of another version of the whole tensor that a chunk stands for."""
    start = chunk.start * DTYPES[chunk.dtype].bits // 8
    return whole[start : start + len(chunk.data)]
