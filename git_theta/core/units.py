"""How a file is cut for one pass: layout -> spans -> units that fit into one buffer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from git_theta.core.layout import Layout
from git_theta.core.manifest import CHUNK

GAP = 1 << 20


@dataclass(frozen=True, slots=True)
class Span:
    """A segment to be stored. `views` are indexes of the layout's tensors that lie in it.

    `dtype` is that of its first tensor, or empty; `word` is the width of its numbers in bytes as
    the format gives it, for a segment that no tensor lies in.
    """

    size: int
    dtype: str = ""
    word: int = 1
    views: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A byte range of a unit: a chunk of the span with that index, or (None) of the skeleton."""

    span: int | None
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Unit:
    """A byte range of the file of at most `CHUNK` bytes, and what lies in it."""

    size: int
    pieces: tuple[Piece, ...]

    def cut(self, size: int) -> Unit:
        """The first `size` bytes of the unit."""
        pieces = (
            Piece(piece.span, piece.start, min(piece.size, size - piece.start))
            for piece in self.pieces
            if piece.start < size
        )
        return Unit(size, tuple(pieces))


def plan(layout: Layout) -> tuple[list[Span], list[Unit]]:
    """Cut everything up to the end of the last segment into units, in file order.

    A gap too large for the skeleton becomes a span of its own.
    """
    views: list[list[int]] = [[] for _ in layout.segments]
    for index, tensor in enumerate(layout.tensors):
        views[tensor.segment].append(index)
    found: list[Span] = []
    runs: list[tuple[int | None, int]] = []
    end = 0
    for segment, of in zip(layout.segments, views, strict=True):
        gap = segment.offset - end
        if gap > GAP:
            found.append(Span(gap))
            runs.append((len(found) - 1, gap))
        elif gap:
            runs.append((None, gap))
        dtype = layout.tensors[of[0]].dtype if of else ""
        found.append(Span(segment.size, dtype, segment.word, tuple(of)))
        runs.append((len(found) - 1, segment.size))
        end = segment.offset + segment.size
    return found, list(_units(runs))


def _units(runs: Sequence[tuple[int | None, int]]) -> Iterator[Unit]:
    pieces: list[Piece] = []
    size = 0
    for span, whole in runs:
        for start in range(0, max(whole, 1), CHUNK):
            length = min(CHUNK, whole - start)
            if pieces and size + length > CHUNK:
                yield Unit(size, tuple(pieces))
                pieces, size = [], 0
            pieces.append(Piece(span, size, length))
            size += length
    if pieces:
        yield Unit(size, tuple(pieces))
