"""The update for a matrix of which each row or column was scaled, as a merged IA3 adapter does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from git_theta.core.chain import Bytes, Encoded, Slice
from git_theta.core.payload import Header
from git_theta.errors import CorruptError

Scale = npt.NDArray[np.floating[Any]]


class Ia3Update:
    """One factor a row or a column, each product rounded once, and what is left."""

    name: ClassVar[str] = "ia3"
    needs_base: ClassVar[bool] = True

    def estimate(self, new: Slice, base: Bytes | None) -> float | None:
        return None

    def encode(self, new: Slice, base: Bytes | None) -> Encoded | None:
        return None

    def encode_with(self, new: Slice, base: Bytes, scale: Scale, axis: int) -> Encoded | None:
        """Encode with a known scale: `axis` 0 has a factor for each row of the tensor that the
        chunk touches (the first and last of which it may hold in part), 1 one for each column.
        None where the dtype has no products.
        """
        return None

    def apply(self, base: Slice, scale: Scale, axis: int) -> Bytes | None:
        """The chunk that `encode_with` stores for this scale with nothing left over."""
        return None

    def decode(
        self, header: Header, frames: Iterator[memoryview], base: Bytes | None, out: Bytes
    ) -> None:
        raise CorruptError("not yet")
