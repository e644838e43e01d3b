"""The object store: immutable files named by their sha256, in the layout of Git LFS.

It is the media directory of a bare shadow repository, `<git-common-dir>/theta/lfs.git`, so that
Git LFS can push from it and fetch into it, and never prunes it. Objects land whole or not at all.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from git_theta.core.manifest import Place, is_oid
from git_theta.errors import CorruptError, MissingError, ThetaError
from git_theta.repo import temporary

_OPEN_FILES = 64
_LENT = 1 << 20


class StoreError(ThetaError):
    """The object store cannot be written: no space, no permission, a broken disk."""


def store_failed(
    error: OSError, what: str, *, owned: str = "the repository's git directory"
) -> NoReturn:
    """Turn a system error into a message that says what to do."""
    reason = error.strerror or str(error)
    hint = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space and try again; nothing was half-written"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = f"check who owns {owned}"
    raise StoreError(f"{what}: {reason}", hint=hint) from error


class _OpenFile:
    """An object's file, and how many threads read it now."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.readers = 1


class _Lent(threading.local):
    """The record that a thread read last; fresh memory costs more than the reading."""

    def __init__(self) -> None:
        self._buffer = memoryview(b"")

    def take(self, size: int) -> memoryview:
        """Room for a record, which nobody clears while all other threads of ours have to wait."""
        if len(self._buffer) < size:
            self._buffer = memoryview(b"")
            own = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            self._buffer = memoryview(mmap.mmap(-1, max(size, _LENT), flags=own))
        return self._buffer[:size]


def object_path(media: Path, oid: str) -> Path:
    """Where an object lies below a media directory.

    Raises:
        CorruptError: this is no name of an object; it could lead anywhere.
    """
    if not is_oid(oid):
        raise CorruptError(f"no name of an object: {oid[:80]!r}")
    return media / oid[:2] / oid[2:4] / oid


class Store:
    """Objects of one repository, and of those it borrows from (`alternates`, read only)."""

    def __init__(self, root: Path, *, alternates: Sequence[Path] = (), sync: bool = False) -> None:
        self.root = root
        self.media = root / "lfs.git" / "lfs" / "objects"
        self.scratch = root / "tmp"
        self.alternates = tuple(alternates)
        self.sync = sync
        self._files: OrderedDict[str, _OpenFile] = OrderedDict()
        self._guard = threading.Lock()
        self._held = -1
        self._lent = _Lent()

    @classmethod
    def of(cls, common_dir: Path, *, sync: bool = False) -> Store:
        """The store of a repository, reading through the alternates of its object database."""
        return cls(common_dir / "theta", alternates=tuple(_alternates(common_dir)), sync=sync)

    def path(self, oid: str) -> Path:
        """Where an object lies in this store, whether it is there or not."""
        return object_path(self.media, oid)

    def find(self, oid: str) -> Path | None:
        """The file of an object, here or in a store we borrow from, or None."""
        for media in (self.media, *self.alternates):
            path = object_path(media, oid)
            if os.path.isfile(path):  # noqa: PTH113 - one that cannot be asked for is not here
                return path
        return None

    def has(self, oid: str, size: int) -> bool:
        """Whether an object is here with the right size."""
        path = self.find(oid)
        return path is not None and path.stat().st_size == size

    def lacking(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """Those of some objects (sha256 -> size) that are not here whole."""
        return {oid: size for oid, size in wanted.items() if not self.has(oid, size)}

    def read(self, place: Place) -> bytes:
        """Read the bytes of one record.

        Raises:
            MissingError: the object is not here, or is shorter than the manifest says.
        """
        return bytes(self.lend(place))

    def lend(self, place: Place) -> memoryview:
        """Like `read`, into a buffer of this thread: valid until it asks for the next record."""
        view = self._lent.take(place.size)
        try:
            file = self._open(place.oid)
            try:
                got = os.preadv(file.handle, [view], place.offset)
            finally:
                self._done_with(file)
        except OSError as error:
            store_failed(error, f"object {place.oid[:16]} cannot be read")
        if got != place.size:
            raise MissingError(
                f"object {place.oid[:16]} is cut short", hint="run git theta fsck, then fetch"
            )
        return view

    def _open(self, oid: str) -> _OpenFile:
        with self._guard:
            file = self._files.get(oid)
            if file is not None:
                self._files.move_to_end(oid)
                file.readers += 1
                return file
            path = self.find(oid)
            if path is None:
                raise MissingError(
                    f"object {oid[:16]} is not here", hint="run git theta fetch, or git theta pull"
                )
            file = _OpenFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            self._files[oid] = file
            return file

    def _done_with(self, file: _OpenFile) -> None:
        """Close files that were not read for long; a process may have few open."""
        with self._guard:
            file.readers -= 1
            idle = [oid for oid, other in self._files.items() if not other.readers]
            for oid in idle[: max(0, len(self._files) - _OPEN_FILES)]:
                os.close(self._files.pop(oid).handle)

    def close(self) -> None:
        """Give up the lock, and close files kept open."""
        self.release()
        with self._guard:
            for file in self._files.values():
                os.close(file.handle)
            self._files.clear()

    def freshen(self, oid: str) -> None:
        """Say that an object is in use again, so that no collection takes it for old."""
        path = self.path(oid)
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > 3600:
                os.utime(path)

    def oids(self) -> Iterator[tuple[str, os.stat_result]]:
        """All objects of this store itself."""
        for first in _listdir(self.media):
            for second in _listdir(first):
                for path in _listdir(second):
                    if len(path.name) == 64:
                        with suppress(FileNotFoundError):
                            yield path.name, path.stat()

    def remove(self, oid: str) -> None:
        """Remove an object of this store itself, and directories that become empty.

        For use under `alone`.
        """
        path = self.path(oid)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            store_failed(error, f"object {oid[:16]} cannot be removed")
        with suppress(OSError):
            path.parent.rmdir()
            path.parent.parent.rmdir()

    def prepare(self) -> None:
        """Make the directories."""
        try:
            self.media.mkdir(parents=True, exist_ok=True)
            self.scratch.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            store_failed(error, f"{self.root} cannot be made")

    def hold(self) -> None:
        """Lock the store, shared, until `release`: while objects are added, none are removed."""
        with self._guard:
            if self._held < 0:
                self._held = self._lock(fcntl.LOCK_SH)

    def release(self) -> None:
        """Give up what `hold` took."""
        with self._guard:
            if self._held >= 0:
                os.close(self._held)
                self._held = -1

    @contextmanager
    def alone(self, *, wait: bool = True) -> Iterator[bool]:
        """Lock the store for this process alone; yields whether that was possible."""
        self.release()
        try:
            handle = self._lock(fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            os.close(handle)

    def _lock(self, mode: int) -> int:
        self.prepare()
        try:
            handle = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            store_failed(error, f"{self.root} cannot be written")
        try:
            fcntl.flock(handle, mode)
        except OSError:
            os.close(handle)
            raise
        return handle

    def temporary(self) -> tuple[int, Path]:
        """Open a new file in the scratch directory: (descriptor, path), locked while it lives."""
        self.hold()
        try:
            return temporary.new_file(self.scratch)
        except OSError as error:
            store_failed(error, f"{self.scratch} cannot be written")

    @contextmanager
    def temporary_directory(self, prefix: str) -> Iterator[Path]:
        """A new directory in the scratch directory, removed afterwards."""
        self.hold()
        with ExitStack() as stack:
            try:
                made = stack.enter_context(temporary.new_directory(self.scratch, prefix))
            except OSError as error:
                store_failed(error, f"{self.scratch} cannot be written")
            yield made

    def has_temporary(self) -> bool:
        """Whether files of a running or a killed process lie in the scratch directory."""
        return bool(_listdir(self.scratch))

    def sweep_temporary(self) -> None:
        """Remove what killed processes left behind; of Git LFS, which may go on, what is old."""
        temporary.sweep(self.scratch)
        lfs = self.media.parent
        temporary.sweep_old(lfs / name for name in ("incomplete", "tmp", "logs"))

    def land(self, part: Path, handle: int, oid: str) -> None:
        """Give a finished temporary file its name.

        It takes the place of an object of that name, which may have been damaged since.
        """
        target = self.path(oid)
        try:
            if self.sync:
                os.fsync(handle)
            target.parent.mkdir(parents=True, exist_ok=True)
            part.replace(target)
            if self.sync:
                temporary.sync_directories(target.parent, up_to=self.root.parent)
        except OSError as error:
            store_failed(error, f"object {oid[:16]} cannot be stored")


def _listdir(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _alternates(common_dir: Path) -> Iterator[Path]:
    """Media directories of the repositories whose object databases this one borrows."""
    seen, waiting = {common_dir}, [common_dir]
    while waiting:
        objects = waiting.pop() / "objects"
        try:
            listed = os.fsdecode((objects / "info" / "alternates").read_bytes())
        except OSError:
            continue
        for line in listed.split("\n"):
            if "\0" in line:
                continue
            other = (objects / line).resolve().parent
            if line and not line.startswith("#") and other not in seen:
                seen.add(other)
                waiting.append(other)
                yield other / "theta" / "lfs.git" / "lfs" / "objects"


def write_all(handle: int, views: list[memoryview]) -> None:
    """`os.writev` until everything is written."""
    while views:
        done = os.writev(handle, views)
        while views and done >= len(views[0]):
            done -= len(views[0])
            views.pop(0)
        if views and done:
            views[0] = views[0][done:]
