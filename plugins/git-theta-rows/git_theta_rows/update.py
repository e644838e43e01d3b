"""The update for a chunk whose rows are those of its base at other places, and some new ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from git_theta.core import planes
from git_theta.core.chain import Bytes, Encoded, Slice
from git_theta.core.payload import Header
from git_theta.core.planes import BLOCK, Grain
from git_theta.errors import CorruptError
from git_theta_rows.rows import Rows, Sources, matched, sampled

# An order is worth a note where at least this share of the rows is known, and this share moved.
_KNOWN, _MOVED = 0.5, 0.02
_SOURCE_BYTES = 2.5


class MovedRowsUpdate:
    """Where each row comes from, and the bytes of those that come from nowhere.

    Of the header's `extra`, `r` is the length of a row in bytes and `h` that of what stands before
    the first whole row. Frames: the sources, as what differs from "the row after the last one";
    then the other bytes (what is before the first row, new rows, what is behind the last) in
    planes.
    """

    name: ClassVar[str] = "moved-rows"
    needs_base: ClassVar[bool] = True

    def estimate(self, new: Slice, base: Bytes | None) -> float | None:
        rows = Rows.of(new)
        if base is None or rows is None or len(base) != len(new.data):
            return None
        sample = sampled(rows, new.data, base)
        if sample.known < _KNOWN or sample.moved < _MOVED:
            return None
        dense = planes.estimate(new.data, new.cut) if sample.known < 1 else 0.0
        return _SOURCE_BYTES * rows.count * sample.torn + (1 - sample.known) * dense

    def encode(self, new: Slice, base: Bytes | None) -> Encoded | None:
        rows = Rows.of(new)
        if base is None or rows is None or len(base) != len(new.data):
            return None
        sources = matched(rows, new.data, base)
        places = np.arange(1, rows.count + 1, dtype=np.int64)
        known = sources > 0
        if known.mean() < _KNOWN or (known & (sources != places)).mean() < _MOVED:
            return None
        frames: list[bytes] = []
        steps = _steps(sources)
        for start in range(0, rows.count, BLOCK):
            frames += planes.encode_words(steps[start : start + BLOCK])
        others = rows.others(new.data, ~known)
        cut = planes.refined(others, new.cut) if len(others) else Grain(1)
        return Encoded(
            frames=frames + planes.encode(others, cut),
            cut=cut,
            block=BLOCK,
            extra={"r": rows.width, "h": rows.head},
        )

    def decode(
        self, header: Header, frames: Iterator[memoryview], base: Bytes | None, out: Bytes
    ) -> None:
        if base is None or len(base) != len(out) or header.block != BLOCK:
            raise CorruptError("a stored order of rows does not fit its base")
        if set(header.extra) != {"r", "h"}:
            raise CorruptError("a stored order of rows has other parameters than are known here")
        rows = Rows.read(header.extra["r"], header.extra["h"], len(out))
        steps = np.empty(rows.count, "<u4")
        for start in range(0, rows.count, BLOCK):
            planes.decode_words(frames, steps[start : start + BLOCK])
        sources = _sources(steps)
        if len(sources) and int(sources.max()) > rows.count:
            raise CorruptError("a stored order of rows names a row that its base has not")
        known = sources > 0
        others = np.empty(rows.others_size(len(out), int((~known).sum())), np.uint8)
        planes.decode(frames, others, Grain(header.word, header.turn), header.block)
        rows.fill(out, base, sources, others)


def _steps(sources: Sources) -> planes.Words:
    """Sources less those that would come of walking on: zero nearly everywhere."""
    expected = np.concatenate([np.zeros(1, np.int64), sources[:-1]]) + 1
    steps: planes.Words = (sources - expected).astype("<u4")
    return steps


def _sources(steps: planes.Words) -> Sources:
    """Undo `_steps`; numbers wrap as they were written."""
    walked = np.cumsum(steps, dtype=np.uint64) + np.arange(1, len(steps) + 1, dtype=np.uint64)
    sources: Sources = (walked & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return sources
