"""The update for a chunk that changed all over, a little: differences of the raw words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from git_theta.core.chain import Bytes, Encoded, Slice
from git_theta.core.payload import Header
from git_theta.core.planes import BLOCK, Grain
from git_theta.errors import CorruptError
from git_theta.updates import residual


class DeltaUpdate:
    """Integer differences from the base in byte planes, each entropy-coded on its own."""

    name: ClassVar[str] = "delta"
    needs_base: ClassVar[bool] = True
    in_place: ClassVar[bool] = True

    def estimate(self, new: Slice, base: Bytes | None) -> float | None:
        if base is None or len(base) != len(new.data):
            return None
        return residual.sample_of(new.data, base, new.cut.word or 1).planes()

    def encode(self, new: Slice, base: Bytes | None) -> Encoded | None:
        if base is None or len(base) != len(new.data):
            return None
        word = new.cut.word or 1
        sample = residual.sample_of(new.data, base, word)
        frames = residual.encode_planes(new.data, base, word, sample)
        return Encoded(frames=frames, cut=Grain(word), block=BLOCK)

    def decode(
        self, header: Header, frames: Iterator[memoryview], base: Bytes | None, out: Bytes
    ) -> None:
        if base is None or header.block != BLOCK or header.extra:
            raise CorruptError("a stored delta lacks its base, or has parameters not known here")
        residual.decode({}, frames, base, out, header.word)
