"""Strategies that look at every tensor before they merge the first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from git_theta import compute
from git_theta.commands.computing import whole_versions
from git_theta.commands.tasks import Context
from git_theta.core.merging import Step


def survey(context: Context, steps: Sequence[Step]) -> dict[int, Any]:
    """What each strategy gathered, by the identity of the choice that its steps share."""
    groups: dict[Any, list[Step]] = {}
    for step in steps:
        if step.chosen is not None and step.chosen.strategy.needs.scope == "model":
            groups.setdefault(step.chosen.strategy, []).append(step)
    gathered: dict[int, Any] = {}
    for strategy, own in groups.items():
        said = _rounds(context, strategy, own)
        gathered.update((id(step.chosen), said) for step in own)
    return gathered


def _rounds(context: Context, strategy: Any, steps: Sequence[Step]) -> Any:
    gathered: Any = None
    for _ in range(strategy.rounds):
        so_far: Any = None
        for step in steps:
            so_far = _round(context, strategy, step, gathered, so_far)
        gathered = strategy.conclude(so_far)
    return gathered


def _round(context: Context, strategy: Any, step: Step, gathered: Any, so_far: Any) -> Any:
    def work(where: str) -> Any:
        return strategy.survey(whole_versions(context, step, gathered, where), so_far)

    double, count = strategy.needs.double, math.prod(step.shape)
    device = compute.choose_device(context.device, elementwise=False, double=double, count=count)
    return compute.on_device(device, work, context.complain)
