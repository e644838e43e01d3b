"""Chunks that may be used again, and the manifests they are found in.

Candidates come from the index, from HEAD and from the parents of a merge, at any path. Others
known to the repository are taken only where their object holds nothing else, since pushing one
branch must not upload bytes of another. Reuse is earned: the record was written or decoded here,
and its objects are still here with the right size.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from git_theta.core.chain import Updates, decode_chunk, digest_of, links_of, sealed
from git_theta.core.compact import places
from git_theta.core.manifest import Chunk, Manifest, parse
from git_theta.core.payload import OBJECT_MAGIC
from git_theta.errors import ThetaError
from git_theta.repo.candidates import Before
from git_theta.repo.catalog import Catalog
from git_theta.repo.objects import Store

_LATEST = 64
_MANY = 200


class Reuse:
    """Answers `known`: may this chunk be used again, and from where."""

    def __init__(
        self,
        candidates: Before,
        store: Store,
        catalog: Catalog,
        updates: Updates,
        *,
        parse: Callable[[bytes], Manifest] = parse,
    ) -> None:
        self._candidates = candidates
        self._store = store
        self._catalog = catalog
        self._updates = updates
        self._parse = parse
        self.anywhere = False
        self._guard = threading.Lock()
        self._chunks: dict[str, Chunk] = {}
        self._sizes: dict[str, int] = {}
        self._named: set[str] = set()
        self._earned: dict[str, Chunk | None] = {}
        self._seen: set[str] = set()
        self._others: list[Manifest] | None = None
        self._texts: dict[str, Manifest] = {}
        self._proofs: dict[str, list[Chunk]] = {}
        self._asked = 0
        self.proven: list[Chunk] = []

    @property
    def chunks(self) -> Mapping[str, Chunk]:
        """Every chunk of every manifest read so far, by digest."""
        return self._chunks

    def add(self, manifest: Manifest) -> None:
        """Make the chunks of a manifest candidates."""
        with self._guard:
            self._add(manifest)

    def read(self, text: bytes) -> Manifest:
        """Parse a manifest, once however often it is met, and make its chunks candidates.

        Raises:
            ManifestError: it is damaged.
        """
        with self._guard:
            return self._read(text)

    def _read(self, text: bytes) -> Manifest:
        digest = digest_of(text)
        manifest = self._texts.get(digest)
        if manifest is None:
            manifest = self._texts[digest] = self._parse(text)
            self._add(manifest)
        return manifest

    def _add(self, manifest: Manifest) -> None:
        self._sizes.update(manifest.objects)
        self._named.update(manifest.objects)
        for chunk in manifest.all_chunks():
            self._chunks.setdefault(chunk.digest, chunk)

    def known(self, digest: str) -> Chunk | None:
        """A chunk that may be used again, or None. Called from several threads."""
        with self._guard:
            if digest not in self._earned:
                self._earned[digest] = self._find(digest)
            return self._earned[digest]

    def expect(self, digests: Sequence[str]) -> None:
        """Say what `known` will be asked for next: the catalog then is asked once for all."""
        with self._guard:
            self._proofs.update(self._catalog.proven_of(digests))

    def links(self, chunk: Chunk) -> list[Chunk]:
        """A known chunk, its base, the base of that, and so on to the root.

        Raises:
            CorruptError: a base is not among the known chunks.
        """
        return links_of(chunk, self._chunks)

    def closure(self, chunks: Iterable[Chunk]) -> dict[str, Chunk]:
        """The bases that chunks need and that are none of them, by digest."""
        own = {chunk.digest: chunk for chunk in chunks}
        found: dict[str, Chunk] = {}
        for chunk in own.values():
            base = chunk.base
            while base is not None and base not in own and base not in found:
                found[base] = self._chunks[base]._replace(summary=None)
                base = found[base].base
        return found

    def manifests(self) -> list[Manifest]:
        """The manifests of all paths, and with `anywhere` others that this repository wrote."""
        with self._guard:
            return self._add_all()

    def may_name(self, manifest: Manifest) -> bool:
        """Whether a manifest known to the repository may be given to this branch.

        Its objects must be here, and each either be named by this branch already or hold nothing
        that the manifest does not use.
        """
        self._hold()
        if not all(self._store.has(oid, size) for oid, size in manifest.objects.items()):
            return False
        with self._guard:
            self._add_all()
            named = set(self._named)
        used = dict.fromkeys(manifest.objects, len(OBJECT_MAGIC))
        for place in set(places(manifest)):
            used[place.oid] += place.size
        return self.anywhere or all(
            oid in named or used[oid] == size for oid, size in manifest.objects.items()
        )

    def size(self, oid: str) -> int:
        """The size of an object that a known chunk lies in, in bytes."""
        return self._sizes[oid]

    def _find(self, digest: str) -> Chunk | None:
        chunk = self._chunks.get(digest)
        if chunk is None:
            self._add_all()
            chunk = self._chunks.get(digest)
        if chunk is not None:
            return self._earn(chunk)
        return self._alone(digest)

    def _add_all(self) -> list[Manifest]:
        if self._others is None:
            self._others = []
            for text in itertools.chain(self._candidates.of_all_paths(), self._once_written()):
                with suppress(ThetaError):  # damage elsewhere is no reason to fail this file
                    self._others.append(self._read(text))
        return self._others

    def _once_written(self) -> list[bytes]:
        """The latest manifests of the catalog, where all of the repository may be used."""
        known = self._catalog.manifests() if self.anywhere else iter(())
        return [k.manifest for k in heapq.nlargest(_LATEST, known, key=lambda k: k.written)]

    def _earn(self, chunk: Chunk) -> Chunk | None:
        try:
            links = self.links(chunk)
        except ThetaError:
            return None
        if not all(self._here(link.at.oid) for link in links):
            return None
        if not self._is_proven(chunk):
            try:
                decode_chunk(chunk, self._store.lend, self._updates, self._chunks)
            except ThetaError:
                return None
            self.proven.append(sealed(chunk, self._chunks))
        if chunk.summary is not None and not self._here(chunk.summary.oid):
            return chunk._replace(summary=None)
        return chunk

    def _is_proven(self, chunk: Chunk) -> bool:
        proofs = self._proofs_of(chunk.digest)
        return bool(proofs) and sealed(chunk, self._chunks) in proofs

    def _proofs_of(self, digest: str) -> list[Chunk]:
        """Proven records; where many are asked for, those of all chunks seen are fetched at once.

        What is fetched stays true for us: nobody takes back what was proven while we hold the
        store.
        """
        if digest not in self._proofs:
            self._asked += 1
            if self._asked == _MANY:
                self._proofs = self._catalog.proven_of(list(self._chunks)) | self._proofs
        found = self._proofs.get(digest)
        return self._catalog.proven(digest) if found is None else found

    def _here(self, oid: str) -> bool:
        """Whether an object is here with the right size; it is then kept from collection."""
        if oid not in self._seen:
            self._hold()
            if not self._store.has(oid, self._sizes.get(oid, -1)):
                return False
            self._store.freshen(oid)
            self._seen.add(oid)
        return True

    def _hold(self) -> None:
        """See to it that nothing found here is removed before it is named."""
        with suppress(ThetaError):  # nor is anything from a store that nobody can write
            self._store.hold()

    def _alone(self, digest: str) -> Chunk | None:
        """A proven record in an object of its own, or (theta.reuse=repository) any."""
        for chunk in self._proofs_of(digest):
            self._hold()
            path = self._store.find(chunk.at.oid)
            if path is None or chunk.base is not None:
                continue
            size = path.stat().st_size
            if self.anywhere or size == len(OBJECT_MAGIC) + chunk.at.size:
                self._sizes[chunk.at.oid] = size
                self._store.freshen(chunk.at.oid)
                return chunk
        return None
