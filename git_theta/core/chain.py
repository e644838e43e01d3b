"""One chunk: plain bytes -> record, and record (with its bases) -> plain bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from git_theta.core.align import PLAIN, Align
from git_theta.core.align import pack as pack_align
from git_theta.core.align import unpack as unpack_align
from git_theta.core.manifest import Chunk, Place
from git_theta.core.payload import Buffer, Header, pack, unpack
from git_theta.core.planes import Grain
from git_theta.errors import CorruptError

Bytes = npt.NDArray[np.uint8]
Read = Callable[[Place], Buffer]

MAX_LINKS = 64
_NOTHING: Mapping[str, Bytes] = MappingProxyType({})


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

    A base has been brought to the dtype and length of the chunk before an update sees it. One that
    has an attribute `in_place` which is true can decode into the array of its base; others never
    get the same array twice.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What a record says of its base: which chunk it is, and what is done to it first."""

    digest: str
    align: Align = PLAIN


def digest_of(data: Buffer | Bytes) -> str:
    """The identity of bytes: BLAKE3, 64 hexadecimal digits."""
    return blake3(data.data if isinstance(data, np.ndarray) else data).hexdigest()


def write_record(
    new: Slice, digest: str, kind: str, encoded: Encoded, base: Base | None = None
) -> list[Buffer]:
    """A record of what an update made of a chunk."""
    header = Header(
        digest=bytes.fromhex(digest),
        size=len(new.data),
        kind=kind,
        word=encoded.cut.word,
        turn=encoded.cut.turn,
        block=encoded.block,
        base=None if base is None else bytes.fromhex(base.digest),
        align={} if base is None else pack_align(base.align),
        extra=encoded.extra,
    )
    return pack(header, encoded.frames)


class _Scratch(threading.local):
    """Buffers of one thread, by name: fresh memory costs more than the work done in it."""

    def __init__(self) -> None:
        self._buffers: dict[str, Bytes] = {}

    def take(self, name: str, size: int) -> Bytes:
        """A buffer with any content, valid until the same name is asked for again."""
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < size:
            self._buffers.pop(name, None)
            self._buffers[name] = buffer = np.empty(size, np.uint8)
        return buffer[:size]


scratch = _Scratch()


def decode_chunk(
    chunk: Chunk,
    read: Read,
    updates: Updates,
    chunks: Mapping[str, Chunk],
    out: Bytes | None = None,
    held: Mapping[str, Bytes] = _NOTHING,
) -> Bytes:
    """Read a chunk and the bases it needs, and prove it by its digest.

    `chunks` finds bases by digest, `held` those whose bytes are at hand. `out` (of the chunk's
    size) is filled where given. What `read` gives need be valid only until it is called again.

    Raises:
        CorruptError: what is stored is not what the manifest names.
        MissingError: an object is not here.
    """
    plain = np.empty(chunk.size, np.uint8) if out is None else out
    links = links_of(chunk, chunks)
    start = next((n for n, link in enumerate(links) if n and link.digest in held), len(links))
    base = held[links[start].digest] if start < len(links) else None
    for number, link in enumerate(reversed(links[:start])):
        fits = link.size == len(plain)
        target = plain if fits else scratch.take(f"link {number % 2}", link.size)
        if base is target and not getattr(updates(link.kind), "in_place", False):
            base = scratch.take("copy", len(target))
            np.copyto(base, target)
        _decode_link(link, read(link.at), updates, base, target)
        base = target
    # Only the last bytes are proven: a wrong base cannot make the right ones but by chance.
    if digest_of(plain) != chunk.digest:
        raise CorruptError(f"chunk {chunk.digest[:16]} does not decode to what it was")
    return plain


def links_of(chunk: Chunk, chunks: Mapping[str, Chunk]) -> list[Chunk]:
    """A chunk, its base, the base of that, and so on to the root.

    Raises:
        CorruptError: a base is not known, or the chain is too long.
    """
    found = [chunk]
    while (base := found[-1].base) is not None:
        if base not in chunks:
            raise CorruptError(f"the base of chunk {found[-1].digest[:16]} is not in the manifest")
        if len(found) > MAX_LINKS:
            raise CorruptError("a chain of updates is too long")
        found.append(chunks[base])
    return found


def sealed(chunk: Chunk, chunks: Mapping[str, Chunk]) -> Chunk:
    """A chunk as it was proven: its base stands for every record of its chain.

    The same chunk above other records of its bases has another seal, and has to be proven anew.

    Raises:
        CorruptError: a base is not known, or the chain is too long.
    """
    bare = chunk._replace(summary=None, lossy=False)
    if chunk.base is None:
        return bare
    told = "".join(f"{link.digest} {link.at} {link.kind}\n" for link in links_of(chunk, chunks)[1:])
    return bare._replace(base=digest_of(told.encode()))


def _decode_link(
    link: Chunk, record: Buffer, updates: Updates, base: Bytes | None, out: Bytes
) -> None:
    header, frames = unpack(record)
    if header.digest.hex() != link.digest or header.size != link.size:
        raise CorruptError(f"a stored record is not of the chunk {link.digest[:16]}")
    if header.kind != link.kind:
        raise CorruptError(f"a stored record is {header.kind!r}, not {link.kind!r}")
    if (None if header.base is None else header.base.hex()) != link.base:
        raise CorruptError(f"a stored record of chunk {link.digest[:16]} has another base")
    align = _align_of(header)
    if base is not None and not align.is_plain(len(out), len(base)):
        aligned = scratch.take("aligned", len(out))
        align.apply(base, aligned)
        base = aligned
    update = updates(link.kind)
    if base is None and update.needs_base:
        raise CorruptError(f"a stored record of kind {link.kind!r} has no base")
    update.decode(header, frames, base, out)


def _align_of(header: Header) -> Align:
    if not header.align:
        return PLAIN
    try:
        return unpack_align(header.align)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptError(f"a stored record's base cannot be aligned: {error!r}") from error
