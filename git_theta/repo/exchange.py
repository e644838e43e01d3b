"""Finished files moved to their places, and old ones let go of, without waiting for the disk."""

from __future__ import annotations

import ctypes
import os
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from git_theta.repo.streams import open_regular

_HERE = -100  # AT_FDCWD
_EXCHANGE = 2  # RENAME_EXCHANGE
_LOOK = 0.02


def put_in_place(part: Path, target: Path) -> None:
    """Move a file to where it belongs, over what is there, in one step.

    ext4 starts to write a whole file to the disk when it is renamed over another one: half a second
    for 1 GiB. It does not when the two change places; what comes back is removed.

    Raises:
        OSError: it cannot be moved; nothing was changed.
    """
    with suppress(FileNotFoundError):
        if stat.S_ISREG(target.lstat().st_mode) and _exchanged(part, target):
            part.unlink()
            return
    part.replace(target)


def _exchanged(part: Path, target: Path) -> bool:
    call = _renameat2()
    if call is None:
        return False
    return bool(call(_HERE, os.fsencode(part), _HERE, os.fsencode(target), _EXCHANGE) == 0)


@cache
def _renameat2() -> Any | None:
    """The system's function, where it has one."""
    try:
        call = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return call


@contextmanager
def let_go_later(files: Iterable[Path]) -> Iterator[None]:
    """Keep files open while another program removes them, and let go of them once it has.

    To free a large file takes a while, which the program does not wait for then.
    """
    handles = [handle for file in files if (handle := open_regular(file)) is not None]
    ended = threading.Event()

    def work() -> None:
        while handles:
            for handle in list(handles):
                if ended.is_set() or not os.fstat(handle).st_nlink:
                    handles.remove(handle)
                    os.close(handle)
            ended.wait(_LOOK)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
