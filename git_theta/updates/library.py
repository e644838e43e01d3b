"""The library behind numpy's matrix products, kept to the thread that calls it.

Chunks are worked on in several threads already. Threads of the library's own would wait for each
other in busy loops, and for matrices as small as ours that costs many times the work. Only OpenBLAS
is known here, which numpy's wheels bring along; any other library is left as it is.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

_NAMES = ("scipy_openblas_{}64_", "scipy_openblas_{}", "openblas_{}64_", "openblas_{}")


class _Control(NamedTuple):
    get: Callable[[], int]
    set: Callable[[int], object]


@cache
def _control() -> _Control | None:
    """How many threads the library uses, to ask and to set; None where it is not known."""
    try:
        from numpy.linalg import _umath_linalg

        library = ctypes.CDLL(_umath_linalg.__file__)
    except (ImportError, OSError):
        return None
    for name in _NAMES:
        try:
            found = _Control(
                library[name.format("get_num_threads")], library[name.format("set_num_threads")]
            )
        except AttributeError:
            continue
        return found
    return None


class _Users:
    """How many of our threads are at work, and what to go back to after the last."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.before = 0


_users = _Users()


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep matrix products to the calling thread for a while, in the whole process."""
    control = _control()
    if control is None:
        yield
        return
    with _users.lock:
        if _users.count == 0:
            _users.before = control.get()
            control.set(1)
        _users.count += 1
    try:
        yield
    finally:
        with _users.lock:
            _users.count -= 1
            if _users.count == 0:
                control.set(_users.before)
