"""A work-tree file with other weights: written beside, whole, and only then moved into place."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from git_theta.commands.session import Session
from git_theta.commands.tensors import OpenFile
from git_theta.core import planes
from git_theta.core.chain import Bytes, Slice
from git_theta.core.dtypes import DTYPES
from git_theta.core.edits import Edit
from git_theta.core.layout import TensorView
from git_theta.core.manifest import CHUNK
from git_theta.errors import FormatError
from git_theta.repo.index import BACK
from git_theta.repo.objects import store_failed
from git_theta.repo.streams import FileReader, write_at, write_fully

_BLOCK = 8 << 20
_BESIDE = ".git-theta"

Advance = Callable[[int], None]


@dataclass
class Draft:
    """A file being written; it is removed unless it was moved to its place."""

    handle: int
    path: Path
    placed: bool = False

    def place(self, target: Path) -> None:
        """Move the file over another one, with the mode of that."""
        try:
            os.fchmod(self.handle, target.stat().st_mode & 0o7777)
            before = time.time() - BACK
            os.utime(self.handle, (before, before))
            self._move(target)
        except OSError as error:
            store_failed(error, f"{target} cannot be written")
        self.placed = True

    def _move(self, target: Path) -> None:
        try:
            self.path.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            move_over(self.path, target)


def move_over(source: Path, target: Path) -> None:
    """Move a file to another disk: its bytes first, its name last."""
    prefix = f".{target.name[:100]}."
    _sweep(target.parent, prefix)
    handle, name = tempfile.mkstemp(_BESIDE, prefix, target.parent)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        shutil.copy2(source, name)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    source.unlink()


def _sweep(folder: Path, prefix: str) -> None:
    """Remove what a killed process left beside a file: what nobody holds locked."""
    for path in folder.iterdir():
        if path.name.startswith(prefix) and path.name.endswith(_BESIDE):
            with suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


@contextmanager
def draft(
    session: Session, model: OpenFile, edits: Mapping[str, Edit], advance: Advance
) -> Iterator[Draft]:
    """Write a copy of a file with some tensors edited, in the scratch directory of the store.

    What a killed process leaves there is removed by the next one that stores something.

    Raises:
        FormatError: the format cannot make the rest of the file fit the new weights.
        StoreError: the disk is full, or cannot be written.
    """
    handle, path = session.store.temporary()
    made = Draft(handle, path)
    try:
        try:
            _copy(model.reader, handle, advance)
            _edit(model, edits, handle, session.settings.threads, advance)
            _refresh(model, handle)
            if session.settings.sync:
                os.fsync(handle)
        except OSError as error:
            store_failed(error, "the new file cannot be written")
        os.lseek(handle, 0, os.SEEK_SET)
        yield made
    finally:
        if not made.placed:
            path.unlink(missing_ok=True)
        os.close(handle)


def _copy(source: FileReader, handle: int, advance: Advance) -> None:
    for start in range(0, source.size, _BLOCK):
        part = source.read(start, min(_BLOCK, source.size - start))
        write_fully(handle, memoryview(part))
        advance(len(part))


def _edit(
    model: OpenFile, edits: Mapping[str, Edit], handle: int, threads: int, advance: Advance
) -> None:
    """Make the new chunks in parallel, as many at once as there are threads."""

    def change(edit: Edit, view: TensorView, start: int) -> int:
        segment = model.layout.segments[view.segment]
        size = min(CHUNK, segment.size - start)
        base = np.frombuffer(model.reader.read(segment.offset + start, size), np.uint8)
        if len(base) != size:
            raise FormatError("the file changed while it was being read")
        new = edit.changed(sliced(view, base, start))
        write_at(handle, new.data, segment.offset + start)
        return size

    waiting: deque[Future[int]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for name, edit in sorted(edits.items()):
                view = model.views[name]
                for start in range(0, model.layout.segments[view.segment].size, CHUNK):
                    waiting.append(pool.submit(change, edit, view, start))
                    if len(waiting) > threads:
                        advance(waiting.popleft().result())
            while waiting:
                advance(waiting.popleft().result())
        finally:
            pool.shutdown(cancel_futures=True)


def sliced(view: TensorView, data: Bytes, start: int) -> Slice:
    """A chunk that begins `start` bytes into its tensor, as updates see it."""
    return Slice(
        data=data,
        cut=planes.grain(view.dtype),
        dtype=view.dtype,
        columns=math.prod(view.shape[1:]) if len(view.shape) >= 2 else 0,
        start=start * 8 // DTYPES[view.dtype].bits,
    )


def _refresh(model: OpenFile, handle: int) -> None:
    """Let the format put right what depends on the weights' bytes."""
    patches = model.plugin.refresh(FileReader(handle), model.layout)
    for offset, patch in patches.items():
        write_at(handle, memoryview(patch), offset)
