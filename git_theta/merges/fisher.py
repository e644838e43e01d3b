"""Fisher merging: each entry is weighted by how sure a model is of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from git_theta.core.strategy import Needs, Versions
from git_theta.errors import MergeError
from git_theta.merges.blocks import assembled, slices
from git_theta.merges.inner import double
from git_theta.merges.parameters import NOT_NEGATIVE, POSITIVE, check, choice, shares
from git_theta.merges.sums import combined

Sums = tuple[tuple[float, ...], int]
"""The sum of squares of each model's Fisher information, and of how many entries."""


def present(versions: Versions, kind: str) -> tuple[Tensor, ...] | None:
    """The statistics of all models for a tensor, or None where no model has any.

    Raises:
        MergeError: some models have some, others do not, or of another size.
    """
    found = versions.statistics.get(kind, ())
    there = tuple(one for one in found if one is not None)
    if not there:
        return None
    if len(there) != len(versions.models) or len({one.shape for one in there}) > 1:
        raise MergeError(f"its {kind} statistics are not there for all models in one shape")
    return there


@dataclass(frozen=True, kw_only=True)
class Fisher:
    """sum(w_i F_i M_i) / sum(w_i F_i), F_i the diagonal Fisher information, at least `floor`.

    `normalize` divides each F_i first by its root mean square over the "model" (as if all models
    were equally sure on the whole) or over the "tensor", or not at all ("none"); `floor` is then in
    those units. Where no model has statistics for a tensor, the weighted mean.

    Source: Merging Models with Fisher-Weighted Averaging (Matena and Raffel, 2022).
    """

    name: ClassVar[str] = "fisher"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(
        models=(1, None), scope="model", statistics=("fisher",), widens=True
    )

    weights: tuple[float, ...] = ()
    floor: float = 1e-6
    normalize: str = "model"

    def __post_init__(self) -> None:
        check(self, floor=POSITIVE, weights=NOT_NEGATIVE)
        choice(self, "normalize", ("model", "tensor", "none"))

    @property
    def rounds(self) -> int:
        return int(self.normalize == "model")

    def survey(self, versions: Versions, so_far: Sums | None) -> Sums | None:
        found = present(versions, "fisher")
        if found is None or found[0].shape != versions.models[0].shape:
            return so_far
        sums, count = so_far or ((0.0,) * len(found), 0)
        more = _squares(versions)
        return tuple(a + b for a, b in zip(sums, more, strict=True)), count + found[0].numel()

    def conclude(self, so_far: Sums | None) -> tuple[float, ...]:
        """The root mean square of each model's information."""
        if so_far is None:
            return ()
        sums, count = so_far
        return tuple(math.sqrt(square / count) if count else 0.0 for square in sums)

    def merge(self, versions: Versions) -> Tensor:
        weights = shares("weights", self.weights, len(versions.models))
        found = present(versions, "fisher")
        if found is None:
            return assembled(versions, lambda part: combined(part.models, weights))
        if found[0].shape != versions.models[0].shape:
            raise MergeError("its fisher statistics have another shape than the tensor")
        factors = [1 / size if size else 1.0 for size in self._sizes(versions)]

        def merge(part: Versions) -> Tensor:
            above = torch.zeros_like(part.models[0])
            below = torch.zeros_like(above)
            for model, weight in enumerate(weights):
                sure = part.statistics["fisher"][model]
                if sure is None:
                    continue
                sure = (sure * factors[model]).clamp_(min=self.floor).mul_(weight)
                below += sure
                above += sure.mul_(part.models[model])
            return above.div_(below)

        return assembled(versions, merge)

    def _sizes(self, versions: Versions) -> list[float]:
        """What each model's information is divided by."""
        count = len(versions.models)
        if self.normalize == "none":
            return [1.0] * count
        if self.normalize == "model":
            return list(versions.gathered)
        size = max(1, versions.models[0].numel())
        return [math.sqrt(square / size) for square in _squares(versions)]


def _squares(versions: Versions) -> tuple[float, ...]:
    """The sum of squares of each model's information on one tensor."""
    sums = [0.0] * len(versions.models)
    for part in slices(versions):
        for model, sure in enumerate(part.statistics["fisher"]):
            if sure is not None:
                sums[model] += float(double(sure).square().sum())
    return tuple(sums)
