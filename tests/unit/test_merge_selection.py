"""Exactly k entries, equal ones by index; random numbers that depend on their place alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from git_theta.core.random import Source
from git_theta.core.strategy import Versions
from git_theta.merges import selection
from git_theta.merges.ties import Ties
from git_theta.merges.ties_global import TiesGlobal
from git_theta.testing import merged

LAW = settings(max_examples=30)
NUMBERS = st.one_of(
    st.sampled_from([0.0, 1.0, 1.5, 2.0, 2.0**-140, 2.0**127]), st.floats(0, 2.0**127, width=32)
)


def by_sorting(magnitudes: Any, k: int) -> Any:
    """The k largest as a mask; of equal ones the first."""
    kept = np.zeros(len(magnitudes), bool)
    kept[np.argsort(-magnitudes, kind="stable")[:k]] = True
    return kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("few", [0, 1 << 12])
@LAW
@given(data=st.data())
def test_the_k_largest_are_those_of_a_stable_sort(
    data: st.DataObject, dtype: torch.dtype, few: int
) -> None:
    numbers = data.draw(st.lists(NUMBERS, min_size=1, max_size=40))
    k = data.draw(st.integers(1, len(numbers)))
    cut = data.draw(st.integers(5, 41))
    whole = torch.tensor(numbers, dtype=dtype)

    def parts() -> list[Tensor]:
        return [part.clone() for part in whole.split(cut)]

    before, selection.FEW = selection.FEW, few
    try:
        top = selection.largest(parts, k)
    finally:
        selection.FEW = before
    kept = torch.cat([top.keeps(part) for part in parts()]).numpy() > 0
    assert (kept == by_sorting(whole.numpy(), k)).all()


@LAW
@given(numbers=st.lists(NUMBERS, min_size=1, max_size=30), share=st.floats(0, 1))
def test_quantiles_are_entries(numbers: list[float], share: float) -> None:
    whole = torch.tensor(numbers)
    found = selection.quantile(lambda: [whole.clone()], len(numbers), share)
    assert found == np.sort(np.array(numbers, np.float32))[int(share * (len(numbers) - 1))]


def model(name: str, base: Tensor, *models: Tensor) -> Versions:
    return Versions(name=name, shape=tuple(base.shape), models=models, base=base)


def ties_by_hand(base: Any, models: list[Any], k: int, *, sign: float = 0.0) -> Any:
    """TIES of one flat vector, in float64."""
    deltas = [np.where(by_sorting(np.abs(m - base), k), m - base, 0.0) for m in models]
    total = np.sign(sum(deltas))
    total[total == 0] = sign
    agree = [(np.sign(delta) == total) & (delta != 0) for delta in deltas]
    count = np.maximum(1, sum(a.astype(float) for a in agree))
    return base + sum(np.where(a, d, 0.0) for a, d in zip(agree, deltas, strict=True)) / count


def coarse(size: int, seed: int) -> Any:
    """Numbers on a grid, as rounding to bfloat16 makes them: many are equal or cancel."""
    return np.random.default_rng(seed).integers(-4, 5, size) / 8


def test_ties_breaks_ties_by_index_and_votes_that_cancel_change_nothing():
    base, one, two = (coarse(999, seed) for seed in range(3))
    given_ = model("w", *(torch.tensor(array, dtype=torch.float32) for array in (base, one, two)))
    found = merged(Ties(density=0.2), {"w": given_})["w"].numpy()
    np.testing.assert_allclose(found, ties_by_hand(base, [one, two], 199), atol=1e-6)


@pytest.mark.parametrize("density", [0.05, 0.2, 0.5, 1.0])
def test_ties_global_is_ties_of_the_flattened_model(density: float):
    sizes = (300, 1, 77, 2000)
    flat = [coarse(sum(sizes), seed) * (1 + 0.01 * seed) for seed in range(3)]
    flat[1][301:378] *= 3  # one tensor changed more than the others
    cuts = np.cumsum(sizes)[:-1]
    tensors = {
        f"t{index}": model(
            f"t{index}", *(torch.tensor(part, dtype=torch.float32) for part in parts)
        )
        for index, parts in enumerate(zip(*(np.split(f, cuts) for f in flat), strict=True))
    }
    found = merged(TiesGlobal(density=density), tensors)
    single = [np.float32(f) for f in flat]
    k = selection.count(density, sum(sizes))
    trimmed = sum(
        np.where(by_sorting(np.abs(m - single[0]), k), m - single[0], 0) for m in single[1:]
    )
    wanted = ties_by_hand(single[0], single[1:], k, sign=float(np.sign(np.sign(trimmed).sum())))
    whole = np.concatenate([found[name].numpy() for name in sorted(found)])
    np.testing.assert_allclose(whole, wanted, atol=1e-5)


def test_a_sparse_delta_keeps_its_density_and_no_more():
    """A threshold of zero would keep everything."""
    base = torch.zeros(10)
    one = torch.tensor([0.0, 0, 5, 0, 0, 0, 0, 0, 0, 0])
    top = selection.largest(lambda: [one.clone()], 2)
    assert top.keeps(one.clone()).tolist() == [1, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    assert merged(Ties(density=0.2), {"w": model("w", base, one)})["w"].tolist() == one.tolist()


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 1), (1, 2), (7, 64), (999, 1000)])
def test_random_numbers_are_those_of_their_place(start: int, stop: int):
    source = Source(7, "layer.weight", "a model")
    whole = source.numpy(0, 1000)
    assert (source.numpy(start, stop) == whole[start:stop]).all()
    assert (source.torch(start, stop).numpy() == whole[start:stop]).all()
    assert (source.on_device(start, stop, "cpu").numpy() == whole[start:stop]).all()


def test_random_numbers_are_the_same_however_they_are_cut_into_tiles():
    source = Source(7, "layer.weight", "a model")
    for start, stop in ((0, 200_001), (65_535, 65_538), (131_071, 131_073)):
        drawn = source.on_device(start, stop, "cpu").numpy()
        assert (source.numpy(start, stop) == drawn).all()


def test_random_numbers_are_those_of_splitmix64():
    """As the reference has them: state plus the golden ratio, mixed; the low half comes first."""
    source, word = Source(1, "n", "m"), 1 << 64
    state = (source.key + 0x9E3779B97F4A7C15) % word
    mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % word
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) % word
    mixed ^= mixed >> 31
    wanted = [((mixed & 0xFFFFFFFF) >> 8) / 2**24, (mixed >> 40) / 2**24]
    assert source.numpy(0, 2).tolist() == wanted


def test_random_numbers_are_uniform_and_differ_by_seed_name_and_model():
    sources = [Source(1, "a", "m"), Source(2, "a", "m"), Source(1, "b", "m"), Source(1, "a", "n")]
    drawn = [source.numpy(0, 1 << 18) for source in sources]
    for numbers in drawn:
        assert 0 <= numbers.min() < 1e-4
        assert 1 - 1e-4 < numbers.max() < 1
        counts = np.histogram(numbers, 64, (0, 1))[0]
        assert ((counts - 4096) ** 2 / 4096).sum() < 63 + 6 * np.sqrt(2 * 63)
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.01
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.01
