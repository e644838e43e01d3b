"""The laws of updates, and what this one is for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from git_theta_rows import MovedRowsUpdate
from typing_extensions import override

from git_theta.core.chain import Slice, Update
from git_theta.core.planes import grain
from git_theta.testing import UpdateContract, Version


def moved(
    dtype: str, *, fresh: int = 0, start: int = 0, cut_off: int = 0, blocks: bool = False
) -> Version:
    """A matrix of 300 rows by 48 whose rows changed places, some of them new."""
    rng = np.random.default_rng(len(dtype) + fresh + start)
    word = grain(dtype).word
    base = rng.integers(0, 256, (300, 48 * word), np.uint8)
    order = np.roll(np.arange(300), 100) if blocks else rng.permutation(300)
    new = base[order]
    new[rng.permutation(300)[:fresh]] = rng.integers(0, 256, (fresh, 48 * word), np.uint8)
    first = -start % 48 * word  # the rest of a row that began in the chunk before
    head = rng.integers(0, 256, first, np.uint8)
    data = np.concatenate([head, new.reshape(-1)])[: first + new.size - cut_off]
    before = np.concatenate([head[::-1], base.reshape(-1)])[: len(data)]
    part = Slice(data=data, cut=grain(dtype), dtype=dtype, columns=48, start=start)
    return part, before


class TestMovedRows(UpdateContract):
    update: ClassVar[Update] = MovedRowsUpdate()

    @override
    def chunks(self) -> Sequence[Version]:
        return [
            moved("F32"),
            moved("F64", fresh=40),
            moved("BF16", start=48 * 7 + 5, cut_off=6),
            moved("F16", fresh=3, start=1),
            moved("I64", blocks=True),
        ]


def size(version: Version) -> int:
    encoded = MovedRowsUpdate().encode(*version)
    assert encoded is not None
    return sum(map(len, encoded.frames))


def test_an_order_costs_little_and_a_block_that_moved_next_to_nothing() -> None:
    assert size(moved("F32")) < 300 * 2 + 200
    assert size(moved("F32", blocks=True)) < 200


def test_new_rows_cost_what_they_are() -> None:
    extra = size(moved("F32", fresh=30)) - size(moved("F32"))
    assert 30 * 48 * 4 * 0.9 < extra < 30 * 48 * 4 * 1.1


def test_rows_that_stayed_are_left_to_others() -> None:
    part, base = moved("F32", fresh=0)
    changed = base.copy()
    changed[: 48 * 4] ^= 1
    stayed = Slice(data=changed, cut=part.cut, dtype="F32", columns=48)
    assert MovedRowsUpdate().estimate(stayed, base) is None
    assert MovedRowsUpdate().encode(stayed, base) is None


def test_what_has_no_rows_is_left_to_others() -> None:
    part, base = moved("F32")
    for dtype, columns in (("F4", 48), ("", 48), ("F32", 0), ("F32", 3)):
        other = Slice(data=part.data, cut=part.cut, dtype=dtype, columns=columns)
        assert MovedRowsUpdate().estimate(other, base) is None
        assert MovedRowsUpdate().encode(other, base) is None


def test_equal_rows_stay_where_they_are() -> None:
    """Of many equal rows each is its own source, so the order stays short."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (300, 192), np.uint8)
    base[100:200] = 0
    new = base.copy()
    new[:100] = base[:100][::-1]
    part = Slice(data=new.reshape(-1), cut=grain("F32"), dtype="F32", columns=48)
    assert size((part, base.reshape(-1))) < 250
