"""What a checkpoint holds beside its tensors (metadata, configuration, scalars), as text."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from git_theta import registry
from git_theta.commands.model_versions import Source, Version
from git_theta.core import skeleton as skeletons
from git_theta.core.skeleton import SkeletonReader
from git_theta.errors import ThetaError

_LONG = 400
_MOST = 200_000


def compare(old: Version, new: Version) -> list[str]:
    """Lines of a diff of what is no tensor: `-key: value`, `+key: value`."""
    if _same(old, new):
        return []
    before, after = _lines(old), _lines(new)
    if before is None or after is None:
        return ["?data that are no tensors changed; they are not here, or have no text"]
    if before == after:
        return []
    if len(before) + len(after) > _MOST:
        return ["?data that are no tensors changed"]
    found = difflib.unified_diff(before, after, lineterm="", n=0)
    return [line for line in found if not line.startswith(("---", "+++", "@@"))]


def _same(old: Version, new: Version) -> bool:
    sides = [[f.source.manifest.skeleton.digest for f in side.files] for side in (old, new)]
    return sides[0] == sides[1]


def _lines(version: Version) -> list[str] | None:
    found: dict[str, str] = {}
    for file in version.files:
        described = describe(file.source)
        if described is None:
            return None
        found |= described
    return [f"{key}: {value}" for key, value in sorted(found.items())]


def describe(source: Source) -> dict[str, str] | None:
    """The data of one file that are no tensors, for people: name -> the begin of its text."""
    found = texts(source)
    return None if found is None else {name: text[:_LONG] for name, text in found.items()}


def texts(source: Source) -> dict[str, str] | None:
    """The data of one file that are no tensors: name -> text, or None where that is not known."""
    plain = source.skeleton()
    manifest = source.manifest
    if plain is None:
        return None
    try:
        plugin = registry.load("formats", manifest.format)
        skeleton = skeletons.unpack(plain)
        told = getattr(plugin, "describe", None)
        if told is None:
            return None
        if skeleton.runs is None:
            items: Iterable[tuple[str, Any]] = told(skeleton.data)
        else:
            segments = skeletons.ordered_segments(manifest, skeleton.order)
            items = told(SkeletonReader(skeleton, [segment.size for segment in segments]))
        return dict(items)
    except ThetaError:
        return None
