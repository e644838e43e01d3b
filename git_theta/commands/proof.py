"""Proof of what is stored: each object by its sha256, each chunk by decoding it.

Finds accidents: bytes lost or changed on disk, objects never fetched. It is no signature, and
says nothing about who wrote what.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from git_theta.commands.session import Session
from git_theta.core.chain import decode_chunk, links_of, sealed
from git_theta.core.checkpoint import by_digest
from git_theta.core.manifest import Chunk, Manifest
from git_theta.errors import CorruptError, MissingError, PluginError, ThetaError

_BLOCK = 1 << 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an object or a chunk cannot be had: `kind` is missing, corrupt, plug-in or remote."""

    kind: str
    message: str
    object: str | None = None


@dataclass
class Proof:
    """What was found wrong, by object and by chunk; what is not named here is proven."""

    objects: dict[str, Failure] = field(default_factory=dict)
    chunks: dict[Chunk, Failure] = field(default_factory=dict)
    _last: tuple[Manifest, Mapping[str, Chunk]] | None = None

    def of(self, manifest: Manifest, chunk: Chunk) -> Failure | None:
        """What is wrong with a chunk or with a base that it needs."""
        if self._last is None or self._last[0] is not manifest:
            self._last = manifest, by_digest(manifest)
        chunks = self._last[1]
        for link in links_of(chunk, chunks):
            if link.at.oid in self.objects:
                return self.objects[link.at.oid]
        return self.chunks.get(sealed(chunk, chunks))


def prove(session: Session, manifests: Iterable[Manifest], advance: Callable[[int], None]) -> Proof:
    """Check every object and every chunk that some manifests name, each once."""
    proof = Proof()
    sizes: dict[str, int] = {}
    chunks: dict[Chunk, tuple[Chunk, Mapping[str, Chunk]]] = {}
    for manifest in manifests:
        sizes.update(manifest.objects)
        bases = by_digest(manifest)
        for chunk in manifest.all_chunks():
            seal = sealed(chunk, bases)
            if seal not in chunks:  # and with it no more of its manifest than it stands on
                under = {link.digest: link for link in links_of(chunk, bases)[1:]}
                chunks[seal] = chunk, under
    with ThreadPoolExecutor(session.settings.threads) as pool:
        names = sorted(sizes)
        for oid, failure in zip(
            names,
            pool.map(lambda oid: _object(session, oid, sizes[oid], advance), names),
            strict=True,
        ):
            if failure is not None:
                proof.objects[oid] = failure
        waiting = [
            (seal, *pair)
            for seal, pair in sorted(chunks.items(), key=lambda entry: entry[1][0].at)
            if pair[0].at.oid not in proof.objects
        ]
        for batch in _batches(waiting):
            results = pool.map(lambda asked: _chunk(session, *asked[1:]), batch)
            for (seal, *_), failure in zip(batch, results, strict=True):
                if failure is not None:
                    proof.chunks[seal] = failure
    return proof


def _batches(items: list[T], size: int = 256) -> Iterator[list[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _object(
    session: Session, oid: str, size: int, advance: Callable[[int], None]
) -> Failure | None:
    path = session.store.find(oid)
    if path is None:
        return Failure("missing", f"object {oid[:16]} is not here", oid)
    try:
        found = _sha256(path, advance)
        length = path.stat().st_size
    except OSError as error:
        return Failure("corrupt", f"object {oid[:16]} cannot be read: {error.strerror}", oid)
    if found != oid:
        return Failure("corrupt", f"object {oid[:16]} is damaged ({path})", oid)
    if length != size:
        return Failure("corrupt", f"a manifest says that object {oid[:16]} has {size} bytes", oid)
    return None


def _sha256(path: Path, advance: Callable[[int], None]) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            sha.update(block)
            advance(len(block))
    return sha.hexdigest()


def _chunk(session: Session, chunk: Chunk, bases: Mapping[str, Chunk]) -> Failure | None:
    try:
        decode_chunk(chunk, session.store.lend, session.plugins.updates, bases)
    except PluginError as error:
        return Failure("plug-in", str(error))
    except MissingError as error:
        return Failure("missing", str(error))
    except (CorruptError, ThetaError) as error:
        return Failure("corrupt", str(error))
    return None
