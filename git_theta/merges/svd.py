"""Strategies on singular vectors of task matrices, D_i = M_i - B; vectors are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from git_theta.core.strategy import Needs, Versions
from git_theta.merges.blocks import ancestor
from git_theta.merges.matrices import changed, is_matrix, mean, orthogonal, rank, svd
from git_theta.merges.parameters import UNIT, check, per_model


def _average(versions: Versions, scale: float) -> Tensor:
    """B + scale * mean(V_i), for tensors that are no matrices."""
    count = len(versions.models)
    total = mean(versions, [1 / count] * count)
    if scale == 1:
        return total
    base = ancestor(versions)
    total -= base
    total *= scale
    return total.add_(base)


def _back(versions: Versions, change: Tensor, scale: float) -> Tensor:
    """B + scale * change, in the tensor's shape."""
    total = change.reshape(versions.shape) * scale
    return total.add_(ancestor(versions))


@dataclass(frozen=True, kw_only=True)
class Tsvm:
    """B + scale * U S V^T from the strongest singular vectors of each D_i, made orthogonal.

    Of each of N task matrices the first rank / N singular triples are kept and put side by side;
    the joined left and right vectors are replaced by their polar factors.

    Source: Task Singular Vectors, TSV-Merge (Gargiulo et al., 2025).
    """

    name: ClassVar[str] = "tsvm"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base="required", models=(1, None), scope="tensor", double=True)

    scale: float = 1.0

    def __post_init__(self) -> None:
        check(self)

    def merge(self, versions: Versions) -> Tensor:
        if not is_matrix(versions):
            return _average(versions, self.scale)
        changes = changed(versions)
        kept = max(1, min(changes[0].shape) // len(changes))
        lefts, values, rights = zip(*[_strongest(change, kept) for change in changes], strict=True)
        strengths = torch.cat(values)
        left, right = orthogonal(torch.cat(lefts, 1)), orthogonal(torch.cat(rights, 0))
        return _back(versions, (left * strengths) @ right, self.scale)


def _strongest(matrix: Tensor, kept: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first singular triples; those that are rounding are zero."""
    left, values, right = svd(matrix)
    real = min(kept, rank(values, matrix.shape))
    left, values, right = left[:, :kept].clone(), values[:kept].clone(), right[:kept].clone()
    left[:, real:], values[real:], right[real:] = 0, 0, 0
    return left, values, right


@dataclass(frozen=True, kw_only=True)
class IsoC:
    """B + scale * mean(s) U V^T, with U s V^T = sum(D_i): all directions equally strong.

    Directions that the sum does not have stay zero, so rows that nobody changed are not changed.

    Source: No Task Left Behind, Iso-C (Marczak et al., 2025).
    """

    name: ClassVar[str] = "iso-c"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base="required", models=(1, None), scope="tensor", double=True)

    weights: tuple[float, ...] = ()
    scale: float = 1.0

    def __post_init__(self) -> None:
        check(self)

    def merge(self, versions: Versions) -> Tensor:
        if not is_matrix(versions):
            return _average(versions, self.scale)
        total = _total(changed(versions), per_model("weights", self.weights, len(versions.models)))
        left, values, right = svd(total)
        kept = rank(values, total.shape)
        return _back(versions, left[:, :kept] @ right[:kept] * values.mean(), self.scale)


def _total(changes: Sequence[Tensor], weights: list[float]) -> Tensor:
    total = changes[0] * weights[0]
    for change, weight in zip(changes[1:], weights[1:], strict=True):
        total += change * weight
    return total


@dataclass(frozen=True, kw_only=True)
class IsoCts:
    """iso-c in a common subspace, and in directions that each task has beyond it.

    Of r directions, `common` * r are the first of sum(D_i); the others are divided among the tasks:
    the first singular triples of each D_i less its part in the common subspace. All left and right
    vectors are replaced by their polar factors, all singular values by their mean.

    Source: No Task Left Behind, Iso-CTS (Marczak et al., 2025).
    """

    name: ClassVar[str] = "iso-cts"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base="required", models=(1, None), scope="tensor", double=True)

    weights: tuple[float, ...] = ()
    common: float = 0.8
    scale: float = 1.0

    def __post_init__(self) -> None:
        check(self, common=UNIT)

    def merge(self, versions: Versions) -> Tensor:
        if not is_matrix(versions):
            return _average(versions, self.scale)
        changes = changed(versions)
        left, values, right = svd(_total(changes, per_model("weights", self.weights, len(changes))))
        full = len(values)
        each = int((full - int(full * self.common)) / len(changes))
        shared = full - each * len(changes)
        kept = min(shared, rank(values, changes[0].shape))
        parts = [(left[:, :kept], values[:kept], right[:kept])]
        for change in changes if each else ():
            rest = change - left[:, :kept] @ (left[:, :kept].T @ change)
            parts.append(_strongest(rest, each))
        lefts, strengths, rights = zip(*parts, strict=True)
        joined = orthogonal(torch.cat(lefts, 1)) @ orthogonal(torch.cat(rights, 0))
        return _back(versions, joined * (torch.cat(strengths).sum() / full), self.scale)
