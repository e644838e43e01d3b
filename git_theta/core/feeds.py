"""Ways to read a stream into units: along a layout, or by content-defined chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from git_theta.core.manifest import CHUNK
from git_theta.core.units import GAP, Piece, Span, Unit

Bytes = npt.NDArray[np.uint8]
TakeBuffer = Callable[[int], Bytes]

_AVERAGE = 1 << 20


class Source(Protocol):
    """Bytes that can be read once, in order."""

    def readinto(self, view: memoryview) -> int:
        """Fill the view and return its length, or less where the bytes end."""
        ...


class Feed(Protocol):
    """Reads a source into buffers; `spans` grows while it does."""

    spans: list[Span]
    truncated: bool

    def units(self, take: TakeBuffer) -> Iterator[tuple[Bytes, Unit]]:
        """Fill buffers from `take`, each with one unit."""
        ...


@dataclass
class LayoutFeed:
    """Follows a layout. What lies behind its end is skeleton, or spans of no tensor.

    `truncated` is true once the source ended before the layout did.
    """

    source: Source
    spans: list[Span]
    planned: Sequence[Unit]
    truncated: bool = False

    def units(self, take: TakeBuffer) -> Iterator[tuple[Bytes, Unit]]:
        for unit in self.planned:
            buffer = take(unit.size)
            got = self.source.readinto(buffer[: unit.size].data)
            if got < unit.size:
                self.truncated = True
                if got:
                    yield buffer, unit.cut(got)
                return
            yield buffer, unit
        yield from self._tail(take)

    def _tail(self, take: TakeBuffer) -> Iterator[tuple[Bytes, Unit]]:
        got = CHUNK
        while got == CHUNK:
            buffer = take(CHUNK)
            got = self.source.readinto(buffer[:CHUNK].data)
            if got > GAP:
                self.spans.append(Span(got))
                yield buffer, Unit(got, (Piece(len(self.spans) - 1, 0, got),))
            elif got:
                yield buffer, Unit(got, (Piece(None, 0, got),))


class ChunkFeed:
    """Cuts where the content says, so that bytes put in or taken out move few cuts.

    Every chunk is a span of its own.
    """

    def __init__(self, source: Source) -> None:
        from pyfastcdc import FastCDC  # only for files of no known format

        self.source = source
        self.spans: list[Span] = []
        self.truncated = False
        self._cutter = FastCDC(avg_size=_AVERAGE, min_size=_AVERAGE // 4, max_size=_AVERAGE * 4)

    def units(self, take: TakeBuffer) -> Iterator[tuple[Bytes, Unit]]:
        carried = np.empty(0, np.uint8)
        while True:
            buffer = take(CHUNK)
            kept = len(carried)
            buffer[:kept] = carried
            size = kept + self.source.readinto(buffer[kept:CHUNK].data)
            ended = size < CHUNK
            cuts = [chunk.length for chunk in self._cutter.cut_buf(buffer[:size].data)]
            if not ended:  # the last cut may only be where the buffer ended
                size -= cuts.pop()
            carried = buffer[size:CHUNK].copy() if not ended else carried
            if size:
                yield buffer, self._unit(size, cuts)
            if ended:
                return

    def _unit(self, size: int, cuts: Sequence[int]) -> Unit:
        pieces, start = [], 0
        for length in cuts:
            self.spans.append(Span(length))
            pieces.append(Piece(len(self.spans) - 1, start, length))
            start += length
        return Unit(size, tuple(pieces))
