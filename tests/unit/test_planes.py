"""Byte planes: exact for any bytes, and never larger than the bytes by more than a little."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.core import planes
from git_theta.core.dtypes import DTYPES
from git_theta.core.planes import Grain
from git_theta.errors import CorruptError

GRAINS = st.builds(
    Grain, st.sampled_from([1, 2, 4, 8]), st.integers(min_value=0, max_value=7)
) | st.just(Grain())


def back(frames: list[bytes], size: int, cut: Grain, block: int = planes.BLOCK) -> bytes:
    out = np.empty(size, np.uint8)
    planes.decode(iter([memoryview(frame) for frame in frames]), out, cut, block)
    return out.tobytes()


@given(st.binary(max_size=3000), GRAINS)
def test_any_bytes_come_back(data: bytes, cut: Grain):
    frames = planes.encode(np.frombuffer(data, np.uint8), cut)
    assert back(frames, len(data), cut) == data


@given(st.integers(1, 600), st.integers(1, 40), GRAINS, st.integers(0, 9))
def test_rows_are_coded_as_each_alone(size: int, count: int, cut: Grain, seed: int):
    noise = np.random.default_rng(seed).integers(0, 1 << seed % 9, (count, size))
    rows = np.ascontiguousarray(noise.astype(np.uint8))
    assert planes.encode_rows(rows, cut) == [planes.encode(row, cut) for row in rows]


def test_more_rows_than_go_into_a_block():
    rows = np.random.default_rng(1).integers(0, 9, (70, 32 << 10)).astype(np.uint8)
    cut = Grain(2)
    assert planes.encode_rows(rows, cut) == [planes.encode(row, cut) for row in rows]


@pytest.mark.parametrize(
    "cut", [Grain(2), Grain(4, 1), Grain(4, 3), Grain(8, 1), Grain(1), Grain()]
)
@pytest.mark.parametrize("extra", [-1, 0, 1, 7])
def test_block_boundaries(cut: Grain, extra: int):
    size = planes.BLOCK * max(cut.word, 1) + extra
    rng = np.random.default_rng(size)
    data = rng.normal(size=size // 4 + 1).astype("<f4").view(np.uint8)[:size].copy()
    frames = planes.encode(data, cut)
    assert back(frames, size, cut) == data.tobytes()
    assert sum(map(len, frames)) <= size + 8


@pytest.mark.parametrize(
    ("dtype", "most"), [("F32", 0.86), ("F64", 0.93), ("F16", 0.88), ("I32", 0.36)]
)
def test_weights_shrink(dtype: str, most: float):
    values = np.random.default_rng(5).normal(size=200_000) * 0.02
    types = {"F32": "<f4", "F64": "<f8", "F16": "<f2"}
    array = values.astype(types[dtype]) if dtype in types else (values * 1000).astype("<i4")
    data = array.view(np.uint8)
    cut = planes.refined(data, planes.grain(dtype))
    frames = planes.encode(data, cut)
    assert sum(map(len, frames)) <= most * len(data)
    assert back(frames, len(data), cut) == data.tobytes()


def test_floats_with_short_mantissas_are_turned_further():
    values = np.random.default_rng(5).normal(size=100_000).astype("<f4")
    short = (values.view("<u4") & np.uint32(0xFFFFFFF0)).view(np.uint8)
    assert planes.refined(values.view(np.uint8), Grain(4, 1)) == Grain(4, 1)
    assert planes.refined(short, Grain(4, 1)).turn > 1


def test_every_dtype_has_a_grain_of_its_word():
    for name, known in DTYPES.items():
        assert planes.grain(name).word == known.word
    assert planes.grain("no such dtype") == Grain()


def test_the_grain_of_unknown_bytes_is_found():
    values = np.random.default_rng(6).normal(size=100_000)
    assert planes.guess_grain(values.astype("<f4").view(np.uint8)).word == 4
    assert planes.guess_grain(np.frombuffer(b"some words of text, " * 5000, np.uint8)) == Grain()


@given(st.binary(min_size=64, max_size=400), st.data())
def test_a_changed_frame_never_passes_as_another_length(data: bytes, draw: st.DataObject):
    cut = Grain(4)
    frames = planes.encode(np.frombuffer(data, np.uint8), cut)
    index = draw.draw(st.integers(0, len(frames) - 1))
    broken = [*frames[:index], frames[index][:-1], *frames[index + 1 :]]
    with pytest.raises(CorruptError):
        back(broken, len(data), cut)


@pytest.mark.parametrize(
    ("cut", "block"), [(Grain(3), 8), (Grain(4), 0), (Grain(4, 9), 8), (Grain(4), 1 << 30)]
)
def test_impossible_headers_are_refused(cut: Grain, block: int):
    with pytest.raises(CorruptError):
        back([b"x" * 8] * 4, 32, cut, block)


def test_missing_and_extra_frames_are_refused():
    data = np.arange(64, dtype=np.uint8)
    frames = planes.encode(data, Grain(4))
    with pytest.raises(CorruptError):
        back(frames[:-1], 64, Grain(4))
    with pytest.raises(CorruptError):
        back([*frames, b"x"], 64, Grain(4))
