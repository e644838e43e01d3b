"""Strategies on a CUDA device: the same bits for elementwise ones, near for the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from git_theta import registry
from git_theta.core.random import Source
from git_theta.core.strategy import Versions
from git_theta.testing import StrategyContract, merged
from tests.contracts.test_strategies import CASES, instance

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
# Their masks and thresholds are exact on every device, so only sums of a few products differ.
TOLERANCE = 1e-5


def _moved(versions: Versions) -> Versions:
    uniform = versions.uniform
    return replace(
        versions,
        models=tuple(model.cuda() for model in versions.models),
        base=None if versions.base is None else versions.base.cuda(),
        statistics={
            kind: tuple(None if one is None else one.cuda() for one in each)
            for kind, each in versions.statistics.items()
        },
        uniform=None
        if uniform is None
        else lambda model, start, stop: uniform(model, start, stop).cuda(),
    )


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_results_are_those_of_the_processor(name: str, parameters: dict[str, Any]) -> None:
    strategy = instance(name, parameters)
    contract = type("Contract", (StrategyContract,), {"strategy": strategy})()
    tensors = contract.model(seed=1)
    here = merged(strategy, tensors)
    there = merged(strategy, {key: _moved(versions) for key, versions in tensors.items()})
    for key, wanted in here.items():
        found = there[key].cpu()
        if strategy.needs.scope == "element":
            assert torch.equal(found, wanted)
        else:
            torch.testing.assert_close(found, wanted, rtol=TOLERANCE, atol=TOLERANCE)


def test_random_numbers_have_the_same_bits() -> None:
    source = Source(5, "layer.weight", "model")
    for start, stop in ((0, 1 << 20), (3, 1001)):
        found = source.torch(start, stop, "cuda").cpu().numpy()
        assert (found == source.numpy(start, stop)).all()


@pytest.mark.parametrize("name", ["ties", "dare-ties", "slerp"])
def test_large_tensors_in_two_bytes(name: str) -> None:
    """More than one block, in the dtype in which models are stored."""
    strategy = registry.find("merges", name).load()()
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(1500, 700, generator=generator).bfloat16()
    models = tuple(base + 0.01 * torch.randn(1500, 700, generator=generator) for _ in range(2))
    wide = strategy.needs.scope == "element"
    given = Versions(
        name="w",
        shape=(1500, 700),
        models=tuple(m.bfloat16().float() if wide else m.bfloat16() for m in models),
        base=base.float() if wide else base,
        uniform=lambda model, start, stop: Source(0, "w", str(model)).torch(start, stop),
    )
    wanted = merged(strategy, {"w": given})["w"]
    found = merged(strategy, {"w": _moved(given)})["w"].cpu()
    if name == "slerp":
        torch.testing.assert_close(found, wanted, rtol=TOLERANCE, atol=TOLERANCE)
    else:
        assert torch.equal(found, wanted)
