"""What no merge may do to entries that nobody, or one side alone, has changed; to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from git_theta.core.random import Source
from git_theta.core.strategy import Versions
from git_theta.merges.active import Ram, RamPlus
from git_theta.merges.apply import Apply
from git_theta.merges.average import Average
from git_theta.merges.breadcrumbs import Breadcrumbs, BreadcrumbsTies
from git_theta.merges.dare import DareLinear, DareTies
from git_theta.merges.della import Della, DellaLinear
from git_theta.merges.linear import Extrapolate, Interpolate
from git_theta.merges.replace import NearSwap
from git_theta.merges.sce import Sce
from git_theta.merges.task_arithmetic import Consensus, MagMax, TaskArithmetic
from git_theta.merges.ties import Ties

WIDE = 64
WEIGHTS = some.lists(some.floats(0.01, 10), min_size=3, max_size=3).map(tuple)


def versions(seed: int, count: int, *, changed: float = 0.5) -> Versions:
    """A tensor of any magnitudes of which each model changed some entries."""
    random = torch.Generator().manual_seed(seed)
    shape = (WIDE // 8, 8)
    base = torch.randn(shape, generator=random) * 10.0 ** torch.randint(
        -20, 20, shape, generator=random
    )
    models = []
    for _ in range(count):
        moved = torch.rand(shape, generator=random) < changed
        step = base * torch.randn(shape, generator=random) * 0.01
        models.append(torch.where(moved, base + step, base))

    def uniform(model: int, start: int, stop: int) -> Any:
        return Source(seed, "name", str(model)).torch(start, stop)

    return Versions(
        name="name", shape=shape, models=tuple(models), base=base, start=0, uniform=uniform
    )


def unchanged(found: Versions) -> torch.Tensor:
    assert found.base is not None
    return torch.stack([model == found.base for model in found.models]).all(0)


@given(seed=some.integers(0, 1 << 30), weights=WEIGHTS, count=some.integers(2, 9))
def test_the_mean_of_equal_numbers_is_that_number(
    seed: int, weights: tuple[float, ...], count: int
):
    for strategy, number in (
        (Average(), count),
        (Average(weights=weights), 3),
        (Interpolate(alpha=weights[0] / 10, weights=weights), 3),
        (Extrapolate(alpha=weights[0], weights=weights), 3),
    ):
        found = versions(seed, number)
        still = unchanged(found)
        assert found.base is not None
        assert torch.equal(strategy.merge(found)[still], found.base[still])


@given(seed=some.integers(0, 1 << 30))
@pytest.mark.parametrize(
    "strategy",
    [
        TaskArithmetic(scale=0.7), Ties(density=0.3), DareLinear(), DareTies(), DellaLinear(),
        Della(), Breadcrumbs(), BreadcrumbsTies(), Sce(select_topk=0.7), Ram(), RamPlus(), MagMax(),
        Consensus(), NearSwap(t=0.1), Apply(), Apply(scale=-1.5),
    ],
    ids=lambda strategy: strategy.name,
)  # fmt: skip
def test_an_entry_that_nobody_changed_stays(strategy: Any, seed: int):
    found = versions(seed, 2)
    still = unchanged(found)
    assert found.base is not None
    assert torch.equal(strategy.merge(found)[still], found.base[still])


@given(seed=some.integers(0, 1 << 30))
def test_a_pick_takes_entries_of_one_side_as_they_are(seed: int):
    found = versions(seed, 2)
    base, (ours, theirs) = found.base, found.models
    assert base is not None
    merged = Apply().merge(found)
    assert torch.equal(merged[theirs == base], ours[theirs == base])
    assert torch.equal(merged[ours == base], theirs[ours == base])


@given(seed=some.integers(0, 1 << 30), weights=WEIGHTS)
def test_the_mean_is_as_near_as_the_sum_of_products(seed: int, weights: tuple[float, ...]):
    found = versions(seed, 3)
    exact = sum(m.double() * w for m, w in zip(found.models, weights, strict=True)) / sum(weights)
    merged = Average(weights=weights).merge(found).double()
    largest = torch.stack([m.double().abs() for m in found.models]).amax(0)
    assert bool(((merged - exact).abs() <= 4 * torch.finfo(torch.float32).eps * largest).all())
