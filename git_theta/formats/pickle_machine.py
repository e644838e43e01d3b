"""The small machine that pickles are programs for: its stack, its memo, and what they may hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from git_theta.errors import FormatError

MAX_OBJECTS = 4_000_000
MAX_MEMO = 1 << 32


class PickleTruncatedError(FormatError):
    """The bytes end before the pickle does: read on, if there is more."""


class NoOperationError(FormatError):
    """No unpickler goes on from here: what stands here is nothing that it could perform."""


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a class or function, never looked up."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """The dotted name."""
        return f"{self.module}.{self.name}"


class Node:
    """A mapping, an object or a call, as described by the pickle.

    `items` are key-value pairs in the order of the program (never a dict: keys may be anything),
    `elements` what was appended, `state` what the object was built with.
    """

    __slots__ = ("args", "call", "elements", "items", "state")

    def __init__(self, call: Any = None, args: Any = None) -> None:
        self.call = call
        self.args = args
        # None while empty: a hostile pickle makes millions of these.
        self.items: list[tuple[Any, Any]] | None = None
        self.elements: list[Any] | None = None
        self.state: Any = None


Persistent = Callable[[Any], Any]
Reduce = Callable[[Global, tuple[Any, ...]], Any]


class Machine:
    """The stack, the memo and the position in the program."""

    __slots__ = (
        "data", "limit", "marks", "memo", "objects", "persistent", "pos", "reduce", "stack",
    )  # fmt: skip

    def __init__(self, data: bytes, start: int, persistent: Persistent, reduce: Reduce) -> None:
        self.data, self.pos = data, start
        self.persistent, self.reduce = persistent, reduce
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.objects = 0
        self.limit = len(data)

    def take(self, size: int) -> bytes:
        """Return the next bytes of the program."""
        end = self.pos + size
        if end > self.limit:
            raise PickleTruncatedError(f"the pickle ends within {size} bytes at {self.pos}")
        taken = self.data[self.pos : end]
        self.pos = end
        return taken

    def number(self, size: int) -> int:
        """Return an unsigned little-endian number of the program."""
        return int.from_bytes(self.take(size), "little")

    def byte(self) -> int:
        """Return the next byte: what `number(1)` does, for the most frequent operations."""
        at = self.pos
        if at >= self.limit:
            raise PickleTruncatedError(f"the pickle ends within a byte at {at}")
        self.pos = at + 1
        return self.data[at]

    def line(self) -> bytes:
        """Return the text up to the next newline."""
        end = self.data.find(b"\n", self.pos)
        if end < 0:
            raise PickleTruncatedError("the pickle ends within a line")
        taken = self.data[self.pos : end]
        self.pos = end + 1
        return taken

    def made(self, value: Any) -> None:
        """Push a new object that takes memory of its own."""
        self.count()
        self.stack.append(value)

    def count(self) -> None:
        """Count an object that takes memory of its own."""
        self.objects += 1
        if self.objects > MAX_OBJECTS:
            raise FormatError(f"the pickle makes more than {MAX_OBJECTS} objects")

    def since_mark(self) -> list[Any]:
        """Return what was pushed since the last mark, and forget the mark."""
        taken = self.stack
        self.stack = self.marks.pop()
        return taken

    def keep(self, index: int) -> None:
        if not 0 <= index < MAX_MEMO:
            raise FormatError(f"the pickle remembers a value as number {index}")
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise FormatError(f"the pickle recalls value {index}, which it never kept")
        self.stack.append(self.memo[index])

    def call(self, what: Any, args: Any) -> None:
        """Describe a call, or take what `reduce` says it gives."""
        value = None
        if isinstance(what, Global) and isinstance(args, tuple):
            value = self.reduce(what, args)
        self.made(Node(what, args) if value is None else value)
