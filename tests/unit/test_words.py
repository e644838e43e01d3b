"""Sums in numpy: the same bits as in torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from git_theta import compute, registry
from git_theta.commands import warming
from git_theta.core import words
from git_theta.core.strategy import Versions
from git_theta.merges.blocks import slices
from git_theta.merges.inner import gram, products
from git_theta.merges.sums import combined, mean

COUNTS = (1, 2, 3, 64, 1001)


def drawn(dtype: str, count: int, seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Bytes of numbers of every size, zeros of both signs and subnormal ones among them."""
    random = np.random.default_rng(seed)
    values = random.standard_normal(count) * 2.0 ** random.integers(-150, 10, count)
    values[::7] = -0.0
    return compute.to_bytes(torch.from_numpy(values), dtype)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("dtype", sorted(words.FLOATS))
@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.3, 0.7), (1.5, -0.5)])
def test_a_sum_has_the_same_bits_as_in_torch(dtype: str, count: int, weights: tuple[float, float]):
    stored = [drawn(dtype, count, seed) for seed in (1, 2)]
    rooms = [np.empty(8 * count, np.uint8) for _ in stored]
    for add in (mean, combined):
        numbers = [words.widen(d, dtype, r) for d, r in zip(stored, rooms, strict=True)]
        out = np.empty_like(stored[0])
        words.narrow(add(numbers, weights), dtype, out)
        tensors = [compute.to_numbers(data, dtype) for data in stored]
        assert out.tobytes() == compute.to_bytes(add(tensors, weights), dtype).tobytes()


@pytest.mark.parametrize("dtype", sorted(words.FLOATS))
@pytest.mark.parametrize("word", ["inf", "-inf", "nan", "-nan"])
def test_what_is_not_finite_shows_in_a_sum(dtype: str, word: str):
    value = torch.tensor([float(word)], dtype=torch.float64)
    kind = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16}
    bad = value.to(kind.get(dtype, torch.bfloat16)).view(torch.uint8).numpy()
    for count in (1, 2, 5):
        for at in range(count):
            data = drawn(dtype, count, 3)
            data[at * len(bad) : (at + 1) * len(bad)] = bad
            assert not words.has_only_finite(data, dtype)
            room, other = np.empty(8 * count, np.uint8), np.empty(8 * count, np.uint8)
            out = np.empty_like(data)
            with np.errstate(all="ignore"):
                pair = words.widen(data, dtype, room), words.widen(out * 0, dtype, other)
                words.narrow(mean(pair, (0.5, 0.5)), dtype, out)
            assert not words.has_only_finite(out, dtype)


def test_inner_products_of_arrays_are_those_of_tensors():
    models = tuple(torch.randn(1000, generator=torch.Generator().manual_seed(n)) for n in (1, 2))
    versions = Versions(name="w", shape=(1000,), models=models)
    theirs = gram(part.models for part in slices(versions))
    ours = products([[model.numpy().astype(np.float64) for model in models]])
    assert np.allclose(ours, theirs, rtol=1e-13)


@pytest.mark.parametrize("name", ["average", "slerp", "karcher"])
def test_strategies_that_need_no_torch_say_so(name: str):
    assert registry.load_class("merges", name).needs.arrays


def test_whether_torch_is_wanted_is_asked_first(monkeypatch: pytest.MonkeyPatch):
    begun: list[str] = []
    monkeypatch.setattr(warming, "begin", lambda: begun.append("begun"))
    warming.begin_if(lambda: False).join()
    warming.begin_if(lambda: True).join()
    assert begun == ["begun"]
