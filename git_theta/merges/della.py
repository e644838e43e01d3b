"""DELLA: drop entries at random, small ones more likely (Deep et al., 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from git_theta.core.strategy import Needs, Versions
from git_theta.errors import UsageError
from git_theta.merges.blocks import assembled, by_rows, deltas, row_length
from git_theta.merges.dare import drawn
from git_theta.merges.elect import TaskVectors
from git_theta.merges.parameters import SHARE, Bounds, per_model


def ranks(magnitudes: Tensor) -> Tensor:
    """The place of each entry in its row from 0 (smallest) to 1; equal ones by index.

    In a row of one entry it is 1/2, so that the entry is kept with the mean probability.
    """
    rows, length = magnitudes.shape
    if length == 1:
        return torch.full_like(magnitudes, 0.5)
    order = magnitudes.argsort(dim=1, stable=True)
    steps = torch.arange(length, dtype=magnitudes.dtype, device=magnitudes.device)
    steps *= 1 / (length - 1)
    return torch.empty_like(magnitudes).scatter_(1, order, steps.expand(rows, length))


@dataclass(frozen=True, kw_only=True)
class DellaLinear(TaskVectors):
    """B + scale * sum(w_i mask_i V_i / p_i), mask_i true with probability p_i.

    p goes from density - epsilon for the smallest magnitude of a row to density + epsilon for the
    largest, by rank; with `rescale` false what is kept is not divided by it. A row is an entry of
    the first axis; a vector is one row. With density 1 nothing is dropped.

    Source: DELLA-Merging (Deep et al., 2024).
    """

    name: ClassVar[str] = "della-linear"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(
        base="required", models=(1, None), scope="tensor", seeded=True, widens=True
    )
    elects: ClassVar[bool] = False

    density: float | tuple[float, ...] = 0.5
    epsilon: float | tuple[float, ...] = 0.15
    rescale: bool = True
    seed: int = 0

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        count = max(len(each) for each in (_listed(self.density), _listed(self.epsilon)))
        densities = per_model("density", self.density, count)
        for density, epsilon in zip(
            densities, per_model("epsilon", self.epsilon, count), strict=True
        ):
            if density < 1 and not epsilon < min(density, 1 - density):
                raise UsageError(
                    f"{self.name}: epsilon is {epsilon:g} and density {density:g}; density - "
                    "epsilon must be above 0 and density + epsilon below 1"
                )

    @override
    def bounds(self) -> dict[str, Bounds]:
        return {"density": SHARE, "epsilon": Bounds(0, 0.5, "[)")}

    def merge(self, versions: Versions) -> Tensor:
        length = row_length(versions)
        densities = per_model("density", self.density, len(versions.models))
        epsilons = per_model("epsilon", self.epsilon, len(versions.models))

        def merge(part: Versions) -> Tensor:
            changes = deltas(part)
            for model, density in enumerate(densities):
                if density < 1:
                    keep = ranks(changes[model].view(-1, length).abs())
                    keep *= 2 * epsilons[model]
                    keep += density - epsilons[model]
                    self._thin(part, changes[model], model, keep.view(-1))
            return self.joined(part, changes)

        return assembled(versions, merge, lambda whole: by_rows(whole, length))

    def _thin(self, part: Versions, change: Tensor, model: int, keep: Tensor) -> None:
        """Drop entries of a delta, in place, by the probabilities to keep them."""
        draw = drawn(part, model, part.start, part.start + change.numel())
        change *= draw < keep
        if self.rescale:
            change /= keep


def _listed(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) and value else (0.0,)


@dataclass(frozen=True, kw_only=True)
class Della(DellaLinear):
    """As della-linear, but of each entry only the models of the stronger sign count, as in ties.

    Source: DELLA-Merging (Deep et al., 2024).
    """

    name: ClassVar[str] = "della"
    elects: ClassVar[bool] = True

    normalize: bool = True
