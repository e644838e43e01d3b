"""Two manifests compared line by line, without reading what is the same in both.

A history has thousands of manifests that differ in a few lines each; only those are parsed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from git_theta.core.changes import RENAMED, renames, what_became
from git_theta.core.manifest import PREFIX, Place, is_manifest, is_oid
from git_theta.errors import ManifestError

_OBJECTS, _TENSORS = b'\n"objects": {\n', b'\n},\n"tensors": {\n'
_SEGMENTS, _EMPTY = b'\n},\n"segments": {', b'\n"tensors": {\n}'
_PLACE = re.compile(r"([0-9a-f]{16}):([0-9]{1,16})\+([0-9]{1,16})")
_RECIPE = b'\n"recipe": {'


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """The lines of one manifest that say what its tensors and its objects are."""

    tensors: frozenset[bytes]
    objects: frozenset[bytes]
    merged: bool


@dataclass(frozen=True, slots=True)
class Identity:
    """What a tensor is, as its line tells it; equal ones are the same tensor."""

    dtype: str
    shape: tuple[int, ...]
    digest: str
    view: tuple[Any, ...]
    summaries: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one manifest did to another: tensor -> kind of change; bytes of objects it brought.

    `renamed` maps new names to old ones. `summaries` are where the summaries of the changed chunks
    lie, before and after; `sizes` are those of the objects that hold them.
    """

    changes: dict[str, str]
    renamed: dict[str, str]
    stored: int
    summaries: tuple[tuple[Place, Place], ...]
    sizes: dict[str, int]


def read_lines(text: bytes) -> Lines:
    """Cut a manifest into its lines.

    Raises:
        ManifestError: the text is no manifest, or not laid out like one.
    """
    start, (first, end) = text.find(_OBJECTS), tensor_section(text)
    merged = text.find(_RECIPE, 0, start) >= 0
    if first == end:
        return Lines(frozenset(), frozenset(), merged)
    objects = text[start + len(_OBJECTS) : first - len(_TENSORS)]
    return Lines(frozenset(cut(text[first:end])), frozenset(cut(objects)), merged)


def tensor_section(text: bytes) -> tuple[int, int]:
    """Where the lines of the tensors begin and end; nowhere where there are none.

    Raises:
        ManifestError: the text is no manifest, or not laid out like one.
    """
    start, end = text.find(_OBJECTS), text.find(_SEGMENTS)
    middle = text.find(_TENSORS, start)
    if not is_manifest(text) or start < 0 or end < 0:
        raise ManifestError("not a git-theta manifest")
    if middle < 0 or middle > end:
        if text.find(_EMPTY, start) < 0:
            raise ManifestError("the manifest is not laid out as one")
        return end, end
    return middle + len(_TENSORS), end


def cut(section: bytes) -> list[bytes]:
    """Lines without the commas between them."""
    return section.split(b",\n")


def tensors_of(lines: Iterable[bytes]) -> dict[str, Identity]:
    """The tensors that some lines name.

    Raises:
        ManifestError: a line is damaged.
    """
    try:
        raw = json.loads(b"{" + b",".join(lines) + b"}")
        return {name: _identity(entry) for name, entry in raw.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ManifestError(f"the manifest is damaged: {error!r}") from error


def _identity(entry: dict[str, Any]) -> Identity:
    # A shared segment is named by the first digits of its digest.
    digest = str(entry.get("digest") or entry["segment"])[:16]
    view = (entry.get("offset", 0), tuple(entry.get("strides", ())))
    chunks = entry.get("chunks", (entry,))
    summaries = tuple(str(chunk["summary"]) for chunk in chunks if "summary" in chunk)
    return Identity(str(entry["dtype"]), tuple(entry["shape"]), digest, view, summaries)


def origins(old: Lines, new: Lines) -> dict[str, str | None]:
    """The names of the new manifest that are not the same tensor in the old one.

    Each with the name that the same tensor had there, or None where there is no such tensor.
    """
    before, after = tensors_of(old.tensors - new.tensors), tensors_of(new.tensors - old.tensors)
    former = _renames(before, after)
    return {n: former.get(n) for n, found in after.items() if before.get(n) != found}


def _renames(before: dict[str, Identity], after: dict[str, Identity]) -> dict[str, str]:
    gone = {name: tensor for name, tensor in before.items() if name not in after}
    come = {name: tensor for name, tensor in after.items() if name not in before}
    return renames(gone, come, _itself)


def _itself(tensor: Identity) -> Identity:
    return tensor


def step(old: Lines | None, new: Lines | None, *, summaries: bool = False) -> Step:
    """What happened between two manifests; None is a manifest that is not there.

    Where the summaries lie is found only where that is asked for.
    """
    lines = [side.tensors if side is not None else frozenset() for side in (old, new)]
    before, after = tensors_of(lines[0] - lines[1]), tensors_of(lines[1] - lines[0])
    former = _renames(before, after)
    moved = set(former.values())
    changes = {}
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name), after.get(name)
        if one != other and name not in moved:
            changes[name] = RENAMED if name in former else what_became(one, other)
    brought = set(new.objects if new else ()) - set(old.objects if old else ())
    places = _summaries(old, new, before, after) if summaries and old and new else ()
    named = {place.oid for pair in places for place in pair}
    lines_of = (old.objects | new.objects) if named and old and new else ()
    return Step(
        changes=changes,
        renamed=former,
        stored=sum(_size(line) for line in brought),
        summaries=places,
        sizes={oid: _size(line) for line in lines_of if (oid := _oid(line)) in named},
    )


def _summaries(
    old: Lines, new: Lines, before: dict[str, Identity], after: dict[str, Identity]
) -> tuple[tuple[Place, Place], ...]:
    """Where to find what tells how far the tensors moved that both sides have."""
    found: list[tuple[Place, Place]] = []
    named = (_oid(line) for line in old.objects | new.objects)
    oids = {oid[:PREFIX]: oid for oid in named if is_oid(oid)}
    for name, one in before.items():
        other = after.get(name)
        if other is None or one == other or len(one.summaries) != len(other.summaries):
            continue
        for place, there in zip(one.summaries, other.summaries, strict=True):
            ends = _place(place, oids), _place(there, oids)
            if place != there and ends[0] is not None and ends[1] is not None:
                found.append((ends[0], ends[1]))
    return tuple(found)


def _oid(line: bytes) -> str:
    return line[1 : line.find(b'"', 1)].decode(errors="replace")


def _place(text: str, oids: dict[str, str]) -> Place | None:
    match = _PLACE.fullmatch(text)
    oid = oids.get(match[1]) if match else None
    return Place(oid, int(match[2]), int(match[3])) if match and oid else None


def _size(line: bytes) -> int:
    number = line.rpartition(b":")[2].strip()
    return int(number) if number.isdigit() and len(number) < 20 else 0
