"""SLERP by weights, of whole tensors or along one axis, of models or of task vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from git_theta.core.strategy import Needs, Versions
from git_theta.merges.blocks import ancestor, width
from git_theta.merges.inner import STRAIGHT, arc, double
from git_theta.merges.parameters import check, per_model
from git_theta.merges.spherical import spread


@dataclass(frozen=True, kw_only=True)
class NuSlerp:
    """slerp with t = w_2 / (w_1 + w_2), or 1/2 where the weights cancel.

    With `from_base` the task vectors are turned and added to the ancestor. Without `flatten` each
    vector along the last axis, or along the first with `row_wise`, is turned on its own. A line
    instead of an arc where |cos| is above 0.9995.

    Source: nuslerp of model merging tools, after Shoemake (1985).
    """

    name: ClassVar[str] = "nuslerp"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base="optional", models=(2, 2), scope="tensor", widens=True)

    weights: tuple[float, ...] = ()
    flatten: bool = True
    row_wise: bool = False
    from_base: bool = False

    def __post_init__(self) -> None:
        check(self)

    def merge(self, versions: Versions) -> Tensor:
        first, second = per_model("weights", self.weights, 2)
        whole = first + second
        t = second / whole if abs(whole) > 1e-12 * (abs(first) + abs(second)) else 0.5
        if self.flatten or len(versions.shape) < 2:
            return spread(
                versions, lambda g: list(arc(t, g[0][0], g[0][1], g[1][1])), turn=self.from_base
            )
        return self._lines(versions, t)

    def _lines(self, versions: Versions, t: float) -> Tensor:
        """Turn each vector along one axis."""
        dtype = width(versions)
        first, second = (model.to(dtype) for model in versions.models)
        if self.from_base:
            base = ancestor(versions).to(dtype)
            return turned(first - base, second - base, t, self.row_wise).add_(base)
        return turned(first, second, t, self.row_wise)


def turned(first: Tensor, second: Tensor, t: float, row_wise: bool) -> Tensor:
    """Each vector along one axis at `t` of the arc between two tensors."""
    if not first.numel():
        return first.clone()
    rows = double(first), double(second)
    axis = 0 if row_wise else -1
    lengths = [row.square().sum(axis, keepdim=True).sqrt() for row in rows]
    length = lengths[0] * lengths[1]
    cos = (rows[0] * rows[1]).sum(axis, keepdim=True) / length.masked_fill(length == 0, 1)
    cos = cos.masked_fill_(length == 0, 1).clamp_(-1, 1)
    straight = cos.abs() > STRAIGHT
    angle = cos.masked_fill(straight, 0).acos()
    factors = []
    for share in (1 - t, t):
        factor = (angle * share).sin() / angle.sin()
        factors.append(torch.where(straight, torch.full_like(factor, share), factor))
    total = rows[0] * factors[0] + rows[1] * factors[1]
    return total.to(device=first.device, dtype=first.dtype)
