"""Model breadcrumbs: drop the largest and the smallest changes (Davari and Belilovsky, 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from git_theta.core.strategy import Needs, Versions
from git_theta.merges import selection
from git_theta.merges.blocks import assembled, deltas
from git_theta.merges.elect import TaskVectors
from git_theta.merges.parameters import SHARE, Bounds, per_model
from git_theta.merges.selection import Top
from git_theta.merges.ties import top

Band = tuple[Top | None, Top | None]


def _band(versions: Versions, model: int, density: float, gamma: float) -> Band:
    """The largest entries down to the smallest kept, and those of them that are too large."""
    size = versions.models[model].numel()
    kept = selection.count(density, size)
    outliers = min(int(gamma * size), size - kept)
    high = top(versions, model, outliers) if outliers else None
    return top(versions, model, outliers + kept), high


def _inside(change: Tensor, band: Band) -> Tensor:
    low, high = band
    sizes = change.abs()
    if low is not None:
        change *= low.keeps(sizes.clone())
    if high is not None:
        change *= high.keeps(sizes).neg_().add_(1)
    return change


@dataclass(frozen=True, kw_only=True)
class Breadcrumbs(TaskVectors):
    """B + scale * sum(w_i mask_i V_i): without the largest share `gamma` and the smallest.

    The share `density` in between is kept, at least one entry; where fewer than `gamma` are left
    to drop, all above are dropped. Of equal magnitudes those of lower index count as larger.

    Source: Model Breadcrumbs (Davari and Belilovsky, 2024).
    """

    name: ClassVar[str] = "breadcrumbs"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base="required", models=(1, None), scope="tensor", widens=True)
    elects: ClassVar[bool] = False

    density: float | tuple[float, ...] = 0.9
    gamma: float | tuple[float, ...] = 0.01

    @override
    def bounds(self) -> dict[str, Bounds]:
        return {"density": SHARE, "gamma": Bounds(0, 1, "[)")}

    def merge(self, versions: Versions) -> Tensor:
        count = len(versions.models)
        densities = per_model("density", self.density, count)
        gammas = per_model("gamma", self.gamma, count)
        bands = [
            _band(versions, model, density, gamma)
            if versions.models[model].numel()
            else (None, None)
            for model, (density, gamma) in enumerate(zip(densities, gammas, strict=True))
        ]

        def merge(part: Versions) -> Tensor:
            changes = [_inside(c, band) for c, band in zip(deltas(part), bands, strict=True)]
            return self.joined(part, changes)

        return assembled(versions, merge)


@dataclass(frozen=True, kw_only=True)
class BreadcrumbsTies(Breadcrumbs):
    """As breadcrumbs, but of each entry only the models of the stronger sign count, as in ties.

    Source: Model Breadcrumbs before TIES-Merging (Yadav et al., 2023).
    """

    name: ClassVar[str] = "breadcrumbs-ties"
    elects: ClassVar[bool] = True
