"""One version as it is: ours, theirs, or the ancestor's. Nothing is read or computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from git_theta.core.strategy import Needs, Versions
from git_theta.errors import MergeError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """Our version: that of the branch that is merged into."""

    name: ClassVar[str] = "ours"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(models=(1, None), ordered=True)
    takes: ClassVar[str] = "ours"

    def merge(self, versions: Versions) -> Tensor:
        """The first model."""
        return versions.models[0].clone()


@dataclass(frozen=True, slots=True, kw_only=True)
class Theirs:
    """Their version: that of the branch that is merged."""

    name: ClassVar[str] = "theirs"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(models=(2, 2), ordered=True)
    takes: ClassVar[str] = "theirs"

    def merge(self, versions: Versions) -> Tensor:
        """The second model."""
        return versions.models[1].clone()


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The ancestor's version, as if no side had changed it."""

    name: ClassVar[str] = "base"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base="required", models=(1, None))
    takes: ClassVar[str] = "base"

    def merge(self, versions: Versions) -> Tensor:
        """The ancestor."""
        if versions.base is None:
            raise MergeError("there is no common ancestor")
        return versions.base.clone()
