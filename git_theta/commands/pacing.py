"""How far work may run ahead of what is taken from it in order, without filling the memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Pacing:
    """Bytes that work under way takes, and what is kept of work that is done.

    While a thread would have nothing to do, more may begin as long as all of it fits into `budget`;
    beyond that only as much as `ahead`.
    """

    def __init__(self, threads: int, budget: int, ahead: int) -> None:
        self._threads, self._budget, self._ahead = threads, budget, min(budget, ahead)
        self._spent = self._running = 0
        self._changed = threading.Condition()

    def begin(self, cost: int, future: Future[Any], kept: Callable[[Future[Any]], int]) -> None:
        """Count work from now on: its cost, and once it is done what is `kept` of it."""
        with self._changed:
            self._spent += cost
            self._running += 1

        def done(future: Future[Any]) -> None:
            left = kept(future)
            with self._changed:
                self._spent -= cost - left
                self._running -= 1
                self._changed.notify_all()

        future.add_done_callback(done)

    def taken(self, kept: int) -> None:
        """Say that what was kept of some work is so no longer."""
        with self._changed:
            self._spent -= kept

    def wait(self, cost: int, first: Future[Any]) -> bool:
        """Wait until there is room for work of some cost, or until the first one is done.

        Returns whether there is room.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._has_room(cost) or first.done())
            return self._has_room(cost)

    def _has_room(self, cost: int) -> bool:
        limit = self._budget if self._running < self._threads else self._ahead
        return self._spent + cost <= limit
