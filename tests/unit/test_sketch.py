"""Summaries: right statistics, the same everywhere, and distances within their error."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from git_theta.core.dtypes import DTYPES
from git_theta.core.sketch import BLOCK, Summary, floats, summarize, summarize_rows, unpack
from git_theta.errors import CorruptError

TYPES = {
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
}


def summary(values: np.ndarray, dtype: str) -> Summary:
    made = summarize(np.ascontiguousarray(values).view(np.uint8).ravel(), dtype)
    assert made is not None
    return made


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("count", [1, 63, 1023, 1025, BLOCK - 1, BLOCK, 2 * BLOCK + 3])
def test_statistics(dtype: str, count: int):
    values = (np.random.default_rng(count).normal(size=count) * 10).clip(
        0 if dtype == "U8" else -99
    )
    stored = values.astype(TYPES[dtype])
    exact = stored.astype(np.float64)
    made = summary(stored, dtype)
    assert made.count == count
    assert made.norm == pytest.approx(np.linalg.norm(exact), rel=1e-4)
    assert made.mean == pytest.approx(exact.mean(), rel=1e-3, abs=1e-3)
    assert (made.low, made.high) == pytest.approx((exact.min(), exact.max()), rel=1e-6)
    assert (made.nans, made.infinities) == (0, 0)
    assert (made.sketch is None) == (count < 1024)


@given(hnp.arrays(np.float32, st.integers(1, 2000), elements=st.floats(width=32)))
def test_anything_has_a_summary_that_comes_back(values: np.ndarray):
    made = summary(values, "F32")
    again = unpack(made.pack())
    assert again.pack() == made.pack()
    good = values[np.isfinite(values)]
    assert made.nans == np.count_nonzero(np.isnan(values))
    assert made.infinities == len(values) - len(good) - made.nans
    if len(good):
        assert made.low == good.min()
        assert made.high == good.max()


@pytest.mark.parametrize("dtype", TYPES)
@given(data=st.data(), count=st.integers(1, 12), size=st.integers(1, 1100))
def test_rows_are_summarised_as_each_alone(dtype: str, data: st.DataObject, count: int, size: int):
    seed = data.draw(st.integers(0, 1 << 16))
    rng = np.random.default_rng(seed)
    drawn = data.draw(st.lists(st.floats(width=16), min_size=1, max_size=9))
    values = rng.normal(size=(count, size)) * 10.0 ** rng.integers(-40, 39)
    odd = rng.random((count, size)) < 0.5 / size
    zeros = rng.random((count, size)) < rng.choice([0, 0.9])
    values[odd] = rng.choice(drawn, odd.sum())
    values[zeros] = rng.choice([0.0, -0.0], zeros.sum())
    with np.errstate(all="ignore"):
        stored = np.nan_to_num(values) if TYPES[dtype].kind in "iu" else values
        rows = stored.astype(TYPES[dtype]).view(np.uint8).reshape(count, -1)
    found = summarize_rows(rows, dtype)
    alone = [summarize(row, dtype) for row in rows]
    assert [one and one.pack() for one in found] == [one and one.pack() for one in alone]


def test_bf16_and_the_same_values_in_fp32_have_one_sketch():
    values = np.random.default_rng(1).normal(size=BLOCK + 5000).astype(ml_dtypes.bfloat16)
    narrow, wide = summary(values, "BF16"), summary(values.astype("<f4"), "F32")
    assert narrow.sketch is not None
    assert wide.sketch is not None
    assert np.array_equal(narrow.sketch, wide.sketch)


def test_distances_are_estimated():
    rng = np.random.default_rng(2)
    errors = []
    for _ in range(60):
        values = rng.normal(size=20_000).astype("<f4")
        other = values + rng.normal(size=20_000).astype("<f4") * np.float32(1e-3)
        found = summary(values, "F32").distance(summary(other, "F32"))
        assert found is not None
        errors.append(abs(found / np.linalg.norm(other - values) - 1))
    assert np.median(errors) < 0.10
    assert np.quantile(errors, 0.95) < 0.22


def test_the_sketch_is_the_same_on_every_machine():
    """A golden value: signs and the order of additions may never change."""
    values = (np.arange(3000, dtype=np.float32) % 17 - 8) / 16
    made = summary(values, "F32")
    assert made.sketch is not None
    again = summarize(values.view(np.uint8), "F32")
    assert again is not None
    expected = np.zeros(64)
    from git_theta.core.sketch import _signs

    start, stream = _signs(0).start, _signs(0).values
    signs = stream[start:]
    for index, value in enumerate(values):
        expected[index % 64] += value * signs[index]
    assert np.array_equal(made.sketch, expected.astype(np.float32))
    assert [int(s) for s in signs[:16]] == GOLDEN_SIGNS


GOLDEN_SIGNS = [-1, 1, 1, -1, 1, 1, -1, 1, 1, 1, -1, 1, 1, -1, 1, -1]


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_the_largest_numbers_have_a_mean_and_no_warnings(dtype: str):
    """Masks are filled with the lowest number there is."""
    from git_theta.core.sketch import _signs

    lowest = np.array([0xFF7F], "<u2").view(TYPES["BF16"]).astype("<f4")[0]
    made = summary(np.full(BLOCK + 3000, lowest, TYPES[dtype]), dtype)
    assert made.mean == made.low == made.high == float(lowest)
    assert made.norm == pytest.approx(-float(lowest) * (BLOCK + 3000) ** 0.5)
    signs = [_signs(index).values[_signs(index).start :][:BLOCK] for index in (0, 1)]

    def turned(*scales: np.float32) -> Summary:
        parts = [sign * scale for sign, scale in zip(signs, scales, strict=True)]
        return summary(np.concatenate(parts).astype(TYPES[dtype]), dtype)

    some, few = lowest / np.float32(5000), lowest / np.float32(12000)
    for scales in ((lowest, lowest), (lowest, -lowest), (some, some)):
        made = turned(*scales)
        assert made.sketch is not None
        assert not np.isfinite(made.sketch).any()
        assert not np.signbit(made.sketch[np.isnan(made.sketch)]).any(), "the same everywhere"
        assert not np.isfinite(made.distance(made) or 0)
    assert np.isfinite(turned(few, few).distance(turned(-few, -few)) or np.nan)


def test_bf16_numbers_are_read_without_the_library_for_others():
    values = np.random.default_rng(3).normal(size=7).astype(TYPES["BF16"])
    found = floats(values.view(np.uint8), "BF16")
    assert found is not None
    assert found.dtype == np.float32
    assert found.tolist() == values.astype(np.float64).tolist()


def test_dtypes_without_numbers_have_none():
    data = np.zeros(64, np.uint8)
    for name, known in DTYPES.items():
        if known.bits % 8 or known.kind == "other":
            assert summarize(data, name) is None
    assert summarize(data, "") is None
    assert summarize(data[:0], "F32") is None
    assert summarize(data[:7], "F32") is None


@given(st.binary(max_size=400))
def test_damaged_summaries_are_refused(data: bytes):
    try:
        unpack(data)
    except CorruptError:
        return
    raise AssertionError("random bytes passed as a summary")
