"""Where the members of a zip archive lie, without unpacking anything.

Stricter than unzip programs, because two readers that disagree about an archive would disagree
about a model: the directory must fill the space before its end record, every member's own header
must say what the directory says, and no two members may overlap.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from git_theta.core import limits
from git_theta.core.layout import RangeReader
from git_theta.errors import FormatError

# Below this no ratio is suspicious: a page of zeros is a page of zeros.
_SMALL = 1 << 20

STORED, DEFLATED = 0, 8
_ENCRYPTED, _DESCRIPTOR = 0x1, 0x8
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF

_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_MAX_COMMENT = 0xFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file of the archive; `crc_at` are the offsets of all copies of its CRC-32."""

    name: str
    method: int
    crc: int
    packed: int
    size: int
    header: int
    data: int
    crc_at: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One line of the central directory, at the offset `at`."""

    at: int
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    header: int


def read_members(file: RangeReader) -> list[Member]:
    """List the members in the order of the file.

    Raises:
        FormatError: this is no zip archive, or one that readers could disagree about.
    """
    count, size, start = _find_directory(file)
    most = limits.current()
    if count > 2 * most.tensors:  # an archive may keep a file of its own beside each tensor
        raise FormatError(f"the zip directory lists {count:,} members; {most.told('tensors')}")
    if size > most.header:
        raise FormatError(f"the zip directory has {size:,} bytes; {most.told('header')}")
    raw = file.read(start, size)
    if len(raw) != size:
        raise FormatError("the file ends within the zip directory")
    entries = sorted(_entries(raw, start), key=lambda entry: entry.header)
    if len(entries) != count:
        raise FormatError(f"the zip directory holds {len(entries)} members, not {count}")
    if len({entry.raw_name for entry in entries}) != count:
        raise FormatError("two members of the zip have the same name")
    members = []
    for index, entry in enumerate(entries):
        room = entries[index + 1].header if index + 1 < count else start
        members.append(_member(file, entry, room))
    return members


def unpack(file: RangeReader, member: Member, *, limit: int | None = None) -> bytes:
    """Return the bytes of a member, its CRC checked: at most `limit`, or what a header may have."""
    most = limits.current().header if limit is None else limit
    if member.size > most:
        told = f"the limit is {limit:,}" if limit is not None else limits.current().told("header")
        raise FormatError(f"{member.name!r} has {member.size:,} bytes; {told}")
    raw = file.read(member.data, member.packed)
    if len(raw) != member.packed:
        raise FormatError(f"the file ends within {member.name!r}")
    if member.method == DEFLATED:
        raw = _inflate(raw, member)
    elif member.method != STORED:
        raise FormatError(f"{member.name!r} is packed by the unknown method {member.method}")
    if len(raw) != member.size or zlib.crc32(raw) != member.crc:
        raise FormatError(f"{member.name!r} is not what its CRC-32 promises")
    return raw


def _inflate(raw: bytes, member: Member) -> bytes:
    most = limits.current()
    if member.size > _SMALL and member.size > most.ratio * member.packed:
        raise FormatError(
            f"{member.name!r} swells from {member.packed:,} to {member.size:,} bytes; "
            f"{most.told('ratio')}"
        )
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        return machine.decompress(raw, member.size + 1)
    except zlib.error as error:
        raise FormatError(f"{member.name!r} cannot be inflated: {error}") from None


def _find_directory(file: RangeReader) -> tuple[int, int, int]:
    """Return the number of members, and the size and offset of the central directory."""
    if file.size is None:
        raise FormatError("a zip archive is read from its end, which is not here yet")
    tail_at = max(0, file.size - _MAX_COMMENT - _END.size)
    tail = file.read(tail_at, file.size - tail_at)
    at = tail.rfind(b"PK\5\6")
    while at >= 0:
        if len(tail) - at >= _END.size and tail[at + 20 : at + 22] == _u16(len(tail) - at - 22):
            break
        at = tail.rfind(b"PK\5\6", 0, at)
    if at < 0:
        raise FormatError("the zip archive has no end record: it is truncated, or no zip")
    _, disk, first, here, count, size, start, _ = _END.unpack_from(tail, at)
    end = tail_at + at
    sixty_four = _find_directory64(file, end)
    if sixty_four is not None:
        count, size, start, end = sixty_four
    elif disk or first or here != count:
        raise FormatError("the zip archive is spread over several files")
    if start + size != end:
        raise FormatError(f"the zip directory at {start} of {size} bytes does not end at {end}")
    return count, size, start


def _find_directory64(file: RangeReader, end: int) -> tuple[int, int, int, int] | None:
    """Read the zip64 end record that the locator before `end` points at, if there is one."""
    raw = file.read(end - _LOCATOR.size, _LOCATOR.size) if end >= _LOCATOR.size else b""
    if raw[:4] != b"PK\6\7":
        return None
    _, disk, at, disks = _LOCATOR.unpack(raw)
    record = file.read(at, _END64.size) if at + _END64.size <= end else b""
    if len(record) < _END64.size or record[:4] != b"PK\6\6" or disk or disks > 1:
        raise FormatError("the zip64 locator points at no end record")
    _, length, _, _, disk, first, here, count, size, start = _END64.unpack(record)
    if at + 12 + length != end - _LOCATOR.size or disk or first or here != count:
        raise FormatError("the zip64 end record does not fit into its place")
    return count, size, start, at


def _u16(number: int) -> bytes:
    return number.to_bytes(2, "little")


def _entries(raw: bytes, start: int) -> Iterator[_Entry]:
    at = 0
    while at < len(raw):
        if len(raw) - at < _CENTRAL.size or raw[at : at + 4] != b"PK\1\2":
            raise FormatError(f"the zip directory is damaged at {start + at}")
        (
            _,
            _,
            _,
            flags,
            method,
            _,
            _,
            crc,
            packed,
            size,
            name,
            extra,
            comment,
            disk,
            _,
            _,
            header,
        ) = _CENTRAL.unpack_from(raw, at)
        body = at + _CENTRAL.size
        wide = _widen(raw[body + name : body + name + extra], [size, packed, header])
        if flags & _ENCRYPTED or disk not in (0, _FULL16):
            raise FormatError("the zip archive is encrypted, or spread over several files")
        yield _Entry(
            at=start + at,
            raw_name=raw[body : body + name],
            flags=flags,
            method=method,
            crc=crc,
            packed=wide[1],
            size=wide[0],
            header=wide[2],
        )
        at = body + name + extra + comment
    if at != len(raw):
        raise FormatError("the zip directory ends within a member")


def _widen(extra: bytes, numbers: list[int]) -> list[int]:
    """Replace numbers that are full by those of the zip64 extra field, which keeps their order."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        field = extra[at + 4 : at + 4 + size]
        if kind == 1:
            for index, number in enumerate(numbers):
                if number == _FULL32:
                    if len(field) < 8:
                        raise FormatError("a zip64 field is too short")
                    numbers[index] = int.from_bytes(field[:8], "little")
                    field = field[8:]
            break
        at += 4 + size
    return numbers


def _member(file: RangeReader, entry: _Entry, room: int) -> Member:
    """Check a member's own header; `room` is where the next thing in the file begins."""
    name = entry.raw_name.decode("utf-8", "replace")
    # One read serves nearly always: the extra field pads data to 64 bytes.
    fixed = _LOCAL.size + len(entry.raw_name)
    raw = file.read(entry.header, fixed + 128)
    if len(raw) < fixed or raw[:4] != b"PK\3\4":
        raise FormatError(f"{name!r} has no header at {entry.header}")
    _, _, flags, method, _, _, crc, packed, size, length, extra = _LOCAL.unpack_from(raw)
    if raw[_LOCAL.size : fixed] != entry.raw_name or length != len(entry.raw_name):
        raise FormatError(f"the header of {name!r} has another name than the zip directory")
    if len(raw) < fixed + extra:
        raw = file.read(entry.header, fixed + extra)
    wide = _widen(raw[fixed : fixed + extra], [size, packed])
    later = bool(flags & _DESCRIPTOR)
    same = [crc, wide[1], wide[0]] == [entry.crc, entry.packed, entry.size]
    blank = later and not crc and not any(wide)
    if flags != entry.flags or method != entry.method or not (same or blank):
        raise FormatError(f"the header of {name!r} says otherwise than the zip directory")
    data = entry.header + fixed + extra
    if data + entry.packed > room or (method == STORED and entry.packed != entry.size):
        raise FormatError(f"{name!r} of {entry.packed} bytes runs into what follows at {room}")
    places = [entry.at + 16]
    if same and not blank:
        places.append(entry.header + 14)
    if later:
        places.append(_descriptor(file, entry, name, data + entry.packed, room))
    return Member(
        name=name, method=method, crc=entry.crc, packed=entry.packed, size=entry.size,
        header=entry.header, data=data, crc_at=tuple(places),
    )  # fmt: skip


def _descriptor(file: RangeReader, entry: _Entry, name: str, at: int, room: int) -> int:
    """Return where the CRC lies in the record after the data; it has four possible shapes."""
    raw = file.read(at, min(24, room - at))
    for shape in ("<4sI2Q", "<4s3I", "<I2Q", "<3I"):
        if struct.calcsize(shape) > len(raw):
            continue
        fields = list(struct.unpack_from(shape, raw))
        skip = 4 if "s" in shape else 0
        if skip and fields.pop(0) != b"PK\7\x08":
            continue
        if fields == [entry.crc, entry.packed, entry.size]:
            return at + skip
    raise FormatError(f"the record after {name!r} says otherwise than the zip directory")
