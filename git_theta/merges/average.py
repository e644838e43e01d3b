"""The average of the models, plain or weighted: a soup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from git_theta.core.strategy import Needs, Versions
from git_theta.errors import MergeError
from git_theta.merges.sums import combined, mean

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Average:
    """The average of all models. Where all have the same number in an entry, that is the result.

    `weights` has one number for each model, ours first; none means equal weights. They are divided
    by their sum unless `normalize` is false.
    """

    name: ClassVar[str] = "average"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(models=(1, None), arrays=True)

    weights: tuple[float, ...] = ()
    normalize: bool = True

    def merge(self, versions: Versions) -> Tensor:
        """Sum of weight times model."""
        models = versions.models
        weights = self.weights or (1.0,) * len(models)
        if len(weights) != len(models):
            raise MergeError(f"{len(weights)} weights were given for {len(models)} models")
        total = sum(weights)
        if self.normalize and total == 0:
            raise MergeError("the weights add up to 0", hint="give others, or normalize=false")
        if not self.normalize:
            return combined(models, list(weights))
        return mean(models, [weight / total for weight in weights])
