"""The change that their side made to the ancestor, added to ours: a pick for weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from git_theta.core.strategy import Needs, Versions
from git_theta.errors import MergeError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """Ours plus `scale` times (theirs minus the ancestor). A scale of -1 takes a change back.

    With a scale of 1, an entry that one side alone changed is exactly as that side has it.
    """

    name: ClassVar[str] = "apply"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base="required", models=(2, 2), ordered=True)

    scale: float = 1.0

    def merge(self, versions: Versions) -> Tensor:
        """Ours with the change added."""
        ours, theirs = versions.models
        if versions.base is None:
            raise MergeError("there is no ancestor from which to tell the change")
        change = theirs - versions.base
        if self.scale != 1:
            change *= self.scale
            return change.add_(ours)
        change += ours
        return change.where(ours != versions.base, theirs)
