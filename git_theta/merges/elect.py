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
    votes: Tensor | None = None,
) -> Tensor:
    """Each entry as the models of the stronger sign have it; overwrites deltas.

    The sign of the sum of weighted deltas is elected, or that of `votes` where they are given; the
    result is the sum of the weighted entries of that sign, over the sum of their weights if asked
    for. Weights count by their magnitude there: a negative one negates its delta. Where the sum is
    zero the sign is that of `sign`; with 0 the result is zero there.
    """
    for delta, weight in zip(deltas, weights, strict=True):
        if weight != 1:
            delta *= weight
    elected = (_sum(deltas) if votes is None else votes).sign()
    if sign:
        elected += (1 - elected.abs()) * (1.0 if sign > 0 else -1.0)
    total: Tensor | None = None
    divisor: Tensor | None = None
    for delta, weight in zip(deltas, weights, strict=True):
        # Masks are numbers, not booleans: arithmetic is several times as fast as selection.
        agrees = delta.sign().mul_(elected).clamp_(min=0)
        delta *= agrees
        total = delta if total is None else total.add_(delta)
        if normalize:
            agrees *= abs(weight)
            divisor = agrees if divisor is None else divisor.add_(agrees)
    if total is None:
        raise ValueError("nothing to merge")
    if divisor is not None:
        total /= divisor.clamp_(min=torch.finfo(total.dtype).tiny)
    return total


def _sum(deltas: list[Tensor]) -> Tensor:
    total = deltas[0].clone()
    for delta in deltas[1:]:
        total += delta
    return total


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
