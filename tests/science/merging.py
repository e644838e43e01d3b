"""Our strategies applied to weights in memory, as the engine applies them to files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.digits import Weights
from git_theta import registry
from git_theta.core.random import Source
from git_theta.core.strategy import Versions

Statistics = Mapping[str, Sequence[Mapping[str, Tensor]]]


def merged(
    name: str,
    base: Weights | None,
    models: Sequence[Weights],
    *,
    statistics: Statistics | None = None,
    **parameters: Any,
) -> Weights:
    """Merge all tensors with one strategy."""
    strategy = registry.load_class("merges", name)(**parameters)
    known = {kind: (statistics or {})[kind] for kind in strategy.needs.statistics}
    names = sorted(models[0])
    gathered = None
    for _ in range(getattr(strategy, "rounds", 0)):
        so_far = None
        for tensor in names:
            so_far = strategy.survey(_versions(strategy, tensor, base, models, known), so_far)
        gathered = strategy.conclude(so_far)
    found = {}
    for tensor in names:
        versions = _versions(strategy, tensor, base, models, known, gathered)
        shape = models[0][tensor].shape
        found[tensor] = strategy.merge(versions).to(torch.float32).reshape(shape)
    return found


def _versions(
    strategy: Any,
    name: str,
    base: Weights | None,
    models: Sequence[Weights],
    statistics: Statistics,
    gathered: Any = None,
) -> Versions:
    wide = torch.float64 if strategy.needs.double else torch.float32
    flat = strategy.needs.scope == "element"

    def given(values: Tensor) -> Tensor:
        return (values.reshape(-1) if flat else values).to(wide, copy=True)

    def uniform(model: int, start: int, stop: int) -> Tensor:
        drawn: Tensor = Source(strategy.seed, name, str(model)).torch(start, stop)
        return drawn

    kinds = {kind: tuple(each.get(name) for each in side) for kind, side in statistics.items()}
    return Versions(
        name=name,
        shape=tuple(models[0][name].shape),
        models=tuple(given(model[name]) for model in models),
        base=None if base is None or strategy.needs.base == "unused" else given(base[name]),
        statistics=kinds,
        gathered=gathered,
        uniform=uniform if strategy.needs.seeded else None,
    )
