"""Torch imported while other work is done: that takes a second and more.

Most of an import runs in the interpreter, which runs one thread at a time. Threads that decode need
it for moments only, but often; so while torch comes in, they are let in sooner than is usual.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache

from git_theta.commands.memory import keep_memory

_TURN = 1e-4


def begin_if(wanted: Callable[[], bool]) -> threading.Thread:
    """Ask on another thread whether torch is wanted, which may import it already; then begin."""

    def work() -> None:
        with _importing():
            asked = wanted()
        if asked:
            begin()

    return beside(work)


def meanwhile(load: Callable[[], object]) -> None:
    """Import something on another thread; who needs it sooner imports it as ever."""

    def work() -> None:
        with suppress(ImportError), _importing():
            load()

    beside(work)


def beside(work: Callable[[], None]) -> threading.Thread:
    """Do something on another thread."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@cache
def begin() -> Future[None]:
    """Begin to import torch, if nobody has yet."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(_import)
    pool.shutdown(wait=False)
    return future


def ready() -> None:
    """Wait until torch is here.

    Raises:
        ImportError: it cannot be imported.
    """
    begin().result()


def _import() -> None:
    """Import torch with its threads limited to one: work is spread over ours."""
    keep_memory()
    with _importing():
        from git_theta import compute

        compute.use_threads(1)
        gc.freeze()


@contextmanager
def _importing() -> Iterator[None]:
    """Let others in often, and do not look for garbage: what a program imports stays."""
    collects, turn = gc.isenabled(), sys.getswitchinterval()
    gc.disable()
    sys.setswitchinterval(_TURN)
    try:
        yield
    finally:
        sys.setswitchinterval(turn)
        if collects:
            gc.enable()
