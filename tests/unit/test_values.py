"""Numbers rounded once; the best approximation of a matrix."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.core.truncation import truncated, within
from git_theta.core.values import from_float, to_float

KINDS = {"BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F16": np.float16}


@pytest.mark.parametrize("dtype", KINDS)
@given(st.data())
def test_rounding_is_to_the_nearest_once(dtype: str, data: st.DataObject):
    kind = np.dtype(KINDS[dtype])
    bits = np.arange(1 << 8 * kind.itemsize, dtype=f"u{kind.itemsize}")
    with np.errstate(invalid="ignore"):
        every = np.unique(bits.view(kind).astype(np.float64))
    every = every[np.isfinite(every)]
    at = data.draw(st.integers(0, len(every) - 2))
    low, high = every[at], every[at + 1]
    middle = (low + high) / 2
    near = data.draw(
        st.sampled_from([middle, np.nextafter(middle, low), np.nextafter(middle, high)])
    )
    found = to_float(from_float(np.array([near]), dtype), dtype)[0]
    if near == middle:
        even = {value: int(np.array(value).astype(kind).view(f"u{kind.itemsize}")) % 2 == 0
                for value in (low, high)}  # fmt: skip
        assert even[found]
    else:
        assert found == (low if near < middle else high)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "F8_E5M2"])
def test_odd_numbers_stay_odd(dtype: str):
    odd = np.array([np.inf, -np.inf, 0.0, -0.0, np.nan])
    back = to_float(from_float(odd, dtype), dtype)
    assert np.array_equal(back, odd, equal_nan=True)
    assert np.signbit(back[3])


@pytest.mark.parametrize("shape", [(60, 40), (700, 600), (3, 900)])
def test_truncation_is_the_best_there_is(shape: tuple[int, int]):
    rng = np.random.default_rng(2)
    matrix = rng.normal(size=shape) @ np.diag(0.9 ** np.arange(shape[1]))
    values = np.linalg.svd(matrix, compute_uv=False)
    for rank in (1, 5, 20):
        left, right = truncated(matrix, rank)
        assert (left.shape, right.shape) == ((shape[0], rank), (rank, shape[1]))
        best = float(np.sqrt(np.square(values[rank:]).sum()))
        assert np.linalg.norm(matrix - left @ right) <= 1.001 * best + 1e-9


def test_the_least_rank_that_is_near_enough():
    rng = np.random.default_rng(3)
    matrix = rng.normal(size=(80, 60)) @ np.diag(0.8 ** np.arange(60))
    values = np.linalg.svd(matrix, compute_uv=False)
    tails = np.sqrt(np.cumsum(np.square(values)[::-1])[::-1])
    for rank in (1, 7, 33):
        found = within(matrix, float(tails[rank]) * 1.0001, 60)
        assert found is not None
        assert found[0].shape[1] == rank
        assert np.linalg.norm(matrix - found[0] @ found[1]) <= tails[rank] * 1.0001
    assert within(matrix, float(tails[20]), 10) is None
