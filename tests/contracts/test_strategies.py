"""Every merge strategy that is shipped obeys the laws of strategies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from git_theta import registry
from git_theta.core.strategy import Versions
from git_theta.merges.average import Average
from git_theta.testing import StrategyContract

REQUIRED: dict[str, dict[str, Any]] = {"nearswap": {"t": 0.05}}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("task-arithmetic", {"scale": -0.5, "normalize": True, "weights": [2.0, 2.0, 2.0]}),
    ("ties", {"density": 1, "normalize": False}),
    ("ties", {"density": [0.3, 0.3, 0.3]}),
    ("dare-linear", {"rescale": False, "density": 0.2}),
    ("della", {"epsilon": 0.0, "density": 0.1}),
    ("breadcrumbs", {"gamma": 0.3, "density": 0.2}),
    ("sce", {"select_topk": 0.3}),
    ("model-stock", {"filter_wise": True}),
    ("slerp", {"t": 0.0}),
    ("nuslerp", {"flatten": False}),
    ("nuslerp", {"flatten": False, "row_wise": True, "from_base": True}),
    ("multislerp", {"from_base": True, "normalize": False}),
    ("fisher", {"normalize": "tensor"}),
    ("fisher", {"normalize": "none", "floor": 1e-3}),
    ("regmean", {"off_diagonal": 0.0}),
    ("mats", {"start": "average", "iterations": 3}),
    ("opcm", {"alpha": 1.0}),
]
"""Values of parameters that lead through other code than the defaults do."""


def instance(name: str, parameters: dict[str, Any]) -> Any:
    return registry.find("merges", name).load()(**parameters)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors are so small that torch's threads would do nothing but wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


CASES = [(name, REQUIRED.get(name, {})) for name in registry.names("merges")] + VARIANTS


@pytest.mark.parametrize(
    "law", [law for law in dir(StrategyContract) if law.startswith("test_")], ids=lambda law: law
)
@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_laws(name: str, parameters: dict[str, Any], law: str) -> None:
    contract = type("Contract", (StrategyContract,), {"strategy": instance(name, parameters)})
    getattr(contract(), law)()


class Sliced(Average):
    """Breaks the law of slices: what it gives depends on where a slice begins."""

    def merge(self, versions: Versions) -> Tensor:
        return super().merge(versions) + float(versions.start)


class Late(Average):
    """Breaks the law of order."""

    def merge(self, versions: Versions) -> Tensor:
        return versions.models[-1].clone()


class Writing(Average):
    """Breaks the law of inputs."""

    def merge(self, versions: Versions) -> Tensor:
        return versions.models[0].mul_(2)


class Endless(Average):
    """Breaks the law of finite results."""

    def merge(self, versions: Versions) -> Tensor:
        return super().merge(versions) / (versions.models[0] - versions.models[1])


class Flat(Average):
    """Breaks the law of shapes."""

    def merge(self, versions: Versions) -> Tensor:
        return super().merge(versions)[:1]


class Moody(Average):
    """Breaks the law of repetition."""

    def merge(self, versions: Versions) -> Tensor:
        return torch.rand_like(versions.models[0])


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (Sliced, "slices_give_the_bits_of_the_whole"),
        (Late, "the_order_of_models_is_of_no_account_unless_it_says_so"),
        (Writing, "its_inputs_stay_as_they_are"),
        (Endless, "versions_that_are_all_the_same_or_zero_give_finite_results"),
        (Flat, "results_have_the_shape_and_the_dtype_of_what_they_are_computed_in"),
        (Moody, "twice_the_same_gives_the_same_bits"),
    ],
)
def test_what_breaks_a_law_is_noticed(kind: type[Average], law: str) -> None:
    contract = type("Contract", (StrategyContract,), {"strategy": kind()})
    with pytest.raises((AssertionError, RuntimeError)):
        getattr(contract(), f"test_{law}")()
