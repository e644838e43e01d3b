"""The strategies that mergekit has too give its numbers, or the test says why not.

The numbers were made by `tests/oracles/run_mergekit.py`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from git_theta import registry
from git_theta.core.strategy import Versions
from git_theta.testing import merged
from tests.oracles.cases import CASES, RANDOM, Case

GOLDEN = Path(__file__).parents[1] / "data" / "merging" / "mergekit.safetensors"
EXACT = [case for case in CASES if case not in RANDOM]
TENSORS = ("matrix", "vector", "block", "small")


@cache
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN)


def named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def versions(case: Case, name: str) -> Versions:
    tensors = [golden()[f"inputs/{model}/{name}"] for model in ("base", *case.models)]
    shape = tuple(tensors[0].shape)
    return Versions(name=name, shape=shape, models=tuple(tensors[1:]), base=tensors[0])


def strategy(case: Case) -> Any:
    return registry.find("merges", case.ours).load()(**case.parameters)


def distance(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest entry."""
    return float((found - wanted).abs().max() / wanted.abs().max())


# By name of case and tensor: where the numbers differ on purpose.
EXCEPTIONS = {
    ("model-stock-rows", "block"): "its rows are vectors of the last axis, ours lie in the first",
}


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("case", EXACT, ids=lambda case: case.name)
def test_numbers_equal_mergekit(case: Case, name: str) -> None:
    found = merged(strategy(case), {name: versions(case, name)})[name]
    assert found.dtype == torch.float32
    if (case.name, name) in EXCEPTIONS:
        assert distance(found, golden()[f"{case.name}/{name}"]) > 1e-6, "no exception any more"
        return
    assert distance(found, golden()[f"{case.name}/{name}"]) < 1e-6


def test_rows_of_model_stock_are_the_same_in_a_matrix_of_them():
    """Its numbers for three axes are ours for the matrix of all vectors of the last one."""
    case, name = named("model-stock-rows"), "block"
    whole = versions(case, name)
    assert whole.base is not None
    flat = replace(
        whole,
        shape=(12, 5),
        models=tuple(model.reshape(12, 5) for model in whole.models),
        base=whole.base.reshape(12, 5),
    )
    found = merged(strategy(case), {name: flat})[name].reshape(whole.shape)
    assert distance(found, golden()[f"{case.name}/{name}"]) < 1e-6


def forced(keep: tuple[bool, ...]):
    """A source of random numbers that keeps all of a model, or nothing."""

    def uniform(model: int, start: int, stop: int) -> Tensor:
        return torch.full((stop - start,), 0.0 if keep[model] else 1 - 2.0**-24)

    return uniform


@pytest.mark.parametrize("name", ["matrix", "vector", "block"])
@pytest.mark.parametrize("case", ["dare-linear", "dare-ties", "della", "della-linear"])
def test_random_methods_equal_mergekit_with_the_same_masks(case: str, name: str):
    """Each entry is what ours is for one of the eight ways to keep or drop it in three models.

    mergekit's random numbers are torch's, so its masks are found by trying all; about as many
    entries are kept as the density says.
    """
    whole, asked = versions(named(case), name), strategy(named(case))
    wanted = golden()[f"{case}/{name}"]
    nearest = torch.full_like(wanted, torch.inf)
    everything = torch.zeros_like(wanted, dtype=torch.bool)
    for keep in product((True, False), repeat=3):
        found = merged(asked, {name: replace(whole, uniform=forced(keep))})[name]
        off = (found - wanted).abs()
        nearest = torch.minimum(nearest, off)
        if all(keep):
            everything = off <= 1e-6 * wanted.abs().max()
    assert float(nearest.max() / wanted.abs().max()) < 1e-6
    assert 0.1 < float(everything.float().mean()) < 0.75


def test_rescaling_of_mergekit_is_not_by_the_density():
    """It matches the L1 norm of each tensor, so the factor depends on the draw; ours is 1/density.

    DARE's expectation is the delta itself only with 1/density.
    """
    case = named("dare-rescaled")
    factors = {}
    for name in ("matrix", "block"):
        whole = versions(case, name)
        assert whole.base is not None
        delta = whole.models[0] - whole.base
        theirs = golden()[f"{case.name}/{name}"] - whole.base
        kept = theirs.abs() > 1e-6
        factor = theirs[kept] / delta[kept]
        assert float(factor.std() / factor.mean()) < 1e-3, "one factor for the tensor"
        factors[name] = float(factor.mean())
        ours = merged(strategy(case), {name: replace(whole, uniform=forced((True,)))})[name]
        assert torch.allclose(ours - whole.base, delta * 10, atol=1e-5)
    assert all(abs(factor - 10) > 0.1 for factor in factors.values())
    assert abs(factors["matrix"] - factors["block"]) > 0.1
