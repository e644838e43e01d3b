"""Strategies that tell entries changed by one model from entries changed by several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from git_theta.core.strategy import Needs, Versions
from git_theta.merges.blocks import ancestor, assembled, deltas, slices
from git_theta.merges.parameters import NOT_NEGATIVE, check


@dataclass(frozen=True, kw_only=True)
class Ram:
    """B + mean of the V_i that are active in an entry; a change of one model stays whole.

    V_i is active where |V_i| > epsilon and > relative * |B|. Where models are stored in bfloat16
    their rounding alone is about 0.004 |B|: set `relative` so that noise does not count.

    Source: Behavior Knowledge Merge in Reinforced Agentic Models (2026).
    """

    name: ClassVar[str] = "ram"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base="required", models=(1, None))

    epsilon: float = 1e-5
    relative: float = 0.0

    def __post_init__(self) -> None:
        check(self, epsilon=NOT_NEGATIVE, relative=NOT_NEGATIVE)

    def merge(self, versions: Versions) -> Tensor:
        changes, _, users = active(versions, self.epsilon, self.relative)
        total = changes[0]
        for change in changes[1:]:
            total += change
        total /= users.clamp_(min=1)
        return total.add_(ancestor(versions))


@dataclass(frozen=True, kw_only=True)
class RamPlus:
    """As ram, with changes of one model alone enlarged to make up for shared ones.

    By 1 + r * min(alpha, shared_i / alone_i): the entries of a tensor that model i changed with
    others and alone.

    Source: Behavior Knowledge Merge in Reinforced Agentic Models (2026), counted by tensor.
    """

    name: ClassVar[str] = "ram-plus"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base="required", models=(1, None), scope="tensor", widens=True)

    epsilon: float = 1e-5
    relative: float = 0.0
    r: float = 0.1
    alpha: float = 0.2

    def __post_init__(self) -> None:
        check(
            self,
            epsilon=NOT_NEGATIVE,
            relative=NOT_NEGATIVE,
            r=NOT_NEGATIVE,
            alpha=NOT_NEGATIVE,
        )

    def merge(self, versions: Versions) -> Tensor:
        factors = self._factors(versions)

        def merge(part: Versions) -> Tensor:
            changes, _, users = active(part, self.epsilon, self.relative)
            alone = users == 1
            total = torch.zeros_like(changes[0])
            for change, factor in zip(changes, factors, strict=True):
                total += change.where(~alone, change * factor)
            total /= users.clamp_(min=1)
            return total.add_(ancestor(part))

        return assembled(versions, merge)

    def _factors(self, versions: Versions) -> list[float]:
        """How much the changes of each model alone are enlarged."""
        alone = [0] * len(versions.models)
        shared = [0] * len(versions.models)
        for part in slices(versions):
            _, uses, users = active(part, self.epsilon, self.relative)
            for model, use in enumerate(uses):
                alone[model] += int((use & (users == 1)).sum())
                shared[model] += int((use & (users > 1)).sum())
        shares = (s / a if a else 0.0 for s, a in zip(shared, alone, strict=True))
        return [1 + self.r * min(self.alpha, share) for share in shares]


def active(
    part: Versions, epsilon: float, relative: float
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """The deltas with inactive entries zero, where each is active, and in how many models."""
    changes = deltas(part)
    least = ancestor(part).abs().mul_(relative).clamp_(min=epsilon)
    uses = [change.abs() > least for change in changes]
    users = torch.zeros_like(changes[0])
    for change, use in zip(changes, uses, strict=True):
        users += use
        change.masked_fill_(~use, 0)
    return changes, uses, users
