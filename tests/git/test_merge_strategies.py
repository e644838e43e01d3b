"""Every strategy through the engine, on stored files: what it makes of tensors in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from git_theta import registry
from git_theta.core.recipe import Rule
from git_theta.core.strategy import Versions
from git_theta.testing import merged
from tests.merging import Bench

PARAMETERS: dict[str, dict[str, Any]] = {"nearswap": {"t": 0.01}}
STATISTICS = ("fisher", "regmean", "mats")
SHAPES = {"a.weight": (24, 16), "b.bias": (16,), "c.scale": (1,), "d.kernel": (6, 3, 2, 2)}
NAMES = [name for name in registry.names("merges") if name not in STATISTICS]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path / "repo")
    yield found
    found.close()


def draw(seed: int, dtype: torch.dtype, near: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    if near is not None:
        found = {name: near[name].float() + 0.1 * tensor for name, tensor in found.items()}
    return {name: tensor.to(dtype) for name, tensor in found.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_the_engine_gives_what_the_strategy_gives(bench: Bench, name: str, dtype: torch.dtype):
    kind = registry.find("merges", name).load()
    if getattr(kind, "takes", None):
        return
    strategy = kind(**PARAMETERS.get(name, {}))
    count = min(2, strategy.needs.models[1] or 2)
    base = draw(0, dtype)
    models = [draw(seed, dtype, base) for seed in range(1, count + 1)]
    outcome = bench.merge(
        bench.model(base, "base"),
        *(bench.model(model, f"model {index}") for index, model in enumerate(models)),
        rules=[Rule(strategy=name, parameters=PARAMETERS.get(name, {}))],
        scope="all",
    )
    found = bench.tensors(outcome)
    if strategy.needs.seeded:
        assert all(bool(tensor.isfinite().all()) for tensor in found.values())
        return
    wide = torch.float64 if strategy.needs.double else torch.float32
    wanted = merged(
        strategy,
        {
            key: Versions(
                name=key,
                shape=tuple(tensor.shape),
                models=tuple(model[key].to(wide) for model in models),
                base=tensor.to(wide),
            )
            for key, tensor in base.items()
        },
    )
    for key, tensor in wanted.items():
        assert torch.equal(found[key], tensor.to(dtype)), key
