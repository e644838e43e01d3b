"""Where a JSON text holds lists of numbers. Nothing is loaded, and nothing recurses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from git_theta.core import limits
from git_theta.errors import FormatError

BOM = b"\xef\xbb\xbf"

TOKEN = re.compile(
    rb"[ \t\r\n]*(?:"
    rb'("[^"\\]*(?:\\.[^"\\]*)*")'
    rb"|([\[\]{}:,])"
    rb"|-?(?:[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|Infinity)|true|false|null|NaN"
    rb"|(\Z))",
    re.DOTALL,
)
_FLAT = re.compile(rb"\[[-+0-9.eE, \t\r\n]*\]")
_RUN = re.compile(rb"[-+0-9.eE, \t\r\n\[\]]*")

_STRING, _SCALAR, _END = '"', "0", "end"
_VALUE = ("[", "{", _STRING, _SCALAR)
_FIRST_ITEM = (*_VALUE, "]")
_KEY = (_STRING,)
_FIRST_KEY = (_STRING, "}")


@dataclass(frozen=True, slots=True)
class Found:
    """A list of numbers: its name, where it lies, and how many lists it has at each depth."""

    name: str
    start: int
    end: int
    lists: tuple[int, ...]


@dataclass(slots=True)
class _Level:
    """An object or list that is open; `label` is the key or number of the current item."""

    is_object: bool
    label: str = "0"
    index: int = 0


def number_lists(text: bytes) -> Iterator[Found]:
    """The lists of numbers in a JSON text that lie in no other one, in order.

    Raises:
        FormatError: the text is no JSON, or too deep.
    """
    return _Walk(text).lists()


class _Walk:
    """One walk over the tokens; `_next` holds the kinds of tokens that may come."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._at = len(BOM) if text.startswith(BOM) else 0
        self._stack: list[_Level] = []
        self._next: tuple[str, ...] = _VALUE
        self._runs = _Runs(text)

    def lists(self) -> Iterator[Found]:
        while True:
            start, kind = self._token()
            if kind == _END:
                return
            if kind == "[":
                found = self._list(start)
                if found is not None:
                    yield found
            elif kind == _STRING and self._next in (_KEY, _FIRST_KEY):
                self._stack[-1].label = key_text(self._text[start : self._at])
                self._next = (":",)
            else:
                self._step(kind)

    def _token(self) -> tuple[int, str]:
        match = TOKEN.match(self._text, self._at)
        if match is None:
            raise FormatError(f"it is no JSON at byte {self._at} or soon after")
        self._at = match.end()
        if match[2] is not None:
            start, kind = match.start(2), match[2].decode()
        elif match[1] is not None:
            start, kind = match.start(1), _STRING
        else:
            start, kind = match.end(), _SCALAR if match[3] is None else _END
        if kind not in self._next:
            raise FormatError(f"it is no JSON at byte {start} or just before")
        return start, kind

    def _step(self, kind: str) -> None:
        if kind == ":":
            self._next = _VALUE
        elif kind == ",":
            level = self._stack[-1]
            level.index += 1
            level.label = str(level.index)
            self._next = _KEY if level.is_object else _VALUE
        elif kind == "{":
            self._push(is_object=True)
        else:
            if kind in "]}":
                self._stack.pop()
            self._valued()

    def _list(self, start: int) -> Found | None:
        flat = _FLAT.match(self._text, start)
        name = ".".join(level.label for level in self._stack) if self._stack else "root"
        if flat is not None:
            found = Found(name, start, flat.end(), (1,))
        else:
            nested = self._runs.nested(start)
            if nested is None:
                self._push(is_object=False)
                return None
            found = Found(name, start, *nested)
        self._at = found.end
        self._valued()
        return found

    def _push(self, *, is_object: bool) -> None:
        most = limits.current()
        if len(self._stack) >= most.nesting:
            raise FormatError(f"it is nested too deep; {most.told('nesting')}")
        self._stack.append(_Level(is_object))
        self._next = _FIRST_KEY if is_object else _FIRST_ITEM

    def _valued(self) -> None:
        """A value is complete: what may come now."""
        if not self._stack:
            self._next = (_END,)
        else:
            self._next = (",", "}" if self._stack[-1].is_object else "]")


class _Runs:
    """Which bracket closes which, where there are only numbers and brackets.

    The brackets of a run are found once, for all the lists that begin in it.
    """

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._bytes = np.frombuffer(text, np.uint8)
        self._start = self._end = 0
        self._places = np.empty(0, np.int64)
        self._depth = np.empty(0, np.int32)

    def nested(self, start: int) -> tuple[int, tuple[int, ...]] | None:
        """The end of the list, and its lists at each depth; None if other things are in it."""
        if start >= self._end:
            self._read(start)
        first = int(np.searchsorted(self._places, start - self._start))
        last = self._closing(first)
        if last is None:
            return None
        depth = self._depth[first : last + 1]
        opening = np.diff(depth, prepend=depth[0] - 1) > 0
        lists = np.bincount(depth[opening] - depth[0])
        return self._start + int(self._places[last]) + 1, tuple(lists.tolist())

    def _read(self, start: int) -> None:
        match = _RUN.match(self._text, start)
        self._start, self._end = start, start if match is None else match.end()
        run = self._bytes[self._start : self._end]
        self._places = np.flatnonzero((run == ord("[")) | (run == ord("]")))
        step = np.where(run[self._places] == ord("["), 1, -1)
        self._depth = np.cumsum(step, dtype=np.int32)

    def _closing(self, first: int) -> int | None:
        outside, at, size = self._depth[first] - 1, first + 1, 64
        while at < len(self._depth):
            hits = np.flatnonzero(self._depth[at : at + size] == outside)
            if len(hits):
                return at + int(hits[0])
            at += size
            size *= 2
        return None


def key_text(quoted: bytes) -> str:
    """The text of a key, as it stands in names."""
    try:
        text: str = json.loads(quoted.decode(), strict=False)
    except ValueError as error:
        raise FormatError(f"a key in it is no text: {error}") from error
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character, written as an escape: no name for anything
        return quoted[1:-1].decode()
    return text
