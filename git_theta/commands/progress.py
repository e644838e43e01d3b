"""A progress bar on standard error: bytes, rate, time left.

Only on a terminal, and only for work that takes longer than a second; anything shorter, or
anything redirected, does not even import the library that draws it.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from git_theta.commands.terminal import printable

PATIENCE = 1.0


@contextmanager
def progress(total: int | None, label: str) -> Iterator[Callable[[int], None]]:
    """Show how far work on a number of bytes is; to be used with `with ... as advance`.

    `advance(n)` says that `n` more bytes are done; any thread may call it.
    """
    if not sys.stderr.isatty():
        yield _ignore
        return
    bar = _Bar(total, label)
    try:
        yield bar.advance
    finally:
        bar.close()


def counted(pieces: Iterable[memoryview], advance: Callable[[int], None]) -> Iterator[memoryview]:
    """Pass pieces on, counting their bytes."""
    for piece in pieces:
        yield piece
        advance(len(piece))


def _ignore(size: int) -> None:
    """Nobody is watching."""


class _Bar:
    """Counts from the start, draws from the first advance after `PATIENCE` seconds."""

    def __init__(self, total: int | None, label: str) -> None:
        self._total, self._label = total, printable(label)
        self._start = time.monotonic()
        self._done = 0
        self._guard = threading.Lock()
        self._drawn: Any = None
        self._task: Any = None

    def advance(self, size: int) -> None:
        with self._guard:
            self._done += size
            if self._drawn is None and time.monotonic() - self._start > PATIENCE:
                self._draw()
            if self._drawn is not None:
                self._drawn.update(self._task, completed=self._done)

    def _draw(self) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._drawn = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._drawn.add_task(escape(self._label), total=self._total)
        self._drawn.start()

    def close(self) -> None:
        with self._guard:
            if self._drawn is not None:
                self._drawn.stop()
                self._drawn = None
