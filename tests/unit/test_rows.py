"""Rows that changed places are known from parts of a tensor, wherever it is cut."""

from __future__ import annotations

import numpy as np
import pytest

from git_theta.commands.comparing import sorted_rows


@pytest.mark.parametrize("width", [1, 3, 4, 8, 32, 33, 200])
def test_only_the_order_of_rows_is_forgotten(width: int):
    rng = np.random.default_rng(width)
    rows = rng.integers(0, 256, (40, width), np.uint8)
    mixed = rows[rng.permutation(40)].ravel()
    plain, cuts = rows.ravel(), sorted(rng.integers(0, 40 * width, 3))
    wanted = sorted_rows([plain], width)
    assert np.array_equal(wanted, sorted_rows(np.split(mixed, cuts), width))
    mixed[-1] ^= 1
    assert not np.array_equal(wanted, sorted_rows(np.split(mixed, cuts), width))
