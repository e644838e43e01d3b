"""Sums of task vectors, V_i = M_i - B, entry by entry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from git_theta.core.strategy import Needs, Versions
from git_theta.merges.blocks import ancestor, deltas
from git_theta.merges.elect import added
from git_theta.merges.parameters import NOT_NEGATIVE, Bounds, check, per_model


@dataclass(frozen=True, kw_only=True)
class TaskArithmetic:
    """B + scale * sum(w_i V_i); with `normalize`, over the sum of weights.

    A weight of -1 negates (forgets) a task; 1, -1, 1 is an analogy.

    Source: Editing Models with Task Arithmetic (Ilharco et al., 2023).
    """

    name: ClassVar[str] = "task-arithmetic"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base="required", models=(1, None))

    weights: tuple[float, ...] = ()
    scale: float = 1.0
    normalize: bool = False

    def __post_init__(self) -> None:
        check(self)

    def merge(self, versions: Versions) -> Tensor:
        base = ancestor(versions)
        weights = per_model("weights", self.weights, len(versions.models))
        if self.normalize:
            whole = math.fsum(weights)
            weights = [weight / whole for weight in weights] if abs(whole) > 1e-8 else weights
        total: Tensor | None = None
        for model, weight in zip(versions.models, weights, strict=True):
            delta = model - base
            delta *= weight
            total = delta if total is None else total.add_(delta)
        if total is None:
            return base.clone()
        total *= self.scale
        return total.add_(base)


@dataclass(frozen=True, kw_only=True)
class MagMax:
    """B + scale * V, where V is in each entry the V_i of largest magnitude.

    Of two with equal magnitude the positive one is taken, so the order of models is of no account.

    Source: MagMax (Marczak et al., 2024).
    """

    name: ClassVar[str] = "magmax"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base="required", models=(1, None))

    scale: float = 0.5

    def __post_init__(self) -> None:
        check(self)

    def merge(self, versions: Versions) -> Tensor:
        first, *others = deltas(versions)
        high, low = first.clone(), first
        for delta in others:
            high = torch.maximum(high, delta)
            low = torch.minimum(low, delta)
        strongest = torch.where(high >= -low, high, low)
        strongest *= self.scale
        return strongest.add_(ancestor(versions))


@dataclass(frozen=True, kw_only=True)
class Consensus:
    """B + scale * sum(V_i) in the entries that at least `agree` tasks use; B in the others.

    A task uses an entry if |V_i| > threshold * |sum(V) - V_i|.

    Source: TALL masks and consensus merging (Wang et al., 2024).
    """

    name: ClassVar[str] = "consensus"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base="required", models=(2, None))

    threshold: float = 0.4
    agree: int = 2
    scale: float = 1.0

    def __post_init__(self) -> None:
        check(self, threshold=NOT_NEGATIVE, agree=Bounds(1))

    def merge(self, versions: Versions) -> Tensor:
        changes = deltas(versions)
        total = added([delta.clone() for delta in changes], [1.0] * len(changes), normalize=False)
        users = torch.zeros_like(total)
        for delta in changes:
            rest = total - delta
            users += delta.abs() > rest.abs_().mul_(self.threshold)
        total.masked_fill_(users < self.agree, 0)
        total *= self.scale
        return total.add_(ancestor(versions))
