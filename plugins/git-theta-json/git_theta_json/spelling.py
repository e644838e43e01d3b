"""How programs write numbers: each spelling is a function of the value, known by a name.

The names go into skeletons and are a promise. A spelling that is a printf conversion is its own
name: `%.6f`. All others write the shortest digits that give the same double again, and differ in
where they use an exponent and how that looks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from git_theta.errors import CorruptError

Values = npt.NDArray[Any]

INTEGER = "integer"
PYTHON = "python"

_MANY = 100
_PRINTF = re.compile(r"%\.\d{1,2}[feEgG]")
_DIGITS = re.compile(r"-?(\d+)(?:\.(\d+))?(?:([eE])[-+]?\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shortest:
    """Shortest digits: in full from 10**low up to 10**high, with an exponent outside of that.

    `point` says that a whole number ends with ".0", `fraction` that digits before an exponent
    have a point, `plus` that a positive exponent has a sign; `width` is that of the exponent.
    """

    low: int
    high: int
    point: bool
    width: int = 1
    plus: bool = False
    mark: str = "e"
    fraction: bool = False


_SHORTEST = {
    "javascript": _Shortest(low=-6, high=21, point=False, plus=True),
    "jq": _Shortest(low=-4, high=16, point=False, width=2, plus=True),
    "rust": _Shortest(low=-5, high=16, point=True),
    "rust-4": _Shortest(low=-4, high=16, point=True),
    "c++": _Shortest(low=-4, high=15, point=True, width=2, plus=True),
    "java": _Shortest(low=-3, high=7, point=True, mark="E", fraction=True),
}

# Spellings in which no list of floats looks like one of integers, and no value is rounded.
POINTED = (PYTHON, *(name for name, how in _SHORTEST.items() if how.point))


def candidates(sample: Sequence[str]) -> Iterator[str]:
    """Spellings of floats that these numbers may be written in, the likeliest first."""
    yield PYTHON
    yield from _SHORTEST
    found = [match.groups("") for text in sample if (match := _DIGITS.fullmatch(text))]
    if not found:
        return
    places, longest = len(found[0][1]), max(len((a + b).lstrip("0")) for a, b, _ in found)
    if places < _MANY:
        yield f"%.{places}{found[0][2] or 'f'}"
    general = "G" if any(mark == "E" for _, _, mark in found) else "g"
    yield from (f"%.{digits}{general}" for digits in {longest, 6, 9, 15, 17} if digits < _MANY)


def spell(name: str, values: Values) -> list[str]:
    """Write numbers.

    Raises:
        CorruptError: there is no such spelling, or it cannot write one of the values.
    """
    if name == INTEGER and values.dtype.kind == "i":
        return list(map(str, values.tolist()))
    if values.dtype.kind != "f" or not np.isfinite(values).all():
        raise CorruptError(f"numbers that cannot be written as {name!r}")
    if name == PYTHON:
        return list(map(float.__repr__, values.tolist()))
    if name in _SHORTEST:
        return _shortest(_SHORTEST[name], values)
    if not _PRINTF.fullmatch(name):
        raise CorruptError(f"no spelling of numbers is called {name!r}")
    return [name % value for value in values.tolist()]


def keeps(name: str, blocks: Iterable[Values]) -> bool:
    """Whether floats written so are read as the same floats again, and not as integers."""
    if name in POINTED:
        return True
    rounds, floats = name not in _SHORTEST, False
    for block in blocks:
        texts = spell(name, block)
        if rounds and np.array(texts, float).tobytes() != block.tobytes():
            return False
        floats = floats or not all(map(_is_integer, texts))
        if floats and not rounds:
            return True
    return floats


def _is_integer(text: str) -> bool:
    if not text.lstrip("-").isdecimal():
        return False
    return str(int(text)) == text and -(2**63) <= int(text) < 2**63


def _shortest(how: _Shortest, values: Values) -> list[str]:
    texts = list(map(float.__repr__, values.tolist()))
    if not how.point:
        texts = [text[:-2] if text.endswith(".0") else text for text in texts]
    # Python's own limits are 1e-4 and 1e16; only beyond the nearer one can the two differ.
    size = np.abs(values)
    small, large = max(1e-4, 10.0**how.low), min(1e16, 10.0**how.high)
    for index in np.flatnonzero(((size < small) & (size > 0)) | (size >= large)).tolist():
        texts[index] = _respell(texts[index], how)
    return texts


def _respell(text: str, how: _Shortest) -> str:
    sign = "-" if text.startswith("-") else ""
    mantissa, _, power = text.lstrip("-").partition("e")
    whole, _, part = mantissa.partition(".")
    digits = whole + part
    exponent = int(power or 0) + len(whole) - 1 - (len(digits) - len(digits.lstrip("0")))
    digits = digits.strip("0")
    if not how.low <= exponent < how.high:
        rest = "." + (digits[1:] or "0") if digits[1:] or how.fraction else ""
        mark = "-" if exponent < 0 else "+" if how.plus else ""
        return f"{sign}{digits[0]}{rest}{how.mark}{mark}{abs(exponent):0{how.width}}"
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    part = digits[exponent + 1 :] or ("0" if how.point else "")
    return f"{sign}{digits[: exponent + 1]:0<{exponent + 1}}{'.' if part else ''}{part}"
