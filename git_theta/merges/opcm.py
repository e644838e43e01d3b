"""OPCM: one model after the other, each without what those before it already say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from git_theta.core.strategy import Needs, Versions
from git_theta.merges.blocks import ancestor
from git_theta.merges.matrices import changed, is_matrix, rank, svd
from git_theta.merges.parameters import UNIT, check

Norms = tuple[float, tuple[float, ...]]
"""Squared norms over the model: of the sum of projected task vectors, and of each task vector."""


def projected(change: Tensor, merged: Tensor, alpha: float) -> Tensor:
    """What a task matrix has off the leading singular directions of the merged one.

    The leading r are those that hold the share `alpha` of the singular values. Kept are the parts
    u_i v_j^T with i and j beyond r and i not j, directions that the merged one lacks included.
    """
    left, values, right = svd(merged)
    real = rank(values, merged.shape)
    left, values, right = left[:, :real], values[:real], right[:real]
    lead = int((values.cumsum(0) < alpha * values.sum()).sum()) + 1 if alpha and real else 0
    lead = min(lead, real)
    rest = change - left[:, :lead] @ (left[:, :lead].T @ change)
    rest -= (rest @ right[:lead].T) @ right[:lead]
    own = ((left[:, lead:].T @ rest) * right[lead:]).sum(1)
    return rest - (left[:, lead:] * own) @ right[lead:]


@dataclass(frozen=True, kw_only=True)
class Opcm:
    """B + (n / |S|) S, where S = sum of the V_i, each matrix projected off the sum before it.

    n is the mean norm of the task vectors, |S| the norm of S, both over the whole model. Vectors
    are added as they are. The order of the models matters: the first is kept whole.

    Source: Merging Models on the Fly Without Retraining (Tang et al., 2025).
    """

    name: ClassVar[str] = "opcm"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(
        base="required", models=(1, None), scope="model", double=True, ordered=True, every=True
    )

    alpha: float = 0.5

    def __post_init__(self) -> None:
        check(self, alpha=UNIT)

    @property
    def rounds(self) -> int:
        return 1

    def survey(self, versions: Versions, so_far: Norms | None) -> Norms:
        own = tuple(float((model - ancestor(versions)).square().sum()) for model in versions.models)
        whole = float(self._total(versions).square().sum())
        if so_far is None:
            return whole, own
        return so_far[0] + whole, tuple(a + b for a, b in zip(so_far[1], own, strict=True))

    def conclude(self, so_far: Norms | None) -> float:
        """What the sum of projected task vectors is multiplied by."""
        if so_far is None or not so_far[0]:
            return 1.0
        norms = [math.sqrt(square) for square in so_far[1]]
        return math.fsum(norms) / len(norms) / math.sqrt(so_far[0])

    def merge(self, versions: Versions) -> Tensor:
        total = self._total(versions)
        total = total * float(versions.gathered)
        return total.add_(ancestor(versions))

    def _total(self, versions: Versions) -> Tensor:
        base = ancestor(versions)
        if not is_matrix(versions):
            total = torch.zeros_like(base)
            for model in versions.models:
                total += model - base
            return total
        first, *others = changed(versions)
        for change in others:
            first = first + projected(change, first, self.alpha)
        return first.reshape(base.shape)
