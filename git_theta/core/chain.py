"""One chunk: plain bytes -> record, and record (with its bases) -> plain bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from git_theta.core.manifest import Chunk, Place
from git_theta.core.payload import Buffer, Header, pack, unpack
from git_theta.core.planes import Grain
from git_theta.errors import CorruptError

Bytes = npt.NDArray[np.uint8]
Read = Callable[[Place], bytes]

MAX_LINKS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """What an update makes of a chunk: frames, and what it must know to read them again."""

    frames: list[bytes]
    cut: Grain
    block: int
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """The bytes of one chunk, and how they lie in their tensor.

    `data` has `uint8` bytes; `cut` says what its numbers are like. `dtype` is empty where it is
    not known. `columns` is the number of elements in a row (the product of all dimensions but the
    first; 0 where the tensor has fewer than two), `start` the index of the chunk's first element
    in the tensor, so that element i lies in column `(start + i) % columns`.
    """

    data: Bytes
    cut: Grain
    dtype: str = ""
    columns: int = 0
    start: int = 0


class Update(Protocol):
    """A way to store a chunk, exactly. `name` goes into manifests and is a promise.

    A base has been brought to the dtype and length of the chunk before an update sees it.
    """

    name: ClassVar[str]
    needs_base: ClassVar[bool]

    def estimate(self, new: Slice, base: Bytes | None) -> float | None:
        """About how many bytes `encode` would make, from samples; None where it would decline.

        This is asked of every update for every chunk that changed, so it has to be cheap: a few
        milliseconds for a chunk of 32 MiB.
        """
        ...

    def encode(self, new: Slice, base: Bytes | None) -> Encoded | None:
        """Encode a chunk, or decline with None."""
        ...

    def decode(
        self, header: Header, frames: Iterator[memoryview], base: Bytes | None, out: Bytes
    ) -> None:
        """Fill `out` with the chunk.

        Raises:
            CorruptError: the frames are damaged.
        """
        ...


Updates = Callable[[str], Update]


def digest_of(data: Buffer | Bytes) -> str:
    """The identity of bytes: BLAKE3, 64 hexadecimal digits."""
    return blake3(data.data if isinstance(data, np.ndarray) else data).hexdigest()


def encode_chunk(data: Bytes, digest: str, cut: Grain, update: Update) -> list[Buffer]:
    """Write a chunk as a record that stands alone.

    Raises:
        CorruptError: the update declined; a `dense` one never does.
    """
    encoded = update.encode(Slice(data=data, cut=cut), None)
    if encoded is None:
        raise CorruptError(f"the update {update.name!r} declined to store a chunk")
    header = Header(
        digest=bytes.fromhex(digest),
        size=len(data),
        kind=update.name,
        word=encoded.cut.word,
        turn=encoded.cut.turn,
        block=encoded.block,
        extra=encoded.extra,
    )
    return pack(header, encoded.frames)


def decode_chunk(
    chunk: Chunk,
    read: Read,
    updates: Updates,
    chunks: Mapping[str, Chunk],
    out: Bytes | None = None,
    *,
    links: int = 0,
) -> Bytes:
    """Read a chunk and the bases it needs, and prove it by its digest.

    `chunks` finds bases by digest. `out` (of the chunk's size) is filled where given.

    Raises:
        CorruptError: what is stored is not what the manifest names.
        MissingError: an object is not here.
    """
    if links > MAX_LINKS:
        raise CorruptError("a chain of updates is too long")
    header, frames = unpack(read(chunk.at))
    if header.digest.hex() != chunk.digest or header.size != chunk.size:
        raise CorruptError(f"a stored record is not of the chunk {chunk.digest[:16]}")
    if header.kind != chunk.kind:
        raise CorruptError(f"a stored record is {header.kind!r}, not {chunk.kind!r}")
    base = None
    if chunk.base is not None:
        if chunk.base not in chunks:
            raise CorruptError(f"the base of chunk {chunk.digest[:16]} is not in the manifest")
        base = decode_chunk(chunks[chunk.base], read, updates, chunks, links=links + 1)
    plain = np.empty(chunk.size, np.uint8) if out is None else out
    updates(chunk.kind).decode(header, frames, base, plain)
    if digest_of(plain) != chunk.digest:
        raise CorruptError(f"chunk {chunk.digest[:16]} does not decode to what it was")
    return plain
