"""Which files stand for the same model on both sides: by path, by shards, by their tensors."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from git_theta.repo.raw_diff import ChangedFile, Entry

_SHARD = re.compile(r"-\d{1,6}-of-\d{1,6}(?=\.|\Z)")


@dataclass(eq=False)
class Model:
    """The files of one model on both sides; a path stands in both where it was changed in place."""

    name: str
    old: list[Entry] = field(default_factory=list)
    new: list[Entry] = field(default_factory=list)


def models(files: Iterable[ChangedFile]) -> list[Model]:
    """Changed files by the model that they are part of: shards of one model belong together."""
    found: dict[str, Model] = {}
    for file in files:
        name = _SHARD.sub("", file.path)
        model = found.setdefault(name, Model(name))
        if file.old is not None:
            model.old.append(file.old)
        if file.new is not None:
            model.new.append(file.new)
    return [found[name] for name in sorted(found)]


def paired(models: Sequence[Model], names: dict[str, frozenset[str]]) -> list[Model]:
    """Join models that went with models that came, where they have most of their tensors' names.

    `names` has the tensors' names of each path that was added or removed. So a model that was
    renamed, or written in another format, is compared with what it was.
    """
    gone = [model for model in models if not model.new]
    come = [model for model in models if not model.old]
    merged: dict[int, Model] = {}
    taken: set[int] = set()
    for before in gone:
        best = max(
            (other for other in come if id(other) not in taken),
            key=lambda other: _common(before, other, names),
            default=None,
        )
        if best is not None and _common(before, best, names) > 0.5:
            taken.add(id(best))
            merged[id(before)] = Model(best.name, before.old, best.new)
    kept = [merged.get(id(model), model) for model in models if id(model) not in taken]
    return sorted(kept, key=lambda model: model.name)


def _common(old: Model, new: Model, names: dict[str, frozenset[str]]) -> float:
    """The share of tensors' names that both have."""
    sides: dict[int, set[str]] = defaultdict(set)
    for side, entries in enumerate((old.old, new.new)):
        for entry in entries:
            sides[side] |= names.get(entry.path, frozenset())
    whole = sides[0] | sides[1]
    return len(sides[0] & sides[1]) / len(whole) if whole else 0.0
