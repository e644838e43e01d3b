"""A merge shared with copies of this process.

One interpreter runs one thread at a time, and what is done to numbers here is a row of short steps:
threads that do it wait for each other between any two, longer than they would take by themselves.
Copies have an interpreter each. They get numbers of tasks, and send back records; whatever is out
of the ordinary is left to this process, which then does the task itself. What is known of the
repository is asked of this process too, so that nobody else uses its catalog, or its Git.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import msgpack

from git_theta.commands import warming
from git_theta.commands.tasks import in_arrays
from git_theta.core import copies
from git_theta.core.choice import Outcome
from git_theta.core.dtypes import nbytes
from git_theta.core.manifest import Chunk, Place
from git_theta.core.payload import Buffer
from git_theta.core.pending import Fresh

if TYPE_CHECKING:
    from git_theta.commands.drafting import Draft
    from git_theta.commands.keeping import Keeper
    from git_theta.commands.tasks import Context, Task

Work = Callable[["Task"], list[Fresh]]

# How many bytes have to be made before it pays to make copies.
_WORTH_COPIES = 32 << 20
_LENGTH = struct.Struct("<I")
_HELD = 1 << 20


class Line:
    """One end of what connects two processes: messages, each followed by what it announces."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        with suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _HELD)

    def say(self, message: Any, buffers: Sequence[Buffer] = ()) -> None:
        """Send a message, and bytes.

        Raises:
            OSError: nobody is there any more.
        """
        packed = msgpack.packb(message)
        self.end.sendall(_LENGTH.pack(len(packed)) + packed)
        for buffer in buffers:
            self.end.sendall(buffer)

    def hear(self) -> Any:
        """Wait for a message.

        Raises:
            OSError: nobody is there any more.
        """
        (size,) = _LENGTH.unpack(self.take(_LENGTH.size))
        return msgpack.unpackb(self.take(size))

    def take(self, size: int) -> bytearray:
        """The next bytes."""
        got = bytearray(size)
        self.fill(memoryview(got))
        return got

    def fill(self, view: memoryview) -> None:
        """Fill a buffer with the next bytes."""
        while view:
            done = self.end.recv_into(view)
            if not done:
                raise ConnectionError("the other process has ended")
            view = view[done:]


class Sharing:
    """Copies of this process that do tasks; use `with`, and from several threads."""

    def __init__(
        self, context: Context, tasks: Sequence[Task], keeper: Keeper, draft: Draft | None
    ) -> None:
        self._context, self._tasks = context, tasks
        self._keeper, self._draft = keeper, draft
        self._guard = threading.Lock()
        self._idle: list[Line] = []
        self._copies: dict[int, socket.socket] = {}

    def start(self, count: int, work: Work) -> None:
        """Make copies, if that is possible here and worth it."""
        if count < 2 or not self._is_worth_it():
            return
        warming.settle()
        if not copies.are_possible():
            return
        from git_theta.commands import arrays  # noqa: F401 - once for all

        count = min(count, len(self._tasks))
        self._copies = copies.made(count, lambda line: self._serve(Line(line), work))
        self._idle = [Line(line) for line in self._copies.values()]

    def _is_worth_it(self) -> bool:
        """Whether there is much to do, all of it in numpy: torch has threads of its own."""
        steps = {id(task.step): task.step for task in self._tasks}.values()
        size = sum(nbytes(step.dtype, step.shape) or 0 for step in steps)
        plain = all(in_arrays(self._context.device, step) for step in steps)
        return plain and size >= _WORTH_COPIES

    def __enter__(self) -> Sharing:
        return self

    def __exit__(self, *_: object) -> None:
        copies.dismiss(self._copies)

    # --- here ------------------------------------------------------------------------------------

    def do(self, number: int) -> list[Fresh] | None:
        """Have a copy do a task; None if all are busy, or it could not."""
        with self._guard:
            line = self._idle.pop() if self._idle else None
        if line is None:
            return None
        try:
            line.say(number)
            made = self._await(line, number)
        except OSError:  # it is gone; nobody is told, the work is done here
            return None
        with self._guard:
            self._idle.append(line)
        return made

    def _await(self, line: Line, number: int) -> list[Fresh] | None:
        while True:
            kind, *rest = line.hear()
            if kind == "known":
                line.say(self._keeper.known(rest[0]))
            elif kind == "made":
                return self._received(line, number, *rest)
            else:
                return None

    def _received(
        self, line: Line, number: int, read: int, said: list[str], made: list[Any]
    ) -> list[Fresh]:
        task, found = self._tasks[number], list[Fresh]()
        at = task.start
        self._context.source.count(read)
        for text in said:
            self._keeper.tell(text)
        for one in made:
            found.append(self._fresh(line, *one))
            if self._draft is not None and one[-1]:
                self._draft.note(task.step.unit.names, at, found[-1].digest)
            at += found[-1].size
        return found

    def _fresh(
        self,
        line: Line,
        digest: str,
        size: int,
        kind: str,
        base: str | None,
        lengths: list[int],
        _drafted: bool,
    ) -> Fresh:
        plain = None
        if lengths[0]:
            plain = self._context.room.take(lengths[0])
            line.fill(plain.data)
        record, summary = (line.take(length) for length in lengths[1:])
        if not record:
            return Fresh(plain, size, digest, known=self._keeper.known(digest))
        outcome = Outcome([record], kind, base)
        return Fresh(plain, size, digest, outcome, [summary] if summary else None)

    # --- in the copy -----------------------------------------------------------------------------

    def _serve(self, line: Line, work: Work) -> NoReturn:
        """Do tasks until nobody wants any more."""
        try:
            said: list[str] = []
            self._keeper.ask = lambda digest: _asked(line, digest)
            self._keeper.tell = said.append
            self._context.source.take_count()
            while True:
                number = line.hear()
                try:
                    made = work(self._tasks[number])
                except Exception:  # it happens again where it can be told
                    line.say(["failed"])
                else:
                    self._send(line, made, said)
                    said.clear()
        finally:
            os._exit(0)

    def _send(self, line: Line, made: Sequence[Fresh], said: list[str]) -> None:
        drafted = self._draft is not None and not self._draft.failed
        told, buffers = [], list[Buffer]()
        for fresh in made:
            outcome = fresh.outcome or Outcome([], "")
            parts: list[Sequence[Buffer]] = [outcome.record, fresh.summary or []]
            parts.insert(0, [] if fresh.plain is None else [fresh.plain.data])
            lengths = [sum(map(len, part)) for part in parts]
            told.append([fresh.digest, fresh.size, outcome.kind, outcome.base, lengths, drafted])
            buffers += [buffer for part in parts for buffer in part]
        line.say(["made", self._context.source.take_count(), said, told], buffers)
        for fresh in made:
            if fresh.plain is not None:
                self._context.room.give(fresh.plain)


def _asked(line: Line, digest: str) -> Chunk | None:
    """What the first process knows of a chunk."""
    line.say(["known", digest])
    told = line.hear()
    if told is None:
        return None
    chunk = Chunk(*told)
    summary = None if chunk.summary is None else Place(*chunk.summary)
    return chunk._replace(at=Place(*chunk.at), summary=summary)
