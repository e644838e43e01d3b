"""The update for a chunk of which a part changed: the changed words and where they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from git_theta.core.chain import Bytes, Encoded, Slice
from git_theta.core.payload import Header
from git_theta.core.planes import BLOCK, Grain
from git_theta.errors import CorruptError
from git_theta.updates import residual


class SparseUpdate:
    """The differences of changed words only; their places as gaps, or as a bitmap if many."""

    name: ClassVar[str] = "sparse"
    needs_base: ClassVar[bool] = True
    in_place: ClassVar[bool] = True

    def estimate(self, new: Slice, base: Bytes | None) -> float | None:
        if base is None or len(base) != len(new.data):
            return None
        return residual.sample_of(new.data, base, new.cut.word or 1).sparse

    def encode(self, new: Slice, base: Bytes | None) -> Encoded | None:
        if base is None or len(base) != len(new.data):
            return None
        word = new.cut.word or 1
        sample = residual.sample_of(new.data, base, word)
        if sample.sparse is None:
            return None
        extra, frames = residual.encode_sparse(new.data, base, word, sample)
        return Encoded(frames=frames, cut=Grain(word), block=BLOCK, extra=extra)

    def decode(
        self, header: Header, frames: Iterator[memoryview], base: Bytes | None, out: Bytes
    ) -> None:
        if base is None or header.block != BLOCK or "m" not in header.extra:
            raise CorruptError("a stored sparse update lacks its base or its places")
        residual.refuse_unknown(header.extra)
        residual.decode(header.extra, frames, base, out, header.word)
