"""From sparse deltas to one: a plain sum, or the mean of those that agree on a sign (TIES)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from git_theta.core.strategy import Versions
from git_theta.merges.blocks import ancestor
from git_theta.merges.parameters import Bounds, check, per_model

_LEAST = 1e-8


def added(deltas: list[Tensor], weights: list[float], *, normalize: bool) -> Tensor:
    """The sum of weight times delta, over the sum of weights if asked for; overwrites deltas."""
    total = deltas[0].mul_(weights[0])
    for delta, weight in zip(deltas[1:], weights[1:], strict=True):
        total += delta.mul_(weight)
    whole = math.fsum(weights)
    if normalize and abs(whole) > _LEAST:
        total *= 1 / whole
    return total


def agreed(
    deltas: list[Tensor],
    weights: list[float],
    *,
    normalize: bool,
    sign: float = 0.0,
) -> Tensor:
    """Each entry as the models of the stronger sign have it; overwrites deltas.

    The sign with the larger sum of weighted magnitudes is elected; the result is the sum of the
    weighted entries of that sign, over the sum of their weights if asked for. Weights count by
    their magnitude there: a negative one negates its delta. Where both sides weigh the same the
    result is what `sign` says: the positive part, the negative part or zero.
    """
    up, down = torch.zeros_like(deltas[0]), torch.zeros_like(deltas[0])
    ups = torch.zeros_like(up) if normalize else None
    downs = torch.zeros_like(up) if normalize else None
    for delta, weight in zip(deltas, weights, strict=True):
        delta *= weight
        if ups is not None and downs is not None:
            ups += (delta > 0).to(up.dtype).mul_(abs(weight))
            downs += (delta < 0).to(up.dtype).mul_(abs(weight))
        up += delta.clamp(min=0)
        down += delta.clamp_(max=0)
    lead = up + down
    if ups is not None and downs is not None:
        up /= ups.masked_fill_(ups == 0, 1)
        down /= downs.masked_fill_(downs == 0, 1)
    if sign > 0:
        lead.masked_fill_(lead == 0, 1)
    if sign < 0:
        lead.masked_fill_(lead == 0, -1)
    up.masked_fill_(lead <= 0, 0)
    down.masked_fill_(lead >= 0, 0)
    up += down
    return up


@dataclass(frozen=True, kw_only=True)
class TaskVectors:
    """What strategies share that make task vectors sparse and add them up: B + scale * sum.

    `elects` says whether entries of the weaker sign are left out of the sum; `normalize` divides it
    by the weights that went into it.
    """

    name: ClassVar[str]
    elects: ClassVar[bool]

    weights: tuple[float, ...] = ()
    scale: float = 1.0
    normalize: bool = False

    def __post_init__(self) -> None:
        check(self, **self.bounds())

    def bounds(self) -> dict[str, Bounds]:
        """The bounds of the parameters that have some."""
        return {}

    def joined(self, part: Versions, changes: list[Tensor], **how: Any) -> Tensor:
        """The merged slice from its sparse deltas, which are overwritten."""
        weights = per_model("weights", self.weights, len(changes))
        join = agreed if self.elects else added
        total = join(changes, weights, normalize=self.normalize, **how)
        total *= self.scale
        return total.add_(ancestor(part))
