"""Parameters of strategies: JSON values, checked when the strategy is made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from typing_extensions import override

from git_theta.errors import MergeError, UsageError


@dataclass(frozen=True, slots=True)
class Bounds:
    """The values that a number may have; `ends` says which ends belong to them, as in "(]"."""

    low: float = -math.inf
    high: float = math.inf
    ends: str = "[]"

    def holds(self, value: float) -> bool:
        above = value > self.low if self.ends[0] == "(" else value >= self.low
        below = value < self.high if self.ends[1] == ")" else value <= self.high
        return above and below

    @override
    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{'greater than' if self.ends[0] == '(' else 'at least'} {self.low:g}"
        return f"in {self.ends[0]}{self.low:g}, {self.high:g}{self.ends[1]}"


SHARE = Bounds(0, 1, "(]")
UNIT = Bounds(0, 1)
POSITIVE = Bounds(0, ends="(]")
NOT_NEGATIVE = Bounds(0)
_ANY = Bounds()


def check(strategy: Any, **bounds: Bounds) -> None:
    """Check every field of a strategy by its annotation, and lists become tuples.

    Raises:
        UsageError: a value is of another type or out of bounds; the message names the field.
    """
    for field in fields(strategy):
        value = getattr(strategy, field.name)
        kinds = str(field.type).split(" | ")
        limits = bounds.get(field.name, _ANY)
        for kind in kinds:
            found = _READERS[kind](value, limits) if kind in _READERS else value
            if found is not None:
                object.__setattr__(strategy, field.name, found)
                break
        else:
            raise UsageError(
                f"{strategy.name}: {field.name} is {value!r}; it must be {_wanted(kinds, limits)}"
            )


def choice(strategy: Any, name: str, words: tuple[str, ...]) -> None:
    """Check a field that is one of a few words.

    Raises:
        UsageError: it is another.
    """
    value = getattr(strategy, name)
    if value not in words:
        raise UsageError(f"{strategy.name}: {name} is {value!r}", hint=f"set {', '.join(words)}")


def _number(value: Any, limits: Bounds) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) and limits.holds(value) else None


def _whole(value: Any, limits: Bounds) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if limits.holds(value) else None


def _truth(value: Any, limits: Bounds) -> bool | None:  # noqa: ARG001
    return value if isinstance(value, bool) else None


def _text(value: Any, limits: Bounds) -> str | None:  # noqa: ARG001
    return value if isinstance(value, str) else None


def _numbers(value: Any, limits: Bounds) -> tuple[float, ...] | None:
    if not isinstance(value, (list, tuple)):
        return None
    found = tuple(_number(item, limits) for item in value)
    return None if None in found else tuple(item for item in found if item is not None)


_READERS: dict[str, Callable[[Any, Bounds], Any]] = {
    "float": _number,
    "int": _whole,
    "bool": _truth,
    "str": _text,
    "tuple[float, ...]": _numbers,
}
_WORDS = {
    "float": "a finite number",
    "int": "a whole number",
    "bool": "true or false",
    "str": "text",
    "tuple[float, ...]": "a list of finite numbers, one for each model",
}


def _wanted(kinds: list[str], limits: Bounds) -> str:
    text = " or ".join(_WORDS[kind] for kind in kinds)
    return text if limits == _ANY else f"{text} {limits}"


def per_model(
    name: str, value: float | tuple[float, ...], count: int, *, default: float = 1.0
) -> list[float]:
    """One number for each model: as given, one for all, or the default for none.

    Raises:
        MergeError: there are as many as there are models neither in number nor one.
    """
    if not isinstance(value, tuple):
        return [value] * count
    if not value:
        return [default] * count
    if len(value) != count:
        raise MergeError(
            f"{name} has {len(value)} values for {count} models", hint=f"give {count} {name}"
        )
    return list(value)


def shares(name: str, value: tuple[float, ...], count: int) -> list[float]:
    """Weights that are divided by their sum.

    Raises:
        MergeError: their sum is zero, or they are not one for each model.
    """
    found = per_model(name, value, count)
    total = math.fsum(found)
    if abs(total) < 1e-12 * max(1.0, max(abs(item) for item in found)):
        raise MergeError(f"the {name} add up to zero, so they cannot be normalised")
    return [item / total for item in found]
