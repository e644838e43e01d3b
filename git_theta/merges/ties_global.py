"""TIES with one threshold for the whole model, found in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from git_theta.core.strategy import Needs, Versions
from git_theta.errors import MergeError
from git_theta.merges import selection
from git_theta.merges.blocks import assembled, slices
from git_theta.merges.elect import TaskVectors, added
from git_theta.merges.parameters import SHARE, Bounds, per_model
from git_theta.merges.selection import Top
from git_theta.merges.ties import magnitudes, trimmed


@dataclass(slots=True)
class Search:
    """What is known of the whole model after some digits of the thresholds.

    `tops` has one for each model once all digits are known; `spare` has, for each tensor, how many
    entries equal to the threshold were still to be had when it came. `votes` is how many more
    entries elect plus than minus.
    """

    level: int
    size: int = 0
    prefixes: list[int] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    bins: list[Tensor] = field(default_factory=list)
    tops: list[Top] = field(default_factory=list)
    spare: dict[str, list[int]] = field(default_factory=dict)
    votes: int = 0


@dataclass(frozen=True, kw_only=True)
class TiesGlobal(TaskVectors):
    """TIES as its paper has it: `density` counts over the whole model, not over each tensor.

    The whole model is every tensor that any of the models changed. Where both signs of an entry
    weigh the same, the sign that more entries of the model have is taken. The threshold is exact:
    two looks at each tensor find it digit by digit, a third one puts entries equal to it in order,
    by name of tensor and index. Magnitudes are compared in float32.

    Source: TIES-Merging (Yadav et al., 2023).
    """

    name: ClassVar[str] = "ties-global"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(
        base="required", models=(1, None), scope="model", every=True, widens=True
    )

    elects: ClassVar[bool] = True

    density: float | tuple[float, ...] = 0.2
    normalize: bool = True

    @override
    def bounds(self) -> dict[str, Bounds]:
        return {"density": SHARE}

    @property
    def rounds(self) -> int:
        return 3

    def survey(self, versions: Versions, so_far: Search | None) -> Search:
        before = versions.gathered
        if before is None:
            return self._count(versions, so_far or Search(level=0))
        if not before.tops:
            found = so_far or Search(
                level=1, size=before.size, prefixes=before.prefixes, left=before.left
            )
            return self._count(versions, found)
        return self._vote(versions, so_far or Search(level=2, tops=_fresh(before.tops)))

    def _count(self, versions: Versions, search: Search) -> Search:
        """Add a tensor to the histograms of the digit that is searched."""
        count = len(versions.models)
        if not search.bins:
            search.bins = [torch.zeros(selection.BINS, dtype=torch.int64) for _ in range(count)]
        if search.level == 0:
            search.size += versions.models[0].numel()
        for model, bins in enumerate(search.bins):
            prefix = search.prefixes[model] if search.prefixes else 0
            for block in magnitudes(versions, model):
                bins += selection.histogram(block.float(), prefix, search.level).cpu()
        return search

    def _vote(self, versions: Versions, search: Search) -> Search:
        """Note what a tensor finds left of the entries equal to the thresholds, and its signs."""
        search.spare[versions.name] = [top.spare for top in search.tops]
        weights = per_model("weights", self.weights, len(versions.models))
        for part in slices(versions):
            total = added(trimmed(part, list(search.tops)), weights, normalize=False)
            search.votes += int((total > 0).sum()) - int((total < 0).sum())
        return search

    def conclude(self, so_far: Search | None) -> Search:
        if so_far is None or so_far.level == 2:
            return so_far or Search(level=2)
        if so_far.level == 0:
            each = per_model("density", self.density, len(so_far.bins))
            so_far.left = [selection.count(share, so_far.size) for share in each]
            so_far.prefixes = [0] * len(so_far.bins)
        equal = []
        for model, bins in enumerate(so_far.bins):
            digit, left = selection.descend(bins, so_far.left[model]) if so_far.size else (0, 0)
            so_far.prefixes[model] = so_far.prefixes[model] * selection.BINS + digit
            so_far.left[model] = left
            equal.append(int(bins[digit]))
        if so_far.level == 1:
            so_far.tops = [
                Top(selection.magnitude(bits, torch.float32), left, left == same)
                for bits, left, same in zip(so_far.prefixes, so_far.left, equal, strict=True)
            ]
        so_far.bins = []
        return so_far

    def merge(self, versions: Versions) -> Tensor:
        search = versions.gathered
        if search is None or versions.name not in search.spare:
            raise MergeError("the threshold was found without this tensor")
        tops: list[Top | None] = [
            Top(best.value, spare, best.whole)
            for best, spare in zip(search.tops, search.spare[versions.name], strict=True)
        ]
        return assembled(
            versions, lambda part: self.joined(part, trimmed(part, tops), sign=search.votes)
        )


def _fresh(tops: list[Top]) -> list[Top]:
    return [Top(top.value, top.spare, top.whole) for top in tops]
