"""Git's packets over a real pipe, whatever the sizes and wherever the reads end."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from git_theta.repo.pktline import MAX_PAYLOAD, PacketReader, PacketWriter, ProtocolError

SIZES = [0, 1, 65515, 65516, 65517, 131032, 131033, (32 << 20) - 1, 32 << 20, (32 << 20) + 1]
SOURCE = random.Random(5).randbytes(1 << 20)


def content(size: int) -> bytes:
    """Bytes that show where they belong."""
    return (SOURCE * (size // len(SOURCE) + 1))[:size]


class Feeding:
    """Writes to a pipe from a thread, in pieces of given lengths."""

    def __init__(self, data: bytes, pieces: Iterator[int] | None = None) -> None:
        self.reading, self._writing = os.pipe()
        self._data, self._pieces = data, pieces
        self._thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        view, pieces = memoryview(self._data), self._pieces or iter([])
        with suppress(BrokenPipeError):  # what is refused is not read to its end
            while view:
                view = view[os.write(self._writing, view[: next(pieces, 1 << 30)]) :]
        os.close(self._writing)

    def __enter__(self) -> PacketReader:
        self._thread.start()
        return PacketReader(self.reading)

    def __exit__(self, *_: object) -> None:
        os.close(self.reading)
        self._thread.join()


def packets(data: bytes, lengths: Iterator[int]) -> bytes:
    """Content in packets of these lengths, and a flush packet."""
    out, at = [], 0
    while at < len(data):
        part = data[at : at + next(lengths, MAX_PAYLOAD)]
        out.append(b"%04x" % (len(part) + 4) + part)
        at += len(part)
    return b"".join([*out, b"0000"])


def read_all(reader: PacketReader, step: int) -> bytes:
    found, stream = [], reader.content()
    buffer = memoryview(bytearray(step))
    while got := stream.readinto(buffer):
        found.append(bytes(buffer[:got]))
    return b"".join(found)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_written_is_read(size: int):
    data = content(size)
    reading, writing = os.pipe()

    def write() -> None:
        writer = PacketWriter(writing)
        writer.data(memoryview(data))
        writer.flush()
        writer.lines("status=success", "path=ü\udcff")
        os.close(writing)

    thread = threading.Thread(target=write)
    thread.start()
    reader = PacketReader(reading)
    assert read_all(reader, 8 << 20) == data
    assert reader.lines() == {"status": "success", "path": "ü\udcff"}
    with pytest.raises(EOFError):
        reader.packet()
    thread.join()
    os.close(reading)


LENGTHS = st.lists(st.sampled_from([1, 2, 4, 5, 1000, 65515, 65516]), max_size=40)


@settings(max_examples=150)
@given(
    size=st.one_of(st.integers(0, 300_000), st.sampled_from([65515, 65516, 65517, 131032])),
    lengths=LENGTHS,
    pieces=st.lists(st.integers(1, 70_000), max_size=40),
    step=st.sampled_from([1 << 20, 65516, 65520, 70_000, 4096, 131_033]),
    head=st.sampled_from([0, 1, 64, 4096, 70_000]),
)
def test_short_packets_and_short_reads(
    size: int, lengths: list[int], pieces: list[int], step: int, head: int
):
    data = content(size)
    sent = packets(data, iter(lengths)) + b"000cfollows\n" + b"0000"
    with Feeding(sent, iter(pieces)) as reader:
        stream = reader.content()
        assert stream.head(head) == data[:head]
        found, buffer = [], memoryview(bytearray(step))
        while got := stream.readinto(buffer):
            found.append(bytes(buffer[:got]))
        assert b"".join(found) == data
        assert reader.lines() == {"follows": ""}


def test_unread_content_is_skipped():
    sent = packets(content(400_000), iter([7, 65516])) + b"0009next\n"[:9] + b"0000"
    with Feeding(sent) as reader:
        stream = reader.content()
        assert stream.head(10) == content(10)
        stream.drain()
        assert reader.lines() == {"next": ""}


@pytest.mark.parametrize("sent", [b"zzzz", b"0003", b"fff5" + bytes(70_000), b"-001"])
def test_nonsense_is_refused(sent: bytes):
    with Feeding(sent) as reader, pytest.raises(ProtocolError):
        reader.packet()


@pytest.mark.parametrize("sent", [b"", b"00", b"0009ab", b"fff0abc"])
def test_a_pipe_that_ends_early(sent: bytes):
    with Feeding(sent) as reader, pytest.raises(EOFError):
        read_all(reader, 1 << 20)
