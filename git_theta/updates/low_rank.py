"""The update for a matrix whose change is a product of two thin ones, as a merged LoRA's is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from git_theta.core.chain import Bytes, Encoded, Slice
from git_theta.core.payload import Header
from git_theta.errors import CorruptError

Factor = npt.NDArray[np.floating[Any]]


class LowRankUpdate:
    """Two thin integer matrices whose product is exact on every machine, and what is left."""

    name: ClassVar[str] = "low-rank"
    needs_base: ClassVar[bool] = True

    def estimate(self, new: Slice, base: Bytes | None) -> float | None:
        return None

    def encode(self, new: Slice, base: Bytes | None) -> Encoded | None:
        return None

    def encode_with(self, new: Slice, base: Bytes, left: Factor, right: Factor) -> Encoded | None:
        """Encode with known factors: the change is about `left @ right`.

        `left` has a line for each row of the tensor that the chunk touches, the first and the last
        of which it may hold in part; `right` has a column for each of the tensor's. A scale is to
        be multiplied into one of them before. None where the dtype has no products.
        """
        return None

    def apply(self, base: Slice, left: Factor, right: Factor) -> Bytes | None:
        """The chunk that `encode_with` stores for these factors with nothing left over.

        Whoever is free to define the new weights takes these: they are base plus product, rounded
        once. Cutting a tensor into chunks differently does not change them.
        """
        return None

    def decode(
        self, header: Header, frames: Iterator[memoryview], base: Bytes | None, out: Bytes
    ) -> None:
        raise CorruptError("not yet")
