"""The strategies that mergekit has too give its numbers, or the test says why not.

The numbers were made by `tests/oracles/run_mergekit.py`.
"""

from __future__ import annotations

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


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("case", EXACT, ids=lambda case: case.name)
def test_numbers_equal_mergekit(case: Case, name: str) -> None:
    found = merged(strategy(case), {name: versions(case, name)})[name]
    assert found.dtype == torch.float32
    assert distance(found, golden()[f"{case.name}/{name}"]) < 1e-6
