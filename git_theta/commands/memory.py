"""Memory that is freed and taken again, kept at hand."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache

# Names of glibc's parameters, and what they are set to.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT, _SMALL = 64 << 20, 32 << 20


@cache
def keep_memory() -> None:
    """Have the C library keep what is freed in blocks of up to 32 MiB, for the next ones.

    As it comes it gives them back to the system at once: each intermediate result is then made of
    fresh pages, which the system has to clear first, and that can take longer than the arithmetic.
    """
    with suppress(OSError, AttributeError):  # another C library
        tune = ctypes.CDLL(None).mallopt
        tune(_MMAP_THRESHOLD, _SMALL)
        tune(_TRIM_THRESHOLD, _KEPT)
