"""The text of one list of numbers, taken apart and written again."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from git_theta.errors import CorruptError
from git_theta_json.spelling import INTEGER, PYTHON, Values, candidates, keeps, spell

MAX_DIMENSIONS = 16
DTYPES = {"I64": np.dtype("<i8"), "F64": np.dtype("<f8")}

_BLOCK = 1 << 16
_SAMPLE = 2048
_WHITE = b" \t\r\n"
_OPEN = re.compile(rb"\[[ \t\r\n]*")
_GAP = rb"([ \t\r\n]*,[ \t\r\n]*)"
_CLOSE = rb"[ \t\r\n]*\]"


@dataclass(frozen=True, slots=True)
class Style:
    """How a list is written: the spelling of its numbers, and the text around them by depth.

    Each depth has the text that opens a list, stands between two items, and closes the list.
    """

    spelling: str
    depths: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Numbers:
    """A list of numbers: its style, its shape, and its values in C order."""

    style: Style
    shape: tuple[int, ...]
    values: Values

    @property
    def dtype(self) -> str:
        """The name of the dtype."""
        return "I64" if self.values.dtype.kind == "i" else "F64"


def read(text: bytes, lists: Sequence[int]) -> Numbers | None:
    """Take a list apart, or return None where it could not be written again exactly.

    `lists` counts the lists at each depth, beginning with the outermost one.
    """
    flat = text.translate(None, b"[]" + _WHITE)
    counts = [*lists, flat.count(b",") + 1]
    steps = list(itertools.pairwise(counts))
    if len(lists) > MAX_DIMENSIONS or any(inner % outer for outer, inner in steps):
        return None
    shape = tuple(inner // outer for outer, inner in steps)
    depths = _depths(text, shape)
    if depths is None:
        return None
    for values, spellings in _readings(flat, counts[-1]):
        for spelling in spellings:
            found = Numbers(Style(spelling, depths), shape, values)
            if _gives(found, text):
                return found
    return None


def _readings(flat: bytes, count: int) -> Iterator[tuple[Values, Iterable[str]]]:
    """The values as integers and as floats, each with the spellings that fit the first ones."""
    head = flat if len(flat) <= _SAMPLE else flat[: flat.rfind(b",", 0, _SAMPLE)]
    texts = head.decode("ascii").split(",")
    if not any(mark in flat for mark in b".eE"):
        values = _values(flat, count, "I64")
        if values is not None:
            yield values, [INTEGER]
    values = _values(flat, count, "F64")
    if values is not None and np.isfinite(values).all():
        first = values[: len(texts)]
        yield values, (name for name in candidates(texts) if spell(name, first) == texts)


def _values(flat: bytes, count: int, dtype: str) -> Values | None:
    values = np.empty(count, DTYPES[dtype])
    number = int if dtype == "I64" else float
    start = done = 0
    try:
        while start < len(flat):
            end = flat.find(b",", start + (1 << 20))
            end = len(flat) if end < 0 else end
            part = [number(text) for text in flat[start:end].split(b",")]
            values[done : done + len(part)] = part
            done += len(part)
            start = end + 1
    except (ValueError, OverflowError):
        return None
    return values if done == count else None


def _gives(numbers: Numbers, text: bytes) -> bool:
    at = 0
    for piece in write(numbers.style, numbers.shape, numbers.values):
        if not text.startswith(piece, at):
            return False
        at += len(piece)
    return at == len(text)


def _depths(text: bytes, shape: Sequence[int]) -> tuple[tuple[str, str, str], ...] | None:
    """The white space at each depth, as it is where it is first seen."""
    opens, at = [], 0
    for _ in shape:
        match = _OPEN.match(text, at)
        if match is None:
            return None
        opens.append(match[0].decode("ascii"))
        at = match.end()
    closes, end = [], len(text)
    for _ in shape:
        start = end - 1
        while text[start - 1] in _WHITE:
            start -= 1
        closes.append(text[start:end].decode("ascii"))
        end = start
    gaps = []
    for depth, size in enumerate(shape):
        inner = len(shape) - 1 - depth
        match = re.search(rb"[0-9.]" + _CLOSE * inner + _GAP + rb"[-\[0-9]", text)
        if size > 1 and match is None:
            return None
        gaps.append(match[1].decode("ascii") if size > 1 and match is not None else "")
    return tuple(zip(opens, gaps, closes, strict=True))


def write(style: Style, shape: Sequence[int], values: Values) -> Iterator[bytes]:
    """Write a list.

    Raises:
        CorruptError: style, shape and values do not belong together.
    """
    if len(style.depths) != len(shape) or math.prod(shape) != len(values) or not len(values):
        raise CorruptError("the style of a list of numbers does not fit it")
    # What `split` has read is always kept; only values that are new here may not be.
    spelling = style.spelling
    blocks = (values[start : start + _BLOCK] for start in range(0, len(values), _BLOCK))
    if values.dtype.kind == "f" and not keeps(spelling, blocks):
        spelling = PYTHON
    opens, gaps, closes = zip(*style.depths, strict=True)
    # What stands behind the last number of a list at each depth, up to the next number.
    turns = [
        "".join(reversed(closes[depth + 1 :])) + gap + "".join(opens[depth + 1 :])
        for depth, gap in enumerate(gaps)
    ]
    yield "".join(opens).encode()
    for start in range(0, len(values), _BLOCK):
        texts = spell(spelling, values[start : start + _BLOCK])
        behind = [turns[-1]] * len(texts)
        every = 1
        for depth in range(len(shape) - 2, -1, -1):
            every *= shape[depth + 1]
            first = -(start + 1) % every
            behind[first::every] = [turns[depth]] * len(range(first, len(texts), every))
        if start + len(texts) == len(values):
            behind[-1] = "".join(reversed(closes))
        mixed = [""] * (2 * len(texts))
        mixed[::2] = texts
        mixed[1::2] = behind
        yield "".join(mixed).encode()
