"""What low-rank and ia3 updates restore has the same bits on every machine."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.core import loops
from git_theta.core.chain import Bytes, Encoded, Slice, Update
from git_theta.core.checkpoint import rebuild
from git_theta.core.manifest import parse
from git_theta.errors import CorruptError
from git_theta.testing import version
from git_theta.updates import factors, library, rounding
from git_theta.updates.factors import Thin
from git_theta.updates.ia3 import Ia3Update
from git_theta.updates.low_rank import LowRankUpdate, _Model
from git_theta.updates.matrix import Matrix
from git_theta.updates.rounding import FLOATS
from tests.unit.test_golden import DATA, PLUGINS, read
from tests.unit.updates.records import part, raw, record, restored, stored

GOLDEN = "tests/unit/test_golden.py::test_the_file_is_restored"
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("threads", ["1", "2", "7"])
def test_golden_objects_with_other_numbers_of_threads(threads: str):
    code = f"""
import pytest, sys
from git_theta.updates import library
library._control.cache_clear()
library._control = lambda: None  # as where the library is not known
sys.exit(pytest.main(["-q", "-n", "0", "-p", "no:cacheprovider", {GOLDEN!r}]))
"""
    env = {"OPENBLAS_NUM_THREADS": threads, "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_golden_objects_with_no_library(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loops, "compiled", None)
    monkeypatch.setattr(factors, "_library_is_exact", lambda _: False)
    calls = []

    def counted(left: factors.Floats, right: factors.Floats) -> factors.Floats:
        calls.append(left.shape)
        return sequential(left, right)

    sequential = factors.sequential
    monkeypatch.setattr(factors, "sequential", counted)
    manifest = parse((DATA / "updates.safetensors.manifest").read_bytes())
    pieces = b"".join(bytes(piece) for piece in rebuild(manifest, read, PLUGINS))
    assert pieces == (DATA / "updates.safetensors").read_bytes()
    assert len(calls) >= 5


def big() -> tuple[Slice, npt.NDArray[np.uint8], bytes]:
    """A matrix large enough for a library to share out among its threads."""
    rng = np.random.default_rng(3)
    base = rng.normal(size=(600, 700)).astype("<f4")
    new = base + (rng.normal(size=(600, 8)) @ rng.normal(size=(8, 700))).astype("<f4")
    chunk = part(new, "F32")
    return chunk, raw(base), stored(LowRankUpdate(), chunk, raw(base))


def test_with_no_library_the_bits_are_the_same(monkeypatch: pytest.MonkeyPatch):
    new, base, data = big()
    monkeypatch.setattr(loops, "compiled", None)
    monkeypatch.setattr(factors, "product", lambda left, right, _: factors.sequential(left, right))
    assert restored(LowRankUpdate(), data, base).tobytes() == new.data.tobytes()


def test_with_whole_numbers_only_the_bits_are_the_same(monkeypatch: pytest.MonkeyPatch):
    new, base, data = big()
    calls = []

    def whole(left: factors.Doubles, right: factors.Doubles, _: object) -> factors.Doubles:
        scales = [np.ldexp(1.0, _least(side)) for side in (left, right.T)]
        integers = (left / scales[0]).astype(np.int64), (right.T / scales[1]).T.astype(np.int64)
        calls.append(1)
        total: factors.Doubles = (integers[0] @ integers[1]) * scales[0] * scales[1].T
        return total

    monkeypatch.setattr(loops, "compiled", None)
    monkeypatch.setattr(factors, "product", whole)
    assert restored(LowRankUpdate(), data, base).tobytes() == new.data.tobytes()
    assert calls


def _least(lines: factors.Doubles) -> npt.NDArray[np.int64]:
    """For each line an exponent of which all its numbers are whole multiples."""
    exponents = np.frexp(np.abs(lines).max(axis=1, keepdims=True))[1]
    return np.asarray(exponents, np.int64) - 26


def test_a_library_that_is_not_exact_is_passed_over(monkeypatch: pytest.MonkeyPatch):
    left, right = np.ones((2, 3)), np.ones((3, 2))
    monkeypatch.setattr(loops, "compiled", None)
    monkeypatch.setattr(factors, "_library_is_exact", lambda _: False)
    monkeypatch.setattr(factors, "sequential", lambda *_: np.full((2, 2), 7.0))
    assert factors.product(left, right).tolist() == [[7, 7], [7, 7]]


def test_the_library_here_is_exact():
    assert all(factors._library_is_exact(np.dtype(kind)) for kind in ("f4", "f8"))


@given(st.data())
def test_float32_gives_the_bits_of_float64_where_it_is_taken(data: st.DataObject):
    """Numbers far apart, ties and cancellation: what double rounding could spoil."""
    name = data.draw(st.sampled_from(["F32", "F16", "BF16"]))
    kind, rows, columns = FLOATS[name], 3, 4
    count = rows * columns
    top = (1 << 8 * kind.word) - 1
    words = data.draw(st.lists(st.integers(0, top), min_size=count, max_size=count))
    base = np.array(words, f"<u{kind.word}").view(np.uint8)
    thin = []
    for lines in (rows, columns):
        whole = st.lists(st.integers(-2048, 2048), min_size=2 * lines, max_size=2 * lines)
        powers = st.lists(st.integers(-50, 50), min_size=lines, max_size=lines)
        integers = np.array(data.draw(whole), np.int32).reshape(lines, 2)
        thin.append(Thin(integers, np.array(data.draw(powers), np.int16)))
    single = factors.fit_single(*thin)
    assert single == (thin[0].largest * thin[1].largest * 2 < 1 << 24)
    found = []
    for takes in (factors.fit_single, lambda *_: False):
        with mock.patch.object(factors, "fit_single", takes):
            out = base.copy()
            _Model(Matrix(columns, 0, count), kind, *thin).predict(out, out)
            found.append(out.tobytes())
    assert found[0] == found[1]


@pytest.mark.parametrize("rank", [1, 2, 3, 8, 9, 64, 1000])
def test_every_sum_is_exact_up_to_the_last_bit(rank: int):
    bits = factors.most_bits(rank)
    most = (1 << bits) - 1
    left = np.full((3, rank), most, np.int64)
    right = np.full((rank, 5), most, np.int64)
    exact = left @ right
    assert exact.max() < 1 << 53
    assert (left.astype(float) @ right.astype(float)).astype(np.int64).tolist() == exact.tolist()
    zero = np.zeros(5, np.int16)
    factors.check(Thin(left.astype(np.int32), zero[:3]), Thin(right.T.astype(np.int32), zero))


def test_factors_whose_product_is_not_exact_are_refused():
    thin = Thin(np.full((2, 8), 1 << 26, np.int32), np.zeros(2, np.int16))
    with pytest.raises(CorruptError, match="not exact"):
        factors.check(thin, thin)


@given(st.lists(st.floats(width=32), min_size=1, max_size=50))
def test_rounding_to_bf16_is_to_nearest_even(values: list[float]):
    wide = np.array(values, np.float32)
    base = np.zeros(len(wide), "<u2")
    out = np.empty_like(base)
    rounding.narrowed(wide.copy(), base, FLOATS["BF16"], out)
    expected = wide.astype(ml_dtypes.bfloat16).view("<u2")
    exponent = expected & 0x7F80
    doubtful = (exponent == 0) | (exponent == 0x7F80)
    assert out[~doubtful].tolist() == expected[~doubtful].tolist()
    assert not out[doubtful].any()


@pytest.mark.parametrize("dtype", ["F32", "F64", "F16", "BF16"])
def test_doubtful_numbers_are_left_as_they_are(dtype: str):
    kind = FLOATS[dtype]
    top = 1 << (8 * kind.word - 1)
    quiet = top - 1
    odd = [0, top, 1, top + 1, quiet, 2 * top - 1, top - (1 << kind.mantissa), quiet - 5]
    base = np.array(odd, f"<u{kind.word}")
    out = np.empty_like(base)
    with np.errstate(all="ignore"):
        rounding.narrowed(rounding.widened(base, kind) * 1, base, kind, out)
    assert out.tolist() == odd


def test_processors_that_flush_subnormals_store_and_restore_the_same():
    torch = pytest.importorskip("torch")
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor cannot flush")
    rng = np.random.default_rng(5)
    base = (rng.normal(size=(80, 90)) * 0.1).astype("<f4")
    base.reshape(-1)[::7] *= np.float32(1e-38)
    left, right = rng.normal(size=(80, 2)) * 1e-3, rng.normal(size=(2, 90))
    right[:, ::3] *= 1e-36
    scale = np.where(rng.random(80) < 0.5, 1.5, 1e-38)
    like, records = part(base, "F32"), []
    for flush in (True, False):
        torch.set_flush_denormal(flush)
        try:
            new = LowRankUpdate().apply(like, left, right)
            scaled = Ia3Update().apply(like, scale, 0)
        finally:
            torch.set_flush_denormal(False)
        assert new is not None
        assert scaled is not None
        records.append((new.tobytes(), scaled.tobytes()))
    assert records[0] == records[1]


def test_cutting_a_tensor_into_chunks_changes_nothing():
    new, base = version("BF16", "product", rows=100, columns=64)
    rng = np.random.default_rng(1)
    left, right, scale = rng.normal(size=(100, 4)), rng.normal(size=(4, 64)), rng.normal(size=100)
    like = Slice(data=base, cut=new.cut, dtype="BF16", columns=64)
    low_rank, ia3 = LowRankUpdate(), Ia3Update()
    whole = low_rank.apply(like, left, right), ia3.apply(like, scale, 0)
    for begin, end in ((0, 1000), (1000, 4333), (4333, 6400)):
        chunk = Slice(
            data=base[2 * begin : 2 * end], cut=new.cut, dtype="BF16", columns=64, start=begin
        )
        rows = slice(begin // 64, (end - 1) // 64 + 1)
        for made, all_of_it in zip(
            (low_rank.apply(chunk, left[rows], right), ia3.apply(chunk, scale[rows], 0)),
            whole,
            strict=True,
        ):
            assert made is not None
            assert all_of_it is not None
            assert made.tobytes() == all_of_it[2 * begin : 2 * end].tobytes()


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16", "F64"])
def test_what_was_applied_leaves_nothing_over(dtype: str):
    like = part_of(dtype)
    rng = np.random.default_rng(1)
    left, right, scale = rng.normal(size=(80, 4)), rng.normal(size=(4, 90)), rng.normal(size=90)
    low_rank, ia3 = LowRankUpdate(), Ia3Update()
    made = low_rank.apply(like, left, right)
    assert made is not None
    chunk = replace(like, data=made)
    nothing_left(low_rank, chunk, like.data, low_rank.encode_with(chunk, like.data, left, right))
    made = ia3.apply(like, scale, 1)
    assert made is not None
    chunk = replace(like, data=made)
    nothing_left(ia3, chunk, like.data, ia3.encode_with(chunk, like.data, scale, 1))


def part_of(dtype: str) -> Slice:
    new, base = version(dtype, "other", seed=3)
    return replace(new, data=base)


def nothing_left(update: Update, chunk: Slice, base: Bytes, encoded: Encoded | None):
    assert encoded is not None
    assert (encoded.extra["m"], encoded.extra["n"]) == ("gaps", 0)
    data = record(update.name, chunk, encoded)
    assert restored(update, data, base).tobytes() == chunk.data.tobytes()


def test_known_factors_that_do_not_fit_are_declined():
    new, base = version("F32", "product")
    left, right = np.ones((80, 4)), np.ones((4, 90))
    update, ia3 = LowRankUpdate(), Ia3Update()
    assert update.encode_with(new, base, left, right) is not None
    assert update.encode_with(new, base, left[1:], right) is None
    assert update.encode_with(new, base, left, right[:, 1:]) is None
    assert update.encode_with(new, base, left[:, 1:], right) is None
    assert update.encode_with(new, base, left * np.nan, right) is None
    assert update.encode_with(new, base[4:], left, right) is None
    assert ia3.encode_with(new, base, np.ones(80), 0) is not None
    assert ia3.encode_with(new, base, np.ones(80), 1) is None
    assert ia3.encode_with(new, base, np.full(90, np.inf), 1) is None
    whole, whole_base = version("I32", "near")
    assert update.encode_with(whole, whole_base, left, right) is None
    assert ia3.encode_with(whole, whole_base, np.ones(80), 0) is None


def test_products_stay_on_one_thread_and_the_setting_comes_back():
    control = library._control()
    if control is None:
        pytest.skip("numpy's library is not known here")
    before = control.get()
    with library.one_thread(), library.one_thread():
        assert control.get() == 1
    assert control.get() == before


@pytest.mark.parametrize("change", [1, 1e-30, 1e30, np.inf])
def test_changes_of_odd_sizes_are_looked_at_in_peace(change: float):
    base = np.random.default_rng(1).normal(size=(80, 90))
    new = base.copy()
    new[3, 4] += change
    for update in (LowRankUpdate(), Ia3Update()):
        update.estimate(part(new, "F64"), raw(base))
        update.encode(part(new, "F64"), raw(base))
        update.encode(part(base * 1e300, "F64"), raw(base))
        update.encode(part(base * 1e-300, "F64"), raw(base))
