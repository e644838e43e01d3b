"""An ancestor and the models that came of it, compared: which version of a thing wins, if one does.

Works on anything that can be compared: tensors by their identity, texts, numbers. None stands for
"is not there". With two models this is Git's three-way merge; with more, models that left a thing
alone have no say, and those that changed it have to agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from git_theta.core.manifest import Tensor

T = TypeVar("T")
Identity = tuple[str, tuple[int, ...], int, tuple[int, ...] | None, str]


class Fate(Enum):
    """What became of one thing."""

    UNCHANGED = "unchanged"
    ONE = "changed on one side"
    AGREED = "changed alike"
    CHANGED = "changed differently"
    ADDED = "added differently"
    DELETED = "deleted and changed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a thing, and the model whose version wins (None: there is no such)."""

    fate: Fate
    winner: int | None

    @property
    def is_conflict(self) -> bool:
        """Whether no version wins."""
        return self.winner is None


def classify(base: T | None, models: Sequence[T | None]) -> Verdict:
    """Compare the versions of one thing; the winner of what nobody changed is the first model."""
    changed = [index for index, version in enumerate(models) if version != base]
    if not changed:
        return Verdict(Fate.UNCHANGED, 0)
    first = models[changed[0]]
    if all(models[index] == first for index in changed):
        fate = Fate.ONE if len(changed) == 1 else Fate.AGREED
        return Verdict(fate, changed[0])
    if base is None:
        return Verdict(Fate.ADDED, None)
    if any(models[index] is None for index in changed):
        return Verdict(Fate.DELETED, None)
    return Verdict(Fate.CHANGED, None)


def identity(tensor: Tensor | None) -> Identity | None:
    """What decides whether two tensors are equal; never where they are stored."""
    if tensor is None:
        return None
    return (tensor.dtype, tensor.shape, tensor.offset, tensor.strides, tensor.segment.digest)
