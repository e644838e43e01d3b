"""Copies of this process that work beside it.

One interpreter runs one thread at a time, and what is done to numbers here is a row of short steps:
threads that do it wait for each other between any two, longer than they would take by themselves.
Copies have an interpreter each. A copy is made by a fork, so it knows all that this process knows;
when this process ends, so do they.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn

_ITEM = struct.Struct("<I")
_DONE, _FAILED = b"\1", b"\0"
# How many items a copy has at a time, and how much memory all of them fill together.
_AHEAD = 2
_ROOM = 192 << 20

Fill = Callable[[int, memoryview], None]


def are_possible() -> bool:
    """Whether a copy would find everything as it is here: no other thread may be at work."""
    if sys.platform != "linux" or "torch" in sys.modules:
        return False
    return threading.active_count() == 1


def fork() -> int:
    """Make a copy: 0 in it, its number here.

    Raises:
        OSError: no more processes, or no memory for them.
    """
    with warnings.catch_warnings():
        # Threads of the library behind numpy count too; it stops them for the moment.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def made(count: int, serve: Callable[[socket.socket], NoReturn]) -> dict[int, socket.socket]:
    """Make some copies, or as many as there can be; the line to each, by its number.

    A copy serves its end of the line, and ends when nobody holds the other one any more.
    """
    lines: dict[int, socket.socket] = {}
    for _ in range(count):
        ours, theirs = socket.socketpair()
        try:
            process = fork()
        except OSError:  # no more processes, or no memory for them
            ours.close()
            theirs.close()
            break
        if not process:
            for line in (ours, *lines.values()):
                line.close()  # who holds it open would not see the first process end
            serve(theirs)
        theirs.close()
        lines[process] = ours
    return lines


def dismiss(lines: Mapping[int, socket.socket]) -> None:
    """Send copies away, and wait until they are gone."""
    for line in lines.values():
        line.close()
    for process in lines:
        with suppress(ChildProcessError):
            os.waitpid(process, 0)


@dataclass(slots=True)
class _Copy:
    """One of them: the line to it, and the items that it was given and has not done."""

    process: int
    line: socket.socket
    items: deque[int] = field(default_factory=deque)


def filled(sizes: Sequence[int], count: int, fill: Fill) -> Iterator[memoryview]:
    """Memory of some sizes, each filled by `fill(its number, it)` in one of `count` copies.

    They come in order, and each is valid until the next is asked for. Whatever a copy cannot do is
    done here, where it may raise.
    """
    largest = max(sizes, default=1)
    places = max(2, min(count * _AHEAD, _ROOM // largest))
    room = memoryview(mmap.mmap(-1, places * largest))

    def place(number: int) -> memoryview:
        start = number % places * largest
        return room[start : start + sizes[number]]

    crew = _Crew(count, lambda number: fill(number, place(number)))
    try:
        given = 0
        for number in range(len(sizes)):
            while given < min(len(sizes), number + places):
                crew.give(given)
                given += 1
            if not crew.has_done(number):
                fill(number, place(number))
            yield place(number)
    finally:
        crew.end()


class _Crew:
    """Copies, and who does what."""

    def __init__(self, count: int, work: Callable[[int], None]) -> None:
        lines = made(count, lambda line: _serve(line, work))
        self._copies = [_Copy(process, line) for process, line in lines.items()]
        self._waiting: deque[int] = deque()
        self._outcomes: dict[int, bool] = {}

    def give(self, number: int) -> None:
        """Have an item done, as soon as somebody is free."""
        self._waiting.append(number)
        self._look()

    def has_done(self, number: int) -> bool:
        """Wait for an item; False if it could not be done."""
        while number not in self._outcomes:
            self._look(wait=True)
        return self._outcomes.pop(number)

    def end(self) -> None:
        """Send all copies away."""
        dismiss({copy.process: copy.line for copy in self._copies})

    def _look(self, *, wait: bool = False) -> None:
        """See what was done, and hand out what waits."""
        poll, busy = select.poll(), {c.line.fileno(): c for c in self._copies if c.items}
        for handle in busy:
            poll.register(handle, select.POLLIN)
        for handle, _ in poll.poll(None if wait else 0) if busy else ():
            self._hear(busy[handle])
        while self._waiting and self._copies:
            copy = min(self._copies, key=lambda copy: len(copy.items))
            if len(copy.items) == _AHEAD:
                break
            self._hand(copy)
        if not self._copies:
            self._outcomes.update(dict.fromkeys(self._waiting, False))
            self._waiting.clear()

    def _hand(self, copy: _Copy) -> None:
        try:
            copy.line.sendall(_ITEM.pack(self._waiting[0]))
        except OSError:
            self._lose(copy)
        else:
            copy.items.append(self._waiting.popleft())

    def _hear(self, copy: _Copy) -> None:
        try:
            told = copy.line.recv(1)
        except OSError:
            told = b""
        if told:
            self._outcomes[copy.items.popleft()] = told == _DONE
        else:
            self._lose(copy)

    def _lose(self, copy: _Copy) -> None:
        """Go on without a copy that is gone."""
        self._copies.remove(copy)
        dismiss({copy.process: copy.line})
        self._outcomes.update(dict.fromkeys(copy.items, False))


def _serve(line: socket.socket, work: Callable[[int], None]) -> NoReturn:
    """Do items until nobody wants any more."""
    try:
        while item := line.recv(_ITEM.size, socket.MSG_WAITALL):
            line.sendall(_DONE if _succeeds(work, _ITEM.unpack(item)[0]) else _FAILED)
    finally:
        os._exit(0)


def _succeeds(work: Callable[[int], None], number: int) -> bool:
    try:
        work(number)
    except Exception:  # it happens again where it can be told
        return False
    return True
