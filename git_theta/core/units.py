"""How a file is cut for one pass: layout -> spans -> units that fit into one buffer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from git_theta.core.layout import Layout, Segment, TensorView, columns_of, is_whole
from git_theta.core.manifest import CHUNK

GAP = 1 << 20
_TOGETHER = CHUNK // 4


class Span(NamedTuple):
    """A segment to be stored. `views` are indexes of the layout's tensors that lie in it.

    `dtype` and `name` are those of its first tensor, or empty; `columns` counts the elements in a
    row of that tensor where it is the whole segment, else it is 0. `word` is the width of its
    numbers in bytes as the format gives it, for a segment that no tensor lies in.
    """

    size: int
    dtype: str = ""
    word: int = 1
    views: tuple[int, ...] = ()
    name: str = ""
    columns: int = 0


class Piece(NamedTuple):
    """A byte range of a unit: a chunk of the span with that index, or (None) of the skeleton.

    `start` is where it begins in the unit, `at` where in the span.
    """

    span: int | None
    start: int
    size: int
    at: int = 0


@dataclass(frozen=True, slots=True)
class Unit:
    """A byte range of the file of at most `CHUNK` bytes, and what lies in it.

    Pieces go together up to a part of that: with smaller units in flight no thread has to wait for
    another one's, and less is left for one alone at the end.
    """

    size: int
    pieces: tuple[Piece, ...]

    def cut(self, size: int) -> Unit:
        """The first `size` bytes of the unit."""
        pieces = (
            Piece(piece.span, piece.start, min(piece.size, size - piece.start), piece.at)
            for piece in self.pieces
            if piece.start < size
        )
        return Unit(size, tuple(pieces))


Cuts = Callable[[TensorView, int], Sequence[int]]


def plan(layout: Layout, cuts: Cuts | None = None) -> tuple[list[Span], list[Unit]]:
    """Cut everything up to the end of the last segment into units, in file order.

    A gap too large for the skeleton becomes a span of its own. `cuts` is asked for places where
    the tensor that is a whole segment shall be cut, besides those where it must be.
    """
    views: list[list[int]] = [[] for _ in layout.segments]
    for index, tensor in enumerate(layout.tensors):
        views[tensor.segment].append(index)
    found: list[Span] = []
    runs: list[_Run] = []
    end = 0
    for segment, of in zip(layout.segments, views, strict=True):
        gap = segment.offset - end
        if gap > GAP:
            found.append(Span(gap))
            runs.append(_Run(len(found) - 1, gap, ()))
        elif gap:
            runs.append(_Run(None, gap, ()))
        view = layout.tensors[of[0]] if of else None
        found.append(_span(segment, tuple(of), view))
        places = cuts(view, segment.size) if cuts is not None and view is not None else ()
        runs.append(_Run(len(found) - 1, segment.size, places))
        end = segment.offset + segment.size
    return found, list(_units(runs))


def _span(segment: Segment, of: tuple[int, ...], view: TensorView | None) -> Span:
    if view is None:
        return Span(segment.size, "", segment.word, of)
    columns = columns_of(view.shape) if is_whole(view, segment.size) else 0
    return Span(segment.size, view.dtype, segment.word, of, view.name, columns)


class _Run(NamedTuple):
    """Bytes that belong together, and where to cut them."""

    span: int | None
    size: int
    cuts: Sequence[int]

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Where each piece begins, and its size; none is larger than a chunk."""
        ends = [cut for cut in self.cuts if 0 < cut < self.size]
        start = 0
        for end in [*sorted(ends), self.size]:
            for at in range(start, max(end, start + 1), CHUNK):
                yield at, min(CHUNK, end - at)
            start = end


def _units(runs: Sequence[_Run]) -> Iterator[Unit]:
    pieces: list[Piece] = []
    size = 0
    for run in runs:
        for at, length in run.pieces():
            if pieces and size + length > _TOGETHER:
                yield Unit(size, tuple(pieces))
                pieces, size = [], 0
            pieces.append(Piece(run.span, size, length, at))
            size += length
    if pieces:
        yield Unit(size, tuple(pieces))
