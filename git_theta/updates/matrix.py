"""How a chunk lies in the matrix that it is a part of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from git_theta.core.chain import Slice
from git_theta.errors import CorruptError
from git_theta.updates.rounding import FLOATS, Float

MOST_COLUMNS = 1 << 20
TILE = 128 << 10

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Matrix:
    """A chunk of `count` numbers that begins `skip` numbers after the start of a row."""

    columns: int
    skip: int
    count: int

    @property
    def rows(self) -> int:
        """How many rows the chunk touches."""
        return -(-(self.skip + self.count) // self.columns)

    @property
    def whole(self) -> range:
        """The rows that it holds in full."""
        return range(-(-self.skip // self.columns), (self.skip + self.count) // self.columns)

    def begin(self, row: int) -> int:
        """Where a row begins, counted from the chunk's first number."""
        return row * self.columns - self.skip

    def inside(self, first: int, last: int) -> tuple[int, int]:
        """Which of the chunk's numbers lie in some rows."""
        return max(0, self.begin(first)), min(self.count, self.begin(last))

    def blocks(self, rows: range | None = None) -> Iterator[tuple[int, int]]:
        """Ranges of rows, each of about `TILE` numbers."""
        rows = range(self.rows) if rows is None else rows
        step = max(1, TILE // self.columns)
        for first in range(rows.start, rows.stop, step):
            yield first, min(first + step, rows.stop)


def matrix_of(part: Slice) -> tuple[Matrix, Float] | None:
    """The matrix that a chunk is of, or None where it is no matrix of floats."""
    kind = FLOATS.get(part.dtype)
    if kind is None or not 1 < part.columns <= MOST_COLUMNS or len(part.data) % kind.word:
        return None
    count = len(part.data) // kind.word
    return (Matrix(part.columns, part.start % part.columns, count), kind) if count else None


def read_matrix(extra: Mapping[str, Any], size: int) -> tuple[Matrix, Float]:
    """The matrix of which a header tells, none of which is trusted.

    Raises:
        CorruptError: there is no such matrix.
    """
    kind = FLOATS.get(str(extra.get("t")))
    columns, skip = extra.get("c"), extra.get("s")
    if kind is None or size % kind.word or not size:
        raise CorruptError("a stored update of a matrix is of no float dtype")
    if type(columns) is not int or type(skip) is not int:
        raise CorruptError("a stored update of a matrix lacks its shape")
    if not (1 < columns <= MOST_COLUMNS and 0 <= skip < columns):
        raise CorruptError("a stored update of a matrix has an impossible shape")
    return Matrix(columns, skip, size // kind.word), kind


@lru_cache(maxsize=16)
def crossings(matrix: Matrix, rows: int, columns: int) -> tuple[Places, Places]:
    """Some whole rows, and where they cross some columns: for matrices alike, the same."""
    rng = np.random.default_rng(0)
    down = rng.choice(len(matrix.whole), rows, replace=False)
    across = rng.choice(matrix.columns, columns, replace=False)
    at: Places = matrix.begin(matrix.whole.start) + down[:, np.newaxis] * matrix.columns + across
    return down, at
