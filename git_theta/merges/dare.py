"""DARE: drop entries of a task vector at random, and make up for it (Yu et al., 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from git_theta.core.strategy import Needs, Versions
from git_theta.errors import MergeError
from git_theta.merges.blocks import ancestor
from git_theta.merges.elect import TaskVectors
from git_theta.merges.parameters import SHARE, Bounds, per_model


def drawn(versions: Versions, model: int, start: int, stop: int) -> Tensor:
    """Random numbers for entries of one model.

    Raises:
        MergeError: whoever merges gave no source of them.
    """
    if versions.uniform is None:
        raise MergeError("a strategy that draws random numbers was given none")
    return versions.uniform(model, start, stop)


def thinned(versions: Versions, densities: list[float], *, rescale: bool) -> list[Tensor]:
    """The deltas of a slice, each entry kept with the probability of its model's density.

    With `rescale` what is kept is divided by the density, so the expectation stays.
    """
    base = ancestor(versions)
    found = []
    for model, density in enumerate(densities):
        delta = versions.models[model] - base
        if density < 1:
            draw = drawn(versions, model, versions.start, versions.start + delta.numel())
            delta *= draw.to(delta.dtype).lt_(density).view(delta.shape)
            if rescale:
                delta *= 1 / density
        found.append(delta)
    return found


@dataclass(frozen=True, kw_only=True)
class DareLinear(TaskVectors):
    """B + scale * sum(w_i mask_i V_i / density), mask_i true with probability `density`.

    With `rescale` false what is kept is not divided by the density.

    Source: Language Models are Super Mario (Yu et al., 2024).
    """

    name: ClassVar[str] = "dare-linear"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base="required", models=(1, None), seeded=True)
    elects: ClassVar[bool] = False

    density: float | tuple[float, ...] = 0.5
    rescale: bool = True
    seed: int = 0

    @override
    def bounds(self) -> dict[str, Bounds]:
        return {"density": SHARE}

    def merge(self, versions: Versions) -> Tensor:
        densities = per_model("density", self.density, len(versions.models))
        return self.joined(versions, thinned(versions, densities, rescale=self.rescale))


@dataclass(frozen=True, kw_only=True)
class DareTies(DareLinear):
    """As dare-linear, but of each entry only the models of the stronger sign count, as in ties.

    Source: DARE (Yu et al., 2024) before TIES-Merging (Yadav et al., 2023).
    """

    name: ClassVar[str] = "dare-ties"
    elects: ClassVar[bool] = True
