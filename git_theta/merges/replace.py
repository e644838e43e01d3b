"""Strategies that move the first model towards the second, where that says something."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from git_theta.core.strategy import Needs, Versions
from git_theta.merges.blocks import assembled, by_rows
from git_theta.merges.parameters import NOT_NEGATIVE, check
from git_theta.merges.selection import quantile

_LEAST = 1e-6


@dataclass(frozen=True, kw_only=True)
class NearSwap:
    """A + min(1, t / |A - C|) (C - A): entries nearer than `t` become C's, none moves further.

    A is the first model (ours), C the second; with t = 0 the result is A.

    Source: nearswap of model merging tools (Alchemonaut).
    """

    name: ClassVar[str] = "nearswap"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(models=(2, 2), ordered=True)

    t: float

    def __post_init__(self) -> None:
        check(self, t=NOT_NEGATIVE)

    def merge(self, versions: Versions) -> Tensor:
        first, second = versions.models
        apart = second - first
        weight = apart.abs().clamp_(min=_LEAST).reciprocal_()
        weight *= self.t
        weight.clamp_(max=1)
        weight *= apart
        return weight.add_(first)


@dataclass(frozen=True, kw_only=True)
class ArceeFusion:
    """The second model's entry where it says much more than the others, the first's elsewhere.

    An entry counts |C - A| k, with k the divergence of the row's softmax of C from that of A; C is
    taken where that is at least the median + 1.5 (third - first quartile) of the tensor. Quantiles
    are entries, the lower of two, and exact. A vector is one row.

    Source: arcee_fusion of model merging tools.
    """

    name: ClassVar[str] = "arcee-fusion"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(models=(2, 2), scope="tensor", ordered=True, widens=True)

    def __post_init__(self) -> None:
        check(self)

    def merge(self, versions: Versions) -> Tensor:
        length = versions.shape[-1] if versions.shape else 1
        size = versions.models[0].numel()

        def parts(whole: Versions) -> Iterator[Versions]:
            return by_rows(whole, length)

        def scores() -> Iterator[Tensor]:
            return (_importance(part, length) for part in parts(versions))

        if not size:
            return assembled(versions, lambda part: part.models[0])
        low, median, high = (quantile(scores, size, share) for share in (0.25, 0.5, 0.75))
        limit = median + 1.5 * (high - low)

        def merge(part: Versions) -> Tensor:
            first, second = part.models
            return second.where(_importance(part, length) >= limit, first)

        return assembled(versions, merge, parts)


def _importance(part: Versions, length: int) -> Tensor:
    """What each entry of some whole rows counts, flat."""
    first, second = (model.view(-1, length) for model in part.models)
    old, new = first.log_softmax(1), second.log_softmax(1)
    divergence = (new.exp() * (new - old)).sum(1, keepdim=True).clamp_(min=0)
    apart = (second - first).abs_()
    apart *= divergence
    return apart.view(-1)
