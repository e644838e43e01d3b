"""Another place to measure in: an image of a file system on which files can share their blocks."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.sandbox import RunError, Sandbox

# Of several kinds, the first for which there is a program.
_KINDS = {
    "XFS": ("mkfs.xfs", "-q", "-m", "reflink=1"),
    "btrfs": ("mkfs.btrfs", "-q"),
}
_CLONE = 0x40049409  # FICLONE of linux/fs.h


@dataclass(frozen=True)
class Place:
    """A folder below that of the sandbox, and what it lies on."""

    folder: str
    name: str
    reflinks: bool


def here(box: Sandbox) -> Place:
    """The place that the sandbox is in."""
    words = ["df", "--output=fstype", str(box.root)]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    kind = done.stdout.split()[-1] if done.returncode == 0 else "this disk"
    can = _can_share(box.root)
    return Place(".", f"{kind}, {'with' if can else 'no'} reflinks", can)


def _can_share(folder: Path) -> bool:
    one, other = folder / "one", folder / "other"
    one.write_bytes(bytes(1 << 16))
    try:
        with one.open("rb") as source, other.open("wb") as target:
            fcntl.ioctl(target, _CLONE, source.fileno())
    except OSError:
        return False
    else:
        return True
    finally:
        one.unlink()
        other.unlink(missing_ok=True)


@contextmanager
def mounted(box: Sandbox, size: int) -> Iterator[Place]:
    """A new file system with reflinks, gone afterwards.

    Raises:
        RunError: there is none to be had here.
    """
    if os.geteuid():
        raise RunError("only root can mount an image of a file system with reflinks")
    kind = next((k for k, words in _KINDS.items() if shutil.which(words[0])), None)
    if kind is None:
        raise RunError("neither mkfs.xfs nor mkfs.btrfs is installed")
    image, folder = box.root / "image", box.root / "reflinks"
    with image.open("wb") as file:
        file.truncate(size)
    folder.mkdir()
    try:
        box.run(*_KINDS[kind], str(image), cwd=box.root)
        box.run("mount", "-o", "loop", str(image), str(folder), cwd=box.root)
        try:
            if not _can_share(folder):
                raise RunError(f"{kind} as it is made here has no reflinks")
            yield Place(folder.name, f"{kind} image, with reflinks", True)
        finally:
            box.run("umount", str(folder), cwd=box.root)
    finally:
        folder.rmdir()
        image.unlink()
