"""What changed between two versions of a model, as their manifests tell it.

Equality is that of tensors: dtype, shape, view and bytes. Where a tensor lies in storage, and in
which file of a model cut into several, does not matter. A tensor that is the same under another
name was renamed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from git_theta.core.manifest import Tensor

ADDED, REMOVED, RENAMED = "added", "removed", "renamed"
RESHAPED, CAST, CHANGED = "reshaped", "cast", "changed"
PERMUTED = "permuted"
KINDS = (ADDED, REMOVED, RENAMED, RESHAPED, CAST, PERMUTED, CHANGED)

# How many of the last parts of two names are compared to tell which belong together.
_PARTS = 12
_DIGITS = re.compile(r"([0-9]{1,9})")

Known = TypeVar("Known", bound="Typed")


class Typed(Protocol):
    """What has a dtype and a shape."""

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One tensor that is not what it was. `old` or `new` is None where it was added or removed.

    `old_name` is what a renamed one was called.
    """

    name: str
    what: str
    old: Tensor | None
    new: Tensor | None
    old_name: str | None = None

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
    gone: dict[str, Tensor] = {}
    for name, before in old.items():
        after = new.get(name)
        if after is None:
            gone[name] = before
        elif before.same_as(after):
            unchanged.append(name)
        else:
            found.append(Change(name=name, what=what_became(before, after), old=before, new=after))
    come = {name: after for name, after in new.items() if name not in old}
    former = renames(gone, come, _is)
    for name, after in come.items():
        was = former.get(name)
        before_it = None if was is None else gone.pop(was)
        what = ADDED if was is None else RENAMED
        found.append(Change(name=name, what=what, old=before_it, new=after, old_name=was))
    found += [Change(name=n, what=REMOVED, old=before, new=None) for n, before in gone.items()]
    found.sort(key=_name)
    return Changes(changes=tuple(found), unchanged=tuple(unchanged))


def _is(tensor: Tensor) -> Hashable:
    """What a tensor is, as `same_as` has it."""
    digest = tensor.segment.digest
    return (digest, tensor.dtype, tensor.shape, tensor.offset, tensor.strides)


def renames(
    gone: Mapping[str, Known], come: Mapping[str, Known], what: Callable[[Known], Hashable]
) -> dict[str, str]:
    """Tensors that went and came back under another name: new name -> old name.

    `what` gives the same for the same tensor. Of several that are the same (norms that are all
    ones), those go together whose names end alike. Tensors without a value tell nothing.
    """
    if not gone or not come:
        return {}
    sides: dict[Hashable, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, tensors in enumerate((gone, come)):
        for name, tensor in tensors.items():
            if 0 not in tensor.shape:
                sides[what(tensor)][side].append(name)
    return {
        new: old
        for before, after in sides.values()
        if before and after
        for old, new in _matched(before, after)
    }


def _matched(old: Sequence[str], new: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Pair names, those first that have most of their last parts in common."""
    if len(old) == len(new) == 1:
        yield old[0], new[0]
        return
    left, asked = sorted(old, key=_natural, reverse=True), sorted(new, key=_natural)
    for parts in range(_PARTS, -1, -1):
        ends: dict[Hashable, list[str]] = defaultdict(list)
        for name in left:
            ends[_end(name, parts)].append(name)
        unmatched = []
        for name in asked:
            candidates = ends.get(_end(name, parts))
            if candidates:
                yield candidates.pop(), name
            else:
                unmatched.append(name)
        left = [name for names in ends.values() for name in names]
        left.sort(key=_natural, reverse=True)
        asked = unmatched


def _end(name: str, parts: int) -> Hashable:
    """The last parts of a name; a name that has fewer is like no other but itself."""
    found = name.rsplit(".", parts)[1:] if parts else []
    return tuple(found) if len(found) == parts else name


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(p), "") if _DIGITS.fullmatch(p) else (-1, p) for p in _DIGITS.split(name)]


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
