"""Finding thin factors: in float32 where that holds, in float64 where it does not."""

from __future__ import annotations

import numpy as np
import pytest

from git_theta.updates.low_rank import LowRankUpdate
from tests.unit.updates.records import bf16, part, raw, size_of

ROWS, COLUMNS, RANK = 192, 160, 4


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e25], ids=str)
@pytest.mark.parametrize(("dtype", "most"), [("F64", 0.5), ("F32", 0.25), ("BF16", 0.25)])
def test_factors_are_found_at_any_scale(dtype: str, most: float, scale: float):
    """The squares of the largest overflow float32."""
    rng = np.random.default_rng(5)
    base = scale * rng.standard_normal((ROWS, COLUMNS))
    left, right = rng.standard_normal((ROWS, RANK)), rng.standard_normal((RANK, COLUMNS))
    if dtype == "BF16":
        old = bf16(base)
        wide = (old.astype(np.uint32) << 16).view(np.float32)
        new = bf16(wide + 0.05 * scale * (left @ right))
    else:
        kind = np.dtype("<f8" if dtype == "F64" else "<f4")
        old, new = base.astype(kind), (base + 0.05 * scale * (left @ right)).astype(kind)
    assert size_of(LowRankUpdate(), part(new, dtype), raw(old)) < most


def test_what_is_no_number_hides_no_factors():
    rng = np.random.default_rng(6)
    old = rng.standard_normal((ROWS, COLUMNS)).astype("<f4")
    product = rng.standard_normal((ROWS, RANK)) @ rng.standard_normal((RANK, COLUMNS))
    new = (old + 0.05 * product).astype("<f4")
    new[7, 11], new[100, 3], old[50, 50] = np.nan, np.inf, -np.inf
    assert size_of(LowRankUpdate(), part(new, "F32"), raw(old)) < 0.25
