"""What changed between two versions of a model, as their manifests tell it.

Equality is that of tensors: dtype, shape, view and bytes. Where a tensor lies in storage, and in
which file of a model cut into several, does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from git_theta.core.manifest import Tensor

ADDED, REMOVED = "added", "removed"
RESHAPED, CAST, CHANGED = "reshaped", "cast", "changed"
PERMUTED = "permuted"
KINDS = (ADDED, REMOVED, RESHAPED, CAST, PERMUTED, CHANGED)


class Typed(Protocol):
    """What has a dtype and a shape."""

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One tensor that is not what it was. `old` or `new` is None where it was added or removed."""

    name: str
    what: str
    old: Tensor | None
    new: Tensor | None

    @property
    def tensor(self) -> Tensor:
        """The tensor as it is now, or as it last was."""
        found = self.old if self.new is None else self.new
        assert found is not None, "a change has at least one side"  # noqa: S101
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """All tensors that differ, by name, and the names of those that do not."""

    changes: tuple[Change, ...]
    unchanged: tuple[str, ...]


def compare(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> Changes:
    """Compare two versions of a model tensor by tensor."""
    found, unchanged = [], []
    for name, before in old.items():
        after = new.get(name)
        if after is not None and before.same_as(after):
            unchanged.append(name)
        else:
            found.append(Change(name=name, what=what_became(before, after), old=before, new=after))
    found += [
        Change(name=name, what=ADDED, old=None, new=after)
        for name, after in new.items()
        if name not in old
    ]
    found.sort(key=_name)
    return Changes(changes=tuple(found), unchanged=tuple(unchanged))


def _name(change: Change) -> str:
    return change.name


def what_became(old: Typed | None, new: Typed | None) -> str:
    """The kind of a change, from dtypes and shapes; for tensors that are known to differ."""
    if old is None:
        return ADDED
    if new is None:
        return REMOVED
    if old.shape != new.shape:
        return RESHAPED
    return CAST if old.dtype != new.dtype else CHANGED
