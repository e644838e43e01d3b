"""A stream looked through to its end and then read gives the same bytes, whatever the file has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from blake3 import blake3

from git_theta.errors import RefusedError
from git_theta.repo.streams import PlainStream, SeenStream

MIB = 1 << 20
DATA = os.urandom(9 * MIB + 77)


@contextmanager
def seen(folder: Path, streamed: bytes, filed: bytes) -> Iterator[tuple[SeenStream, Path]]:
    """A stream of some bytes beside a work-tree file of some."""
    stream, file = folder / "stream", folder / "file"
    stream.write_bytes(streamed)
    file.write_bytes(filed)
    handles = [os.open(path, os.O_RDONLY) for path in (stream, file)]
    try:
        yield SeenStream(PlainStream(handles[0]), handles[1]), file
    finally:
        for handle in handles:
            os.close(handle)


def read(stream: SeenStream, step: int) -> bytes:
    found, room = b"", bytearray(step)
    while got := stream.readinto(memoryview(room)):
        found += room[:got]
    return found


@pytest.mark.parametrize("step", [MIB + 3, 20 * MIB])
@pytest.mark.parametrize("size", [0, 5, 4 * MIB, len(DATA)])
def test_the_file_itself(tmp_path: Path, size: int, step: int):
    data = DATA[:size]
    with seen(tmp_path, data, data) as (stream, _):
        assert stream.look() == blake3(data).hexdigest()
        assert stream.head(4096) == data[:4096]
        assert read(stream, step) == data
        assert read(stream, step) == b""


@pytest.mark.parametrize("at", [0, 100, 4 * MIB - 1, 4 * MIB, 9 * MIB + 76])
@pytest.mark.parametrize("step", [MIB + 3, 20 * MIB])
def test_another_file(tmp_path: Path, at: int, step: int):
    other = DATA[:at] + bytes([DATA[at] ^ 1]) + DATA[at + 1 :]
    with seen(tmp_path, DATA, other) as (stream, _):
        assert stream.look() is None
        assert stream.head(at + 9) == DATA[: at + 9]
        assert read(stream, step) == DATA


@pytest.mark.parametrize("size", [0, 3 * MIB, 5 * MIB])
def test_a_shorter_file(tmp_path: Path, size: int):
    with seen(tmp_path, DATA, DATA[:size]) as (stream, _):
        assert stream.look() is None
        assert read(stream, MIB) == DATA


@pytest.mark.parametrize("after", [b"", b"short", DATA[:-1] + bytes([DATA[-1] ^ 1])])
def test_a_file_that_changed_after_the_look(tmp_path: Path, after: bytes):
    with seen(tmp_path, DATA, DATA) as (stream, file):
        assert stream.look() is not None
        file.write_bytes(after)
        with pytest.raises(RefusedError):
            read(stream, MIB)


def test_what_is_drained_is_gone(tmp_path: Path):
    with seen(tmp_path, DATA, DATA[: 5 * MIB]) as (stream, _):
        assert stream.look() is None
        stream.drain()
        assert read(stream, MIB) == b""
