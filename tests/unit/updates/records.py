"""Whole records of updates: written, and read again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from git_theta.core.chain import Bytes, Encoded, Slice, Update, digest_of
from git_theta.core.payload import Header, pack, unpack
from git_theta.core.planes import grain


def part(array: npt.NDArray[np.generic], dtype: str, *, start: int = 0) -> Slice:
    """An array as a chunk of that dtype."""
    columns = array.shape[1] if array.ndim > 1 else 0
    return Slice(data=raw(array), cut=grain(dtype), dtype=dtype, columns=columns, start=start)


def raw(array: npt.NDArray[np.generic]) -> Bytes:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def bf16(values: npt.NDArray[np.floating]) -> npt.NDArray[np.uint16]:
    """Rounded to nearest, ties to even."""
    words = np.ascontiguousarray(values, "<f4").view("<u4").astype(np.uint64)
    return ((words + 0x7FFF + ((words >> 16) & 1)) >> 16).astype("<u2")


def record(name: str, new: Slice, encoded: Encoded) -> bytes:
    header = Header(
        digest=bytes.fromhex(digest_of(new.data)),
        size=len(new.data),
        kind=name,
        word=encoded.cut.word,
        turn=encoded.cut.turn,
        block=encoded.block,
        extra=encoded.extra,
    )
    return b"".join(bytes(piece) for piece in pack(header, encoded.frames))


def stored(update: Update, new: Slice, base: Bytes) -> bytes:
    """A chunk as a record; it may not be declined."""
    encoded = update.encode(new, base)
    assert encoded is not None
    return record(update.name, new, encoded)


def restored(update: Update, data: bytes, base: Bytes) -> Bytes:
    header, frames = unpack(data)
    out = np.empty(header.size, np.uint8)
    update.decode(header, frames, base, out)
    return out


def size_of(update: Update, new: Slice, base: Bytes) -> float:
    """What share of its bytes a chunk takes as a record, which has to give it back."""
    data = stored(update, new, base)
    assert restored(update, data, base).tobytes() == new.data.tobytes()
    return len(data) / len(new.data)
