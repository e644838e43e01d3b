"""A chunk as rows: how they lie in it, which of them are rows of its base, and where those are.

A source is the number of a row of the base, counted from 1; 0 stands for none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from git_theta.core.chain import Bytes, Slice
from git_theta.core.dtypes import DTYPES
from git_theta.errors import CorruptError

Sources = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

_NARROWEST = 64
_FEWEST = 4
_SAMPLE = 96
_PEEK = 16
_BLOCK = 4 << 20
_WORDS = {8: np.uint64, 4: np.uint32, 2: np.uint16, 1: np.uint8}


@dataclass(frozen=True, slots=True)
class Rows:
    """Whole rows of `width` bytes, `count` of them, behind `head` bytes of another."""

    width: int
    head: int
    count: int

    @classmethod
    def of(cls, new: Slice) -> Rows | None:
        """The rows of a chunk, or None where it has none that are worth naming."""
        known = DTYPES.get(new.dtype)
        if known is None or known.bits % 8 or not new.columns:
            return None
        size = known.bits // 8
        width, head = new.columns * size, -new.start % new.columns * size
        count = max(0, len(new.data) - head) // width
        return cls(width, head, count) if width >= _NARROWEST and count >= _FEWEST else None

    @classmethod
    def read(cls, width: object, head: object, size: int) -> Rows:
        """The rows that a header names.

        Raises:
            CorruptError: there cannot be such rows in `size` bytes.
        """
        if type(width) is not int or type(head) is not int:
            raise CorruptError("a stored order of rows has no lengths")
        if width < _NARROWEST or not 0 <= head < min(width, size):
            raise CorruptError("a stored order of rows has impossible lengths")
        return cls(width, head, (size - head) // width)

    def matrix(self, data: Bytes) -> Bytes:
        """The whole rows of a chunk, one below the other."""
        return data[self.head : self.head + self.count * self.width].reshape(self.count, -1)

    def others_size(self, size: int, unknown: int) -> int:
        """How many bytes of a chunk are in no row that is known."""
        return size - self.count * self.width + unknown * self.width

    def others(self, data: Bytes, unknown: Flags) -> Bytes:
        """The bytes before the first row, those of unknown rows, those behind the last."""
        end = self.head + self.count * self.width
        middle = self.matrix(data)[unknown].reshape(-1)
        return np.concatenate([data[: self.head], middle, data[end:]])

    def fill(self, out: Bytes, base: Bytes, sources: Sources, others: Bytes) -> None:
        """Put a chunk together from its base and its other bytes."""
        known = sources > 0
        end = self.head + self.count * self.width
        tail = len(out) - end
        out[: self.head] = others[: self.head]
        out[end:] = others[len(others) - tail :]
        target, rows = self.matrix(out), self.matrix(base)
        target[known] = rows[sources[known] - 1]
        target[~known] = others[self.head : len(others) - tail].reshape(-1, self.width)


@dataclass(frozen=True, slots=True)
class Sample:
    """Shares of the rows: that the base has; has elsewhere; that do not follow the row before."""

    known: float
    moved: float
    torn: float


def sampled(rows: Rows, new: Bytes, base: Bytes) -> Sample:
    """Look at a few pairs of rows, and at a few bytes of each."""
    first = np.linspace(0, rows.count - 2, min(rows.count - 1, _SAMPLE)).astype(np.int64)
    middle = (rows.width - _PEEK) // 2
    here, there = (rows.matrix(data)[:, middle : middle + _PEEK] for data in (new, base))
    had = _peeked(there)
    order = np.argsort(had)
    sources = []
    for chosen in (first, first + 1):
        wanted = _peeked(here[chosen])
        at = order[np.minimum(np.searchsorted(had, wanted, sorter=order), rows.count - 1)]
        at[had[at] != wanted] = -1
        sources.append(np.where(had[chosen] == wanted, chosen, at))
    known = sources[0] >= 0
    moved = known & (sources[0] != first)
    torn = sources[1] != sources[0] + 1
    return Sample(float(known.mean()), float(moved.mean()), float(torn.mean()))


def matched(rows: Rows, new: Bytes, base: Bytes) -> Sources:
    """The source of each row, its own place where that will do; every match is compared."""
    target, source = rows.matrix(new), rows.matrix(base)
    wanted, had = _keys(target), _keys(source)
    order = np.argsort(had, kind="stable")
    at = np.minimum(np.searchsorted(had, wanted, sorter=order), len(order) - 1)
    found = order[at] + 1
    found[had[found - 1] != wanted] = 0
    stays = had == wanted
    found[stays] = np.flatnonzero(stays) + 1
    step = max(1, _BLOCK // rows.width)
    for start in range(0, rows.count, step):
        part = found[start : start + step]
        same = (source[part - 1] == target[start : start + step]).all(axis=1)
        part[~same] = 0
    return found.astype(np.int64)


def _peeked(pieces: Bytes) -> Keys:
    words: Any = np.ascontiguousarray(pieces).view(np.uint64)
    mixed: Keys = words[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ words[:, 1]
    return mixed


def _keys(matrix: Bytes) -> Keys:
    """A number for each row: the same for the same bytes, hardly ever for others."""
    width = matrix.shape[1]
    size = next(size for size in _WORDS if width % size == 0)
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 1 << 64, width // size, np.uint64) | np.uint64(1)
    keys = np.empty(len(matrix), np.uint64)
    step = max(1, _BLOCK // width)
    for start in range(0, len(matrix), step):
        part = np.ascontiguousarray(matrix[start : start + step])
        keys[start : start + step] = (part.view(_WORDS[size]) * factors).sum(
            axis=1, dtype=np.uint64
        )
    return keys
