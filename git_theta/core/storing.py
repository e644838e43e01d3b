"""New tensors written into packs, chunk by chunk, as they are computed.

Chunks may be encoded on several threads; they are appended in order by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

from blake3 import blake3

from git_theta.core import planes, sketch
from git_theta.core.chain import Bytes, digest_of, encode_chunk
from git_theta.core.clean import SUMMARY, Spot, Tools
from git_theta.core.manifest import Chunk, Segment
from git_theta.core.payload import Buffer, Header, pack


@dataclass(frozen=True, slots=True)
class Fresh:
    """A chunk encoded, not yet in a pack; `known` is one that is stored already."""

    plain: Bytes
    digest: str
    record: list[Buffer]
    summary: list[Buffer] | None
    known: Chunk | None = None


@dataclass(frozen=True, slots=True)
class Stored(Generic[Spot]):
    """A chunk in packs that may have no name yet."""

    digest: str
    size: int
    kind: str
    spot: Spot
    summary: Spot | None


class Pending(Generic[Spot]):
    """A segment that is being written."""

    def __init__(self, tools: Tools[Spot]) -> None:
        self._tools = tools
        self._whole = blake3()
        self._parts: list[Chunk | Stored[Spot]] = []
        self.size = 0

    def append(self, fresh: Fresh) -> None:
        """Add the next chunk."""
        self._whole.update(fresh.plain.data)
        self.size += len(fresh.plain)
        if fresh.known is not None:
            self._parts.append(fresh.known)
            return
        spot = self._tools.data.append(fresh.record)
        summary = None
        if fresh.summary is not None:
            summary = self._tools.summaries.append(fresh.summary)
        kind = self._tools.update.name
        self._parts.append(Stored(fresh.digest, len(fresh.plain), kind, spot, summary))

    def segment(self) -> Segment:
        """The segment, once the packs are finished."""
        chunks = tuple(p if isinstance(p, Chunk) else self._placed(p) for p in self._parts)
        return Segment(self._whole.hexdigest(), self.size, chunks)

    def _placed(self, stored: Stored[Spot]) -> Chunk:
        at = self._tools.data.place(stored.spot)
        summary = None
        if stored.summary is not None:
            summary = self._tools.summaries.place(stored.summary)
        return Chunk(stored.digest, stored.size, stored.kind, at, None, summary)


def encode(tools: Tools[Spot], plain: Bytes, dtype: str) -> Fresh:
    """Encode one chunk, unless it is known. Safe to call from several threads."""
    digest = digest_of(plain)
    known = tools.known(digest)
    if known is not None and known.size == len(plain):
        return Fresh(plain, digest, [], None, known)
    cut = planes.grain(dtype) if dtype else planes.Grain()
    record = encode_chunk(plain, digest, cut, tools.update)
    return Fresh(plain, digest, record, _summary(plain, dtype) if dtype else None)


def store_bytes(tools: Tools[Spot], parts: Sequence[Bytes]) -> Pending[Spot]:
    """Store bytes that are no tensor."""
    pending = Pending(tools)
    for part in parts:
        pending.append(encode(tools, part, ""))
    return pending


def _summary(plain: Bytes, dtype: str) -> list[Buffer] | None:
    summary = sketch.summarize(plain, dtype)
    if summary is None:
        return None
    packed = summary.pack()
    header = Header(digest=bytes.fromhex(digest_of(packed)), size=len(packed), kind=SUMMARY)
    return [b"".join(pack(header, [packed]))]
