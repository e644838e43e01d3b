"""Stat data in Git's index, written without asking Git to read the files again.

A file that we wrote ourselves is known to be what the index names. Git could only find that out
by running the file through the filter; instead its stat data is put into the index under Git's own
lock. Index versions 2 to 4 are understood; a split index is left to Git.

Git trusts what the index knows of a file only if the file is older than the index; a younger one
it reads again. An index that we write is younger than all of them, so whatever changed since Git
last looked is marked first, as Git itself does: its size becomes 0.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from git_theta.repo.gitrepo import Repo
from git_theta.repo.objects import write_all

# Git trusts what it knows of a file only if the file is older than the index: by this many seconds.
BACK = 2
_HEADER = struct.Struct(">4sII")
_STAT = struct.Struct(">10I")
_EXTENDED, _STAGE = 0x4000, 0x3000
_SPLIT = b"link"


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where an entry's stat data begins, and what the entry is."""

    start: int
    oid: str
    stage: int
    path: bytes


def restat(repo: Repo, files: Mapping[str, str]) -> set[str]:
    """Tell the index that files (path from the top -> blob id) are as they are on disk.

    Returns the paths for which that was done; for any other one Git has to look for itself.
    """
    place = repo.cwd / repo.text("rev-parse", "--git-path", "index")
    lock = place.with_name(place.name + ".lock")
    try:
        handle = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError:
        return set()  # somebody else holds it, or we may not
    try:
        data = bytearray(place.read_bytes())
        done = _patch(data, repo, files, place.stat().st_mtime_ns // 10**9)
        if done:
            write_all(handle, [memoryview(data)])
            lock.replace(place)
    except (OSError, ValueError, struct.error, IndexError):
        return set()
    else:
        return done
    finally:
        os.close(handle)
        with suppress(FileNotFoundError):
            lock.unlink()


def recorded_sizes(repo: Repo) -> dict[str, int]:
    """The size that the index knows of each file, by its path from the top."""
    place = repo.cwd / repo.text("rev-parse", "--git-path", "index")
    width = hashlib.new(repo.config.get("extensions.objectformat", "sha1")).digest_size
    try:
        data = place.read_bytes()
        return {
            os.fsdecode(entry.path): _STAT.unpack_from(data, entry.start)[9]
            for entry in _entries(data, width)
            if entry.stage == 0
        }
    except (OSError, ValueError, struct.error, IndexError):
        return {}


def _patch(data: bytearray, repo: Repo, files: Mapping[str, str], written: int) -> set[str]:
    """Put in the stat data of files; `written` is the second in which Git wrote this index."""
    kind = repo.config.get("extensions.objectformat", "sha1")
    width = hashlib.new(kind).digest_size
    done = set()
    for entry in _entries(bytes(data), width):
        path = os.fsdecode(entry.path)
        old = _STAT.unpack_from(data, entry.start)
        if entry.stage == 0 and files.get(path) == entry.oid:
            stat = os.lstat(repo.cwd / path)
            _STAT.pack_into(data, entry.start, *_stat_fields(stat, old[6]))
            done.add(path)
        elif old[2] >= written and _has_changed(repo.cwd / path, old):
            _STAT.pack_into(data, entry.start, *old[:-1], 0)
    if done and any(data[-width:]):  # all zeros: Git was told to write no checksum
        data[-width:] = hashlib.new(kind, data[:-width]).digest()
    return done


def _has_changed(path: Path, known: tuple[int, ...]) -> bool:
    """Whether a file is another one than the index knows, to the nanosecond."""
    try:
        return tuple(_stat_fields(os.lstat(path), known[6])) != known
    except OSError:
        return False  # what is gone is seen in any case


def _stat_fields(stat: os.stat_result, mode: int) -> Iterator[int]:
    """Git's view of a file; the mode is its own business and stays."""
    for nanoseconds in (stat.st_ctime_ns, stat.st_mtime_ns):
        yield nanoseconds // 10**9 & 0xFFFFFFFF
        yield nanoseconds % 10**9
    for value in (stat.st_dev, stat.st_ino, mode, stat.st_uid, stat.st_gid, stat.st_size):
        yield value & 0xFFFFFFFF


def _entries(data: bytes, width: int) -> Iterator[_Entry]:
    magic, version, count = _HEADER.unpack_from(data)
    if magic != b"DIRC" or version not in (2, 3, 4):
        raise ValueError("not an index that we know")
    at, path = _HEADER.size, b""
    for _ in range(count):
        start = at
        at += _STAT.size
        oid = data[at : at + width].hex()
        at += width
        (flags,) = struct.unpack_from(">H", data, at)
        at += 4 if flags & _EXTENDED else 2
        if version == 4:
            strip, at = _varint(data, at)
            end = data.index(b"\0", at)
            path = path[: len(path) - strip] + data[at:end]
            at = end + 1
        else:
            end = data.index(b"\0", at)
            path = data[at:end]
            at = start + (end - start + 8) // 8 * 8
        yield _Entry(start, oid, (flags & _STAGE) >> 12, path)
    if data[at : at + len(_SPLIT)] == _SPLIT:
        raise ValueError("most entries are in another file")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Git's offset encoding: seven bits a byte, each further byte adding one."""
    value = data[at] & 0x7F
    while data[at] & 0x80:
        at += 1
        value = (value + 1) << 7 | data[at] & 0x7F
    return value, at + 1
