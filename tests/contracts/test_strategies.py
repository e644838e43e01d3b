"""Every merge strategy that is shipped obeys the laws of strategies."""

from __future__ import annotations

from typing import Any

import pytest

from git_theta import registry
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


CASES = [(name, REQUIRED.get(name, {})) for name in registry.names("merges")] + VARIANTS


@pytest.mark.parametrize(
    "law", [law for law in dir(StrategyContract) if law.startswith("test_")], ids=lambda law: law
)
@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_laws(name: str, parameters: dict[str, Any], law: str) -> None:
    contract = type("Contract", (StrategyContract,), {"strategy": instance(name, parameters)})
    getattr(contract(), law)()


def test_the_laws_are_broken_by_what_breaks_them() -> None:
    """A contract that nothing can break proves nothing."""
