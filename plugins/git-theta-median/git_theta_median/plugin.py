"""The strategy: parameters are fields, needs are declared, `merge` is a function of one slice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from git_theta.core.strategy import Needs, Versions
from git_theta.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Median:
    """The median of the models, entry by entry; with `width`, the mean of the values around it.

    Of N sorted values those are averaged that lie within `width` / 2 of the middle: 0 is the
    median, 1 the mean. One model that is far off in an entry has no pull on it.
    """

    name: ClassVar[str] = "median"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(models=(2, None), scope="element")

    width: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.width, bool) or not 0 <= self.width <= 1:
            raise UsageError(f"median: width is {self.width!r}; it must be in [0, 1]")

    def merge(self, versions: Versions) -> Tensor:
        """Sort the models' values of each entry, and average the middle ones in order."""
        import torch

        ranked = torch.stack(versions.models).sort(0).values
        count = len(ranked)
        cut = min(int((1 - self.width) * count / 2), (count - 1) // 2)
        total = ranked[cut].clone()
        for values in ranked[cut + 1 : count - cut]:
            total += values
        return total.mul_(1 / (count - 2 * cut))
