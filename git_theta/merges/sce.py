"""SCE: select entries of high variance, calculate weights from energy, erase the weaker sign."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from git_theta.core.strategy import Needs, Versions
from git_theta.merges import selection
from git_theta.merges.blocks import ancestor, assembled, deltas, slices
from git_theta.merges.elect import agreed
from git_theta.merges.inner import double
from git_theta.merges.parameters import SHARE, check
from git_theta.merges.selection import Top
from git_theta.merges.sums import combined


def _variances(versions: Versions) -> Iterator[Tensor]:
    for part in slices(versions):
        changes = torch.stack(deltas(part))
        yield changes.var(0, correction=0)


def _selected(part: Versions, best: Top | None) -> list[Tensor]:
    """The deltas of a slice where they differ most between the models."""
    changes = deltas(part)
    if best is not None:
        variance = torch.stack(changes).var(0, correction=0)
        kept = best.keeps(variance)
        for change in changes:
            change *= kept
    return changes


@dataclass(frozen=True, kw_only=True)
class Sce:
    """B + sum(w_i V_i) / sum(w_i) over the models of the stronger sign, w_i = mean(V_i^2).

    The stronger sign is that of sum(V_i); B where it is zero. Before that the share `select_topk`
    of the entries with the highest variance between the models is selected, among those with any.
    The weights are those of the whole tensor.

    Source: FuseChat (Wan et al., 2024).
    """

    name: ClassVar[str] = "sce"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base="required", models=(2, None), scope="tensor", widens=True)

    select_topk: float = 1.0

    def __post_init__(self) -> None:
        check(self, select_topk=SHARE)

    def merge(self, versions: Versions) -> Tensor:
        best = self._best(versions)
        energies = [0.0] * len(versions.models)
        first = None if best is None else replace(best)
        for part in slices(versions):
            for model, change in enumerate(_selected(part, first)):
                energies[model] += float(double(change).square_().sum())
        whole = math.fsum(energies)
        weights = [energy / whole for energy in energies] if whole else [1.0] * len(energies)

        def merge(part: Versions) -> Tensor:
            changes = _selected(part, best)
            votes = combined(changes, [1.0] * len(changes))
            total = agreed(changes, weights, normalize=True, votes=votes)
            return total.add_(ancestor(part))

        return assembled(versions, merge)

    def _best(self, versions: Versions) -> Top | None:
        if self.select_topk == 1:
            return None
        differing = sum(int((variance > 0).sum()) for variance in _variances(versions))
        if not differing:
            return None
        kept = selection.count(self.select_topk, differing)
        return selection.largest(lambda: _variances(versions), kept)
