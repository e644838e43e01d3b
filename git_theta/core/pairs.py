"""Two manifests read to be compared: the lines that both have are set aside, unread.

Two versions of a model share most of their lines, and a line is all of what a tensor is.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from git_theta.core.lines import cut, tensor_section
from git_theta.core.manifest import Manifest, parse
from git_theta.errors import ManifestError

# With fewer lines in common, finding them costs as much as reading them.
FEW = 500

_SKELETON = re.compile(rb'\n"skeleton": \{"digest":"([0-9a-f]{64})"')
_HEAD = 1 << 16


class ManifestPair(NamedTuple):
    """Two manifests without the tensors that are the same in both, and the names of those."""

    old: Manifest
    new: Manifest
    same: tuple[str, ...]


def parse_pair(old: bytes, new: bytes) -> ManifestPair:
    """Read two manifests to compare them.

    Nothing is set aside where an update builds on such a line, where only all tensors together
    tell one file from another, or where what is no tensor changed: to read that may take them all.

    Raises:
        ManifestError: as `parse`.
    """
    try:
        if _skeleton(old) != _skeleton(new):
            return ManifestPair(parse(old), parse(new), ())
        ends = tensor_section(old), tensor_section(new)
        sides = [cut(text[a:b]) for text, (a, b) in zip((old, new), ends, strict=True)]
        there = frozenset(sides[1])
        common = [line for line in sides[0] if line in there and _is_one_tensor(line)]
        names = _names(common)
        if len(common) >= FEW and len(set(names)) == len(common):
            before, after = _without(old, ends[0], common), _without(new, ends[1], common)
            found = ManifestPair(parse(before), parse(after), tuple(names))
            if _is_sound(found):
                return found
    except ManifestError:
        pass  # `parse` says what is wrong, if anything, with the texts as they are
    return ManifestPair(parse(old), parse(new), ())


def _skeleton(text: bytes) -> bytes | None:
    found = _SKELETON.search(text, 0, _HEAD)
    return found[1] if found else None


def _is_sound(found: ManifestPair) -> bool:
    """Whether no tensor has two lines, and both files are known by their digests."""
    names = set(found.same)
    return all(m.digest and names.isdisjoint(m.tensors) for m in (found.old, found.new))


def _is_one_tensor(line: bytes) -> bool:
    """Whether a line is one entry, with one brace in it and a digest of its own."""
    return line.count(b"{") == 1 and line[-1:] == b"}" and b'": {' in line and b'"digest":"' in line


def _names(lines: list[bytes]) -> list[str]:
    heads = b",".join([line[: line.index(b'": {') + 1] for line in lines])
    try:
        names: list[str] = json.loads(b"[" + heads + b"]")
    except ValueError:
        return []
    return names


def _without(text: bytes, ends: tuple[int, int], lines: list[bytes]) -> bytes:
    start, end = ends
    gone = frozenset(lines)
    rest = b",\n".join([line for line in cut(text[start:end]) if line not in gone])
    # Without a line there is no end of one either.
    return text[: start if rest else start - 1] + rest + text[end:]
