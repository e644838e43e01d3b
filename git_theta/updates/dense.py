"""The update that stands by: a chunk as it is, in byte planes, with no base."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from git_theta.core import planes
from git_theta.core.chain import Bytes, Encoded, Slice
from git_theta.core.payload import Header


class DenseUpdate:
    """Byte planes, each entropy-coded on its own."""

    name: ClassVar[str] = "dense"
    needs_base: ClassVar[bool] = False

    def estimate(self, new: Slice, base: Bytes | None) -> float | None:  # noqa: ARG002
        return planes.estimate(new.data, new.cut)

    def encode(self, new: Slice, base: Bytes | None) -> Encoded | None:  # noqa: ARG002
        return self._encoded(new.data, new.cut)

    def _encoded(self, data: Bytes, cut: planes.Grain) -> Encoded:
        fine = planes.refined(data, cut)
        return Encoded(frames=planes.encode(data, fine), cut=fine, block=planes.BLOCK)

    def encode_rows(self, rows: Bytes, cut: planes.Grain) -> list[Encoded]:
        """What `encode` makes of each row of a contiguous table: small chunks that are alike."""
        if rows.shape[1] >= planes.SMALL:  # `refined` would look at these
            return [self._encoded(row, cut) for row in rows]
        made = planes.encode_rows(rows, cut)
        return [Encoded(frames=frames, cut=cut, block=planes.BLOCK) for frames in made]

    def decode(
        self,
        header: Header,
        frames: Iterator[memoryview],
        base: Bytes | None,  # noqa: ARG002
        out: Bytes,
    ) -> None:
        planes.decode(frames, out, planes.Grain(header.word, header.turn), header.block)
