"""Stored bytes: records, and the frames inside them.

An object is `OBJECT_MAGIC` and then records, one behind the other. A record is self-describing
and can be read alone from its byte range: the length of its header (u32, little-endian), a
msgpack header that names the BLAKE3 digest of the plain bytes, then the frames. A frame as long as
the bytes it stands for is stored raw; any other is one zstd frame.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgpack
import zstandard

from git_theta.core.manifest import MAX_CHUNK
from git_theta.errors import CorruptError

OBJECT_MAGIC = b"git-theta obj 1\n"
_LENGTH = struct.Struct("<I")
_MAX_HEADER = 16 << 20

Buffer: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a record says of itself.

    `digest` (32 bytes) and `size` are of the plain bytes; `kind` names the update; `word` is the
    width in bytes of the numbers (0: bytes of no known kind), `turn` the bits by which each is
    rotated left; `block` counts words in a block;
    `frames` holds the stored length of each frame in bytes; `base` is the digest of the chunk an
    update is applied to, and `align` what is done to it first (`core/align.py`); `extra` is the
    update's own.
    """

    digest: bytes
    size: int
    kind: str
    word: int = 0
    turn: int = 0
    block: int = 0
    frames: tuple[int, ...] = ()
    base: bytes | None = None
    align: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


def pack(header: Header, frames: Sequence[Buffer]) -> list[Buffer]:
    """Write a record as a list of buffers, without copying the frames."""
    fields: dict[str, Any] = {
        "d": header.digest,
        "n": header.size,
        "k": header.kind,
        "w": header.word,
        "e": header.block,
        "f": [len(frame) for frame in frames],
    }
    if header.turn:
        fields["t"] = header.turn
    if header.base is not None:
        fields["b"] = header.base
    if header.align:
        fields["a"] = header.align
    if header.extra:
        fields["x"] = header.extra
    packed: bytes = msgpack.packb(fields)
    return [_LENGTH.pack(len(packed)) + packed, *frames]


def unpack(record: Buffer) -> tuple[Header, Iterator[memoryview]]:
    """Read a record: its header, and its frames as views.

    Raises:
        CorruptError: the bytes are no record.
    """
    view = memoryview(record)
    header, start = _header(view)
    if start + sum(header.frames) != len(view):
        raise CorruptError("a stored record has the wrong length")
    return header, _frames(view, start, header.frames)


def body(record: memoryview) -> memoryview:
    """What follows the header of a record, unread: for many small records of one raw frame.

    Raises:
        CorruptError: the bytes are no record.
    """
    if len(record) < _LENGTH.size:
        raise CorruptError("a stored record is too short")
    return record[_LENGTH.size + _LENGTH.unpack_from(record)[0] :]


def header_of(start: Buffer) -> Header:
    """Read the header of a record from its first bytes.

    Raises:
        CorruptError: the bytes are no record's.
    """
    return _header(memoryview(start))[0]


def _frames(view: memoryview, start: int, sizes: Sequence[int]) -> Iterator[memoryview]:
    for size in sizes:
        yield view[start : start + size]
        start += size


def _header(view: memoryview) -> tuple[Header, int]:
    if len(view) < _LENGTH.size:
        raise CorruptError("a stored record is too short")
    (length,) = _LENGTH.unpack_from(view)
    end = _LENGTH.size + length
    if length > _MAX_HEADER or end > len(view):
        raise CorruptError("a stored record's header is damaged")
    try:
        raw = msgpack.unpackb(view[_LENGTH.size : end])
        base = raw.get("b")
        header = Header(
            digest=_bytes32(raw["d"]),
            size=_count(raw["n"], MAX_CHUNK),
            kind=str(raw["k"]),
            word=_count(raw["w"], 8),
            turn=_count(raw.get("t", 0), 63),
            block=_count(raw["e"], 1 << 27),
            frames=tuple(_count(size, MAX_CHUNK) for size in raw["f"]),
            base=None if base is None else _bytes32(base),
            align=dict(raw.get("a", {})),
            extra=dict(raw.get("x", {})),
        )
    except (ValueError, KeyError, TypeError, AttributeError, msgpack.UnpackException) as error:
        raise CorruptError(f"a stored record's header is damaged: {error!r}") from error
    return header, end


def _count(value: object, limit: int) -> int:
    if type(value) is not int or not 0 <= value <= limit:
        raise ValueError(f"{value!r} is no count up to {limit}")
    return value


def _bytes32(value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) != 32:
        raise ValueError("not a digest")
    return value


def records(data: Buffer) -> Iterator[tuple[int, int, Header]]:
    """Walk a whole object: (offset, length, header) of each record.

    Raises:
        CorruptError: the bytes are no object of this version.
    """
    view = memoryview(data)
    if bytes(view[: len(OBJECT_MAGIC)]) != OBJECT_MAGIC:
        raise CorruptError("not a git-theta object of version 1")
    at = len(OBJECT_MAGIC)
    while at < len(view):
        header, start = _header(view[at:])
        length = start + sum(header.frames)
        if at + length > len(view):
            raise CorruptError("a stored object is cut short")
        yield at, length, header
        at += length


def squeeze(data: Buffer, compressor: zstandard.ZstdCompressor) -> Buffer:
    """Compress one frame, or return the bytes themselves where that would not be shorter."""
    packed = compressor.compress(data)
    return packed if len(packed) < len(data) else data


def expand(frame: Buffer, size: int, decompressor: zstandard.ZstdDecompressor) -> Buffer:
    """Undo `squeeze`; never makes more than `size` bytes.

    Raises:
        CorruptError: the frame does not hold exactly `size` bytes.
    """
    if len(frame) == size:
        return frame
    try:
        if zstandard.frame_content_size(frame) != size:
            raise CorruptError("a stored frame has the wrong length")
        plain = decompressor.decompress(frame)
    except zstandard.ZstdError as error:
        raise CorruptError(f"a stored frame is damaged: {error}") from error
    if len(plain) != size:
        raise CorruptError("a stored frame has the wrong length")
    return plain
