"""New tensors written into packs, chunk by chunk, as they are computed.

Chunks may be encoded on several threads; they are appended in order by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

from blake3 import blake3

from git_theta.core import planes, sketch
from git_theta.core.chain import Bytes, Slice, digest_of
from git_theta.core.choice import Outcome, dense_record
from git_theta.core.clean import Spot, Tools, packed_summary
from git_theta.core.dtypes import DTYPES
from git_theta.core.layout import columns_of
from git_theta.core.manifest import Chunk, Segment
from git_theta.core.payload import Buffer
from git_theta.core.relatives import Where


@dataclass(frozen=True, slots=True)
class Fresh:
    """A chunk encoded, not yet in a pack, or one that is `known` to be stored already.

    `plain` is None where it is not needed any more: for the only chunk of a segment.
    """

    plain: Bytes | None
    size: int
    digest: str
    outcome: Outcome | None = None
    summary: list[Buffer] | None = None
    known: Chunk | None = None

    @property
    def nbytes(self) -> int:
        """The bytes that it holds in memory."""
        record = [] if self.outcome is None else self.outcome.record
        plain = 0 if self.plain is None else len(self.plain)
        return plain + sum(len(buffer) for buffer in [*record, *(self.summary or [])])


@dataclass(frozen=True, slots=True)
class _Stored(Generic[Spot]):
    """A chunk in packs that may have no name yet."""

    digest: str
    size: int
    outcome: Outcome
    spot: Spot
    summary: Spot | None


class Pending(Generic[Spot]):
    """A segment that is being written; of one chunk, if that has the `whole` size."""

    def __init__(self, tools: Tools[Spot], whole: int | None = None) -> None:
        self._tools = tools
        self._expected = whole
        self._digest = ""
        self._hasher = blake3()
        self._parts: list[Chunk | _Stored[Spot]] = []
        self.size = 0

    def append(self, fresh: Fresh) -> None:
        """Add the next chunk."""
        if fresh.size == self._expected:
            self._digest = fresh.digest  # a segment of one chunk is known by the same digest
        elif fresh.plain is not None:
            self._hasher.update(fresh.plain.data)
        else:
            raise ValueError("the bytes of a part of a segment are gone")
        self.size += fresh.size
        if fresh.known is not None:
            self._parts.append(fresh.known)
        elif fresh.outcome is not None:
            spot = self._tools.data.append(fresh.outcome.record)
            summary = None
            if fresh.summary is not None:
                summary = self._tools.summaries.append(fresh.summary)
            bare = Outcome([], fresh.outcome.kind, fresh.outcome.base)
            self._parts.append(_Stored(fresh.digest, fresh.size, bare, spot, summary))

    def segment(self, *, summaries: bool = True) -> Segment:
        """The segment, once the packs are finished (without summaries: the pack of the data)."""
        chunks = tuple(
            p if isinstance(p, Chunk) else self._placed(p, summaries=summaries) for p in self._parts
        )
        return Segment(self._digest or self._hasher.hexdigest(), self.size, chunks)

    def _placed(self, stored: _Stored[Spot], *, summaries: bool) -> Chunk:
        at = self._tools.data.place(stored.spot)
        summary = None
        if summaries and stored.summary is not None:
            summary = self._tools.summaries.place(stored.summary)
        kind, base = stored.outcome.kind, stored.outcome.base
        return Chunk(stored.digest, stored.size, kind, at, base, summary)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """The tensor that is being written."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int


def encode(tools: Tools[Spot], tensor: Tensor, plain: Bytes, start: int) -> Fresh:
    """Encode the chunk at byte `start` of a tensor, unless it is known. Thread-safe."""
    digest = digest_of(plain)
    known = tools.known(digest)
    if known is not None and known.size == len(plain):
        return Fresh(plain, len(plain), digest, known=known)
    new = Slice(
        data=plain,
        cut=planes.grain(tensor.dtype),
        dtype=tensor.dtype,
        columns=columns_of(tensor.shape),
        start=start * 8 // DTYPES[tensor.dtype].bits,
    )
    summary = sketch.summarize(plain, tensor.dtype)
    if tools.store is None:
        outcome = dense_record(tools.update, new, digest)
    else:
        outcome = tools.store(new, digest, Where(tensor.name, tensor.size, start), summary)
    return Fresh(plain, len(plain), digest, outcome, packed_summary(summary))


def store_bytes(tools: Tools[Spot], parts: Sequence[Bytes]) -> Pending[Spot]:
    """Store bytes that are no tensor."""
    pending = Pending(tools)
    for part in parts:
        digest = digest_of(part)
        known = tools.known(digest)
        if known is not None and known.size == len(part):
            pending.append(Fresh(part, len(part), digest, known=known))
        else:
            new = Slice(data=part, cut=planes.Grain())
            pending.append(Fresh(part, len(part), digest, dense_record(tools.update, new, digest)))
    return pending
