"""TIES: trim small changes, elect a sign, merge those that agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from git_theta.core.strategy import Needs, Versions
from git_theta.merges import selection
from git_theta.merges.blocks import ancestor, assembled, deltas, slices
from git_theta.merges.elect import TaskVectors
from git_theta.merges.parameters import SHARE, Bounds, per_model
from git_theta.merges.selection import Top


def magnitudes(versions: Versions, model: int) -> Iterator[Tensor]:
    """The blocks of one model's delta, without signs."""
    one = Versions(
        name=versions.name,
        shape=versions.shape,
        models=(versions.models[model],),
        base=ancestor(versions),
    )
    for part in slices(one):
        yield deltas(part)[0].abs_()


def top(versions: Versions, model: int, kept: int) -> Top | None:
    """The entries of largest magnitude of one model's delta; None where that is all."""
    if kept >= versions.models[model].numel():
        return None
    return selection.largest(lambda: magnitudes(versions, model), kept)


def trimmed(part: Versions, tops: list[Top | None]) -> list[Tensor]:
    """The deltas of a block, zero where they are not among the largest of their model."""
    changes = deltas(part)
    for change, best in zip(changes, tops, strict=True):
        if best is not None:
            change *= best.keeps(change.abs())
    return changes


@dataclass(frozen=True, kw_only=True)
class Ties(TaskVectors):
    """Keep of each V_i the share `density` of largest magnitude, elect a sign, B + scale * mean.

    The sign of an entry is that of sum(w_i V_i); the entry is the weighted mean (`normalize`) or
    sum of those of that sign, and B where both signs weigh the same. Each tensor is trimmed on its
    own; at least one entry is kept, and of equal magnitudes those of lower index.

    Source: TIES-Merging (Yadav et al., 2023), with the trimming per tensor of later tools.
    """

    name: ClassVar[str] = "ties"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base="required", models=(1, None), scope="tensor", widens=True)
    elects: ClassVar[bool] = True

    density: float | tuple[float, ...] = 0.2
    normalize: bool = True

    @override
    def bounds(self) -> dict[str, Bounds]:
        return {"density": SHARE}

    def merge(self, versions: Versions) -> Tensor:
        size = versions.models[0].numel()
        densities = per_model("density", self.density, len(versions.models))
        tops = [
            top(versions, model, selection.count(density, size))
            for model, density in enumerate(densities)
        ]
        return assembled(versions, lambda part: self.joined(part, trimmed(part, tops)))
