"""Names of numbered blocks written as one: `layers.0-11.attn.q_proj` for twelve tensors.

Only blocks that differ in one number are joined, and only where the caller finds their tensors
alike; siblings never are. A joined name covers exactly the tensors that were given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")

_NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,8})\Z")
_NEAR = 2.0
_CUT = re.compile(r"([./])")


@dataclass(frozen=True, slots=True)
class Folded(Generic[Item]):
    """One name for one or more items."""

    name: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class _Entry(Generic[Item]):
    parts: tuple[str, ...]
    numbered: tuple[bool, ...]
    items: tuple[Item, ...]
    low: float
    high: float


def module_of(name: str) -> str:
    """The part of a model that a tensor belongs to: what stands before the first number.

    Without a number it is all but the last part of the name, at most two parts.
    """
    parts = _CUT.split(name)
    words = parts[::2]
    for index, word in enumerate(words):
        if _NUMBER.match(word) and index:
            return "".join(parts[: 2 * index - 1])
    return "".join(parts[: 2 * max(1, min(2, len(words) - 1)) - 1])


def block_of(name: str) -> tuple[int | None, str]:
    """The number of the first numbered block of a name, and the name without what is before it."""
    parts = _CUT.split(name)
    for index in range(2, len(parts), 2):
        if _NUMBER.match(parts[index]):
            return int(parts[index]), "".join(parts[index + 2 :])
    return None, name


def fold(
    items: Iterable[Item],
    name: Callable[[Item], str],
    alike: Callable[[Item], Hashable],
    size: Callable[[Item], float | None] = lambda _: None,
) -> list[Folded[Item]]:
    """Join the names of numbered blocks.

    Items can be joined where `alike` gives the same for all, and the largest `size` is at most
    twice the smallest.
    """
    given = tuple(items)
    if len(given) == 1:
        return [Folded(name(given[0]), given)]
    entries = []
    for item in given:
        parts = tuple(_CUT.split(name(item)))
        numbered = tuple(map(_is_number, parts))
        entries.append(_Entry(parts, numbered, (item,), *_ends(size(item))))
    deepest = max((len(entry.parts) for entry in entries), default=0)
    for place in range(deepest - 1, -1, -1):
        entries = _fold_at(entries, place, alike)
    return [Folded("".join(entry.parts), entry.items) for entry in entries]


def renamed_like(old: str, new: str) -> Hashable:
    """What must be the same for renamed tensors to share a line: the old name but its numbers.

    Only where both names have the same numbers; else a rename is like no other.
    """
    parts = _CUT.split(old)
    if _numbers(parts) != _numbers(_CUT.split(new)):
        return old
    return tuple(None if _is_number(part) else part for part in parts)


def joined_old_name(joined: str, old: str, new: str) -> str:
    """The old names of renamed tensors that share a line, written as one, as their new names are.

    `old` and `new` are the names of one of them.
    """
    parts, places = _CUT.split(old), _CUT.split(new)
    if joined == new or _numbers(parts) != _numbers(places):
        return old
    ranges = iter(
        text for text, part in zip(_CUT.split(joined), places, strict=True) if _is_number(part)
    )
    return "".join(next(ranges) if _is_number(part) else part for part in parts)


def _numbers(parts: Sequence[str]) -> list[str]:
    return [part for part in parts if _is_number(part)]


def _is_number(part: str) -> bool:
    return _NUMBER.match(part) is not None


def _fold_at(
    entries: list[_Entry[Item]],
    place: int,
    alike: Callable[[Item], Hashable],
) -> list[_Entry[Item]]:
    """Join entries that differ in the number at one place of their names."""
    groups: dict[Hashable, list[_Entry[Item]]] = {}
    for index, entry in enumerate(entries):
        key: Hashable = index
        if place < len(entry.parts) and entry.numbered[place]:
            rest = (entry.parts[:place], entry.parts[place + 1 :], entry.numbered[:place])
            key = (rest, alike(entry.items[0]))
        groups.setdefault(key, []).append(entry)
    found: list[_Entry[Item]] = []
    for group in groups.values():
        found += group if len(group) == 1 else _joined(group, place)
    return found


def _joined(group: list[_Entry[Item]], place: int) -> list[_Entry[Item]]:
    found: list[_Entry[Item]] = []
    run: list[_Entry[Item]] = []
    low = high = 0.0
    for entry in sorted(group, key=lambda entry: int(entry.parts[place])):
        if run and max(high, entry.high) > _NEAR * min(low, entry.low):
            found.append(_one(run, place))
            run = []
        low, high = (min(low, entry.low), max(high, entry.high)) if run else (entry.low, entry.high)
        run.append(entry)
    return [*found, _one(run, place)]


def _one(run: list[_Entry[Item]], place: int) -> _Entry[Item]:
    first = run[0]
    if len(run) == 1:
        return first
    text = _ranges([int(entry.parts[place]) for entry in run])
    parts = (*first.parts[:place], text, *first.parts[place + 1 :])
    numbered = (*first.numbered[:place], False, *first.numbered[place + 1 :])
    items = tuple(item for entry in run for item in entry.items)
    low, high = min(entry.low for entry in run), max(entry.high for entry in run)
    return _Entry(parts, numbered, items, low, high)


def _ends(size: float | None) -> tuple[float, float]:
    """The smallest and the largest size of one item; an unknown one is like any other."""
    return (1.0, 1.0) if size is None else (size, size)


def _ranges(numbers: Sequence[int]) -> str:
    """`0-3,7` for 0, 1, 2, 3, 7."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    return ",".join("-".join(map(str, run)) for run in found)
