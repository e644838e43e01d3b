"""Temporary files and directories: locked while somebody writes them, removed once nobody does."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_DAY = 24 * 3600


def new_file(folder: Path) -> tuple[int, Path]:
    """Open a new file in a folder: (descriptor, path), locked while it lives."""
    path = folder / _new_name()
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    fcntl.flock(handle, fcntl.LOCK_EX)
    return handle, path


def _new_name() -> str:
    return f"{os.getpid()}-{threading.get_ident()}-{time.time_ns()}"


@contextmanager
def new_directory(folder: Path, prefix: str) -> Iterator[Path]:
    """Make a directory in a folder, locked while it lives, and remove it afterwards."""
    handle, made = _locked_directory(folder, prefix)
    try:
        yield made
    finally:
        _remove_tree(made)
        os.close(handle)


def _locked_directory(folder: Path, prefix: str) -> tuple[int, Path]:
    while True:
        made = folder / f"{prefix}{_new_name()}"
        made.mkdir(mode=0o700)
        with suppress(FileNotFoundError):  # somebody swept between the two
            handle = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(handle, fcntl.LOCK_EX)
            if made.exists():
                return handle, made
            os.close(handle)


def sweep(folder: Path, pattern: str = "*") -> None:
    """Remove what killed processes left in a folder: whatever nobody holds locked."""
    for path in _listed(folder, pattern):
        with suppress(OSError):
            is_directory = path.is_dir()
            handle = os.open(path, (os.O_RDONLY if is_directory else os.O_RDWR) | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if is_directory:
                    _remove_tree(path)
                else:
                    path.unlink()
            finally:
                os.close(handle)


def _remove_tree(path: Path) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)


def sweep_old(folders: Iterable[Path], *, age: float = _DAY) -> None:
    """Remove files older than `age` seconds, which other programs left in some folders."""
    before = time.time() - age
    for folder in folders:
        for path in _listed(folder):
            with suppress(OSError):
                if path.stat().st_mtime < before:
                    path.unlink()


def sync_directories(path: Path, *, up_to: Path) -> None:
    """Write a directory's entries to disk, and those of the directories that it lies in.

    A file that is synced is found again after a crash only by way of its directories.
    """
    while True:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        if path == up_to:
            return
        path = path.parent


def umask() -> int:
    """The permissions that new files of this process do not get."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _listed(folder: Path, pattern: str = "*") -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except (FileNotFoundError, NotADirectoryError):
        return []
