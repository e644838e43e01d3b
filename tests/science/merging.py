"""Our strategies applied to weights in memory, as the engine applies them to files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.digits import Weights
from git_theta import registry, testing
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
    versions = {tensor: _versions(strategy, tensor, base, models, known) for tensor in models[0]}
    found = testing.merged(strategy, versions)
    return {tensor: values.to(torch.float32) for tensor, values in found.items()}


def _versions(
    strategy: Any,
    name: str,
    base: Weights | None,
    models: Sequence[Weights],
    statistics: Statistics,
) -> Versions:
    wide = torch.float64 if strategy.needs.double else torch.float32

    def uniform(model: int, start: int, stop: int) -> Tensor:
        drawn: Tensor = Source(strategy.seed, name, str(model)).torch(start, stop)
        return drawn

    kinds = {kind: tuple(each.get(name) for each in side) for kind, side in statistics.items()}
    return Versions(
        name=name,
        shape=tuple(models[0][name].shape),
        models=tuple(model[name].to(wide, copy=True) for model in models),
        base=None if base is None or strategy.needs.base == "unused" else base[name].to(wide),
        statistics=kinds,
        uniform=uniform if strategy.needs.seeded else None,
    )
