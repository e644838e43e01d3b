"""Bases brought to another dtype, length and order; what is written of it, and what is refused."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from git_theta.core.align import LEAST_ROW, Align, Rows, find_rows, pack, unpack
from git_theta.core.casts import cast, castable, width
from git_theta.core.dtypes import DTYPES
from git_theta.errors import CorruptError

TYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
}
PAIRS = [(old, new) for old in DTYPES for new in DTYPES if castable(old, new)]
Bytes = npt.NDArray[np.uint8]


def turned(data: bytes, old: str, new: str) -> Bytes:
    given_in = np.frombuffer(data, np.uint8)
    out = np.empty(len(data) // width(old) * width(new), np.uint8)
    cast(given_in, old, new, out)
    return out


def noise(size: int, seed: int = 1) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


# --- casts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("new", [name for name in TYPES if name != "F32"])
def test_floats_are_rounded_to_nearest_even(new: str):
    rng = np.random.default_rng(2)
    values = np.concatenate(
        [
            rng.integers(0, 1 << 32, 200_000, np.uint32).view(np.float32),
            rng.normal(size=100_000).astype(np.float32),
            np.array(
                [0, -0.0, np.inf, -np.inf, 1 + 2**-8, 1 + 3 * 2**-8, 65520, 1e-40], np.float32
            ),
        ]
    )
    with np.errstate(all="ignore"):
        wanted = values.astype(TYPES[new])
    found = turned(values.tobytes(), "F32", new).view(TYPES[new])
    strange = np.isnan(wanted.astype(np.float32))
    bits = np.dtype(f"u{width(new)}")
    assert np.array_equal(np.isnan(found.astype(np.float32)), strange)
    assert np.array_equal(found[~strange].view(bits), wanted[~strange].view(bits))
    assert len(set(found[np.isnan(values)].view(bits).tolist())) == 1, "there is one NaN"


@pytest.mark.parametrize("old", ["BF16", "F16", "F8_E4M3", "F8_E5M2"])
def test_every_narrow_number_comes_back_from_a_wide_one(old: str):
    words = np.arange(1 << DTYPES[old].bits, dtype=f"u{width(old)}")
    with np.errstate(invalid="ignore"):
        numbers = words[~np.isnan(words.view(TYPES[old]).astype(np.float32))]
    for wide in ("F32", "F64"):
        there = turned(numbers.tobytes(), old, wide)
        back = turned(there.tobytes(), wide, old)
        assert back.tobytes() == numbers.tobytes()


@settings(max_examples=300)
@given(pair=st.sampled_from(PAIRS), data=st.binary(max_size=400))
def test_a_cast_depends_on_each_number_alone(pair: tuple[str, str], data: bytes):
    old, new = pair
    data = data[: len(data) // width(old) * width(old)]
    whole = turned(data, old, new).tobytes()
    assert whole == turned(data, old, new).tobytes()
    parts = [data[at : at + width(old)] for at in range(0, len(data), width(old))]
    assert whole == b"".join(turned(part, old, new).tobytes() for part in parts)


def test_casts_are_the_same_in_every_release():
    values = np.array([1.0, -1.5, 3.14159, 1e-3, 7e4, np.nan, np.inf, 2**-30], "<f4").tobytes()
    wanted = {
        "BF16": "803fc0bf4940833a8947c07f807f8030",
        "F16": "003c00be48421914007c007e007c0000",
        "F8_E4M3": "38bc45017f7f7f00",
        "F8_E5M2": "3cbe42147c7e7c00",
    }
    assert {new: turned(values, "F32", new).tobytes().hex() for new in wanted} == wanted
    integers = np.array([1, -1, 300, -40_000], "<i4").tobytes()
    assert turned(integers, "I32", "I8").tobytes().hex() == "01ff2cc0"
    assert turned(integers, "I32", "I64").view("<i8").tolist() == [1, -1, 300, -40_000]


# --- alignment -----------------------------------------------------------------------------------


@given(base=st.binary(max_size=60), size=st.integers(0, 60), shift=st.integers(-80, 80))
def test_a_shifted_base_has_zeros_where_it_is_not(base: bytes, size: int, shift: int):
    out = np.full(size, 7, np.uint8)
    align = unpack(pack(Align(shift=shift)))
    align.apply(np.frombuffer(base, np.uint8), out)
    wanted = [base[i + shift] if 0 <= i + shift < len(base) else 0 for i in range(size)]
    assert out.tolist() == wanted


@given(count=st.integers(0, 12), size=st.integers(0, 12), shift=st.integers(-15, 15))
def test_a_base_is_cast_and_then_shifted(count: int, size: int, shift: int):
    base = np.random.default_rng(count).normal(size=count).astype("<f4")
    out = np.full(2 * size, 7, np.uint8)
    align = unpack(pack(Align(cast=("F32", "BF16"), shift=2 * shift)))
    align.apply(base.view(np.uint8), out)
    whole = turned(base.tobytes(), "F32", "BF16").view("<u2").tolist()
    wanted = [whole[i + shift] if 0 <= i + shift < count else 0 for i in range(size)]
    assert out.view("<u2").tolist() == wanted


@pytest.mark.parametrize("lead", [0, 5, 20])
@pytest.mark.parametrize("size", [LEAST_ROW, 24, 37])
def test_rows_that_moved_are_found(lead: int, size: int):
    rows = noise(200 * size).reshape(200, size)
    order = np.random.default_rng(1).permutation(200)[:150]
    lead, base_lead = lead % size, 3
    new = np.concatenate([noise(lead, 2), rows[order].ravel(), noise(7, 3)])
    base = np.concatenate([noise(base_lead, 4), rows.ravel()])
    found = find_rows(new, base, size, lead, base_lead)
    assert found is not None
    assert found.source.tolist() == order.tolist()
    out = np.empty_like(new)
    unpack(pack(Align(rows=found))).apply(base, out)
    assert out[lead : lead + 150 * size].tobytes() == rows[order].tobytes()
    assert not out[:lead].any()
    assert not out[lead + 150 * size :].any()


def test_rows_put_in_and_taken_out_make_a_short_map():
    rows = noise(3000 * 64).reshape(3000, 64)
    changed = rows.copy()
    changed[1500] += 1
    new = np.concatenate([changed[10:500], noise(3 * 64, 5).reshape(3, 64), changed[500:2900]])
    found = find_rows(new.ravel(), rows.ravel(), 64, 0, 0)
    assert found is not None
    assert found.source[490:493].tolist() == [-1, -1, -1]
    assert found.source[1493] == 1500, "a changed row comes from where its neighbours come from"
    assert len(pack(Align(rows=found))["r"][4]) < 200


def test_rows_that_stay_need_no_map():
    rows = noise(100 * 32)
    assert find_rows(rows, rows, 32, 0, 0) is None
    assert find_rows(np.concatenate([rows, np.bitwise_not(rows[:320])]), rows, 32, 0, 0) is None
    assert find_rows(np.bitwise_not(rows), rows, 32, 0, 0) is None


GOOD = pack(Align(rows=Rows(size=16, lead=0, base_lead=0, source=np.arange(4, dtype=np.int32))))


@pytest.mark.parametrize(
    "raw",
    [
        {"s": 1 << 60},
        {"s": "1"},
        {"s": True},
        {"c": ["F32"]},
        {"c": 5},
        {"r": []},
        {"r": [16, 0, 0, 4, b"short"]},
        {"r": [0, 0, 0, 4, bytes(16)]},
        {"r": [16, 16, 0, 4, bytes(16)]},
        {"r": [16, 0, -1, 4, bytes(16)]},
        {"r": [16, 0, 0, 1 << 40, bytes(16)]},
        {"r": [1, 0, 0, 64 << 20, bytes(16)]},
        {"r": [16, 0, 0, 4.0, bytes(16)]},
        {"r": [16, 0, 0, 4, "text"]},
    ],
)
def test_what_is_no_alignment_is_refused(raw: dict[str, Any]):
    with pytest.raises((ValueError, TypeError, KeyError, CorruptError)):
        unpack(raw)


@pytest.mark.parametrize(
    ("align", "base", "size"),
    [
        (Align(cast=("F32", "I8")), 64, 16),
        (Align(cast=("F32", "nonsense")), 64, 16),
        (Align(cast=("F32", "BF16")), 63, 16),
        (Align(cast=("F32", "BF16"), shift=1), 64, 16),
        (Align(cast=("F32", "BF16")), 64, 15),
        (unpack(GOOD), 48, 64),
        (unpack(GOOD), 64, 80),
        (unpack(GOOD), 64, 48),
        (Align(cast=("U8", "U64"), rows=unpack(GOOD).rows), 20 << 20, 64),
    ],
)
def test_an_alignment_that_does_not_fit_is_damage(align: Align, base: int, size: int):
    with pytest.raises(CorruptError):
        align.apply(np.zeros(base, np.uint8), np.zeros(size, np.uint8))
