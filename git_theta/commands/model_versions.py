"""One version of a model: its manifests, and how to come by what they name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeAlias

from git_theta.commands.session import Session
from git_theta.core.chain import Bytes, decode_chunk
from git_theta.core.checkpoint import read_segment
from git_theta.core.manifest import Chunk, Manifest, Place, Tensor
from git_theta.core.pairs import parse_pair
from git_theta.core.payload import header_of
from git_theta.core.sketch import Summary
from git_theta.errors import ManifestError, ThetaError
from git_theta.repo.summaries import read_summaries
from git_theta.repo.tracked import parse_at

Held: TypeAlias = Mapping[str, Bytes]

_HEADER = 64 << 10
_NOTHING: Held = {}


class Source(Protocol):
    """Where the tensors of one file come from."""

    manifest: Manifest

    def summaries(self, chunks: Iterable[Chunk]) -> dict[str, Summary]:
        """The summaries at hand, by the digest of their chunks."""
        ...

    def here(self, chunk: Chunk) -> bool:
        """Whether the chunk's bytes can be read without asking a remote."""
        ...

    def weights(self, chunk: Chunk, out: Bytes, held: Held = _NOTHING) -> Bytes:
        """The chunk's bytes, proven; `held` are bytes of chunks, by digest, that may be its bases.

        Raises:
            MissingError: an object is not here.
            CorruptError: what is stored is not what the manifest names.
        """
        ...

    def parameters(self, chunk: Chunk) -> Mapping[str, Any]:
        """What the update that stores the chunk says of itself."""
        ...

    def skeleton(self) -> bytes | None:
        """The plain bytes of the skeleton, or None where they are not at hand."""
        ...

    def objects(self, chunks: Iterable[Chunk]) -> dict[str, int]:
        """The objects that some chunks and their bases lie in, with their sizes."""
        ...


@dataclass(eq=False)
class Stored:
    """A manifest whose chunks lie in the store."""

    session: Session
    manifest: Manifest
    _here: dict[str, bool] = field(default_factory=dict)

    @cached_property
    def _chunks(self) -> dict[str, Chunk]:
        return {chunk.digest: chunk for chunk in self.manifest.all_chunks()}

    def summaries(self, chunks: Iterable[Chunk]) -> dict[str, Summary]:
        """Read those that are here; damaged ones are left out."""
        asked = {chunk.summary: chunk.digest for chunk in chunks if chunk.summary is not None}
        found = read_summaries(self.session.store, asked)
        return {asked[place]: summary for place, summary in found.items()}

    def _closure(self, chunk: Chunk) -> Iterable[Chunk]:
        at: Chunk | None = chunk
        while at is not None:
            yield at
            at = self._chunks.get(at.base) if at.base is not None else None

    def here(self, chunk: Chunk) -> bool:
        """Whether the objects of the chunk and its bases are here."""
        return all(self._has(part.at.oid) for part in self._closure(chunk))

    def _has(self, oid: str) -> bool:
        if oid not in self._here:
            size = self.manifest.objects[oid]
            self._here[oid] = self.session.store.has(oid, size)
        return self._here[oid]

    def forget(self) -> None:
        """Look again for what is here."""
        self._here.clear()

    def weights(self, chunk: Chunk, out: Bytes, held: Held = _NOTHING) -> Bytes:
        """Decode a chunk."""
        store, updates = self.session.store, self.session.plugins.updates
        return decode_chunk(chunk, store.read, updates, self._chunks, out, held)

    def parameters(self, chunk: Chunk) -> Mapping[str, Any]:
        """Read no more than the header of the record."""
        at = chunk.at
        if not self._has(at.oid):
            return {}
        with suppress(ThetaError):
            head = Place(at.oid, at.offset, min(at.size, _HEADER))
            return header_of(self.session.store.read(head)).extra
        return {}

    def skeleton(self) -> bytes | None:
        """Read it if it is here."""
        store, updates = self.session.store, self.session.plugins.updates
        if not all(self.here(chunk) for chunk in self.manifest.skeleton.chunks):
            return None
        try:
            return read_segment(self.manifest.skeleton, self.manifest, store.read, updates)
        except ThetaError:
            return None

    def objects(self, chunks: Iterable[Chunk]) -> dict[str, int]:
        """Those of the chunks' records, bases included."""
        sizes = self.manifest.objects
        return {
            part.at.oid: sizes[part.at.oid] for chunk in chunks for part in self._closure(chunk)
        }


@dataclass(frozen=True, slots=True)
class File:
    """One file of a version."""

    path: str
    source: Source


class Version:
    """A model as it was at one time: one file, or the several that it is cut into.

    `aside` names tensors that are not in `tensors`: they are the same in the version that this
    one is compared with, and nobody has read more of them.
    """

    def __init__(self, files: Iterable[File], aside: Sequence[str] = ()) -> None:
        self.files = tuple(files)
        self.aside = aside
        self.tensors: dict[str, Tensor] = {}
        self.sources: dict[str, Source] = {}
        for file in self.files:
            for name, tensor in file.source.manifest.tensors.items():
                self.tensors[name] = tensor
                self.sources[name] = file.source

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(file.source.manifest.size for file in self.files)


def parse_versions(
    session: Session, paths: tuple[str, str], texts: tuple[bytes, bytes]
) -> tuple[Version, Version]:
    """Two versions of one file, old and new, from their manifests.

    Raises:
        ManifestError: one is damaged; the message names the path.
    """
    try:
        found = parse_pair(*texts)
    except ManifestError:
        for path, text in zip(paths, texts, strict=True):
            parse_at(path, text)  # says which one it is
        raise
    old, new = (
        Version([File(path, Stored(session, manifest))], found.same)
        for path, manifest in zip(paths, found[:2], strict=True)
    )
    return old, new
