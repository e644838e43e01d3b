"""What has to be written into an old version of a file to make a new one of it.

Two versions of a checkpoint mostly have the same bytes at the same places. Their manifests say
which, so only the rest is decoded and written. Whether the old file really was what its manifest
says is not known here: whoever patches it has to check the digest of the whole file.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from blake3 import blake3

from git_theta.core import skeleton as skeletons
from git_theta.core.chain import Bytes, Read, decode_chunk, digest_of
from git_theta.core.checkpoint import Part, Plugins, by_digest, file_parts, read_segment
from git_theta.core.manifest import Chunk, Manifest

# Small enough to be in a cache when it is looked at for the second time.
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Patch:
    """Bytes of the new file, and the offset at which they lie."""

    offset: int
    data: memoryview


def patches(
    old: Manifest, new: Manifest, read: Read, plugins: Plugins, *, threads: int = 2
) -> Iterator[Patch] | None:
    """The patches in file order, each valid until the next; None where a file is no such thing.

    Cutting or lengthening the file to its new size is left to the caller.

    Raises:
        CorruptError: what is stored is not what the manifest names.
        MissingError: an object is not here.
    """
    before, after = _laid_out(old, read, plugins), _laid_out(new, read, plugins)
    if before is None or after is None:
        return None
    there = {(at, part.size): _content(part) for at, part in before}
    changed = [(at, part) for at, part in after if there.get((at, part.size)) != _content(part)]
    return _decoded(changed, new, read, plugins, threads)


def digest_of_parts(
    manifest: Manifest, fill: Callable[[memoryview, int], int], read: Read, plugins: Plugins
) -> str | None:
    """The digest of a file all of whose parts are what the manifest says, else None.

    `fill` reads the file: into a buffer, from an offset; it gives the number of bytes. It is called
    from two threads: what is in memory is copied twice sooner than handed from one to the other.

    Raises:
        CorruptError: what is stored is not what the manifest names.
        MissingError: an object is not here.
    """
    parts = _laid_out(manifest, read, plugins)
    if parts is None:
        return None
    stopped = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        whole = pool.submit(_digest_of_file, manifest.size, fill, stopped)
        for at, part in parts:
            if _digest_of_file(part.size, fill, stopped, at) != _digest(part):
                stopped.set()
                return None
        return whole.result()


def _digest_of_file(
    size: int, fill: Callable[[memoryview, int], int], stopped: threading.Event, at: int = 0
) -> str | None:
    """The digest of a part of a file; None where it is too short, or nobody waits any more."""
    found, buffer = blake3(), memoryview(bytearray(min(size, _PIECE)))
    for start in range(0, size, _PIECE):
        view = buffer[: min(_PIECE, size - start)]
        if stopped.is_set() or fill(view, at + start) != len(view):
            return None
        found.update(view)
    return found.hexdigest()


def _digest(part: Part) -> str:
    return part.chunk.digest if part.chunk is not None else digest_of(part.data or b"")


def _laid_out(manifest: Manifest, read: Read, plugins: Plugins) -> list[tuple[int, Part]] | None:
    plain = read_segment(manifest.skeleton, manifest, read, plugins.updates)
    skeleton = skeletons.unpack(plain)
    if skeleton.runs is None:
        return None
    segments = skeletons.ordered_segments(manifest, skeleton.order)
    found, at = [], 0
    for part in file_parts(skeleton, segments):
        found.append((at, part))
        at += part.size
    return found


def _content(part: Part) -> object:
    return part.chunk.digest if part.chunk is not None else bytes(part.data or b"")


def _decoded(
    changed: list[tuple[int, Part]], manifest: Manifest, read: Read, plugins: Plugins, threads: int
) -> Iterator[Patch]:
    chunks = by_digest(manifest)

    def decode(chunk: Chunk) -> Bytes:
        return decode_chunk(chunk, read, plugins.updates, chunks)

    waiting: deque[tuple[int, Future[Bytes]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for at, part in changed:
            if part.chunk is None:
                raw = np.frombuffer(part.data or b"", np.uint8)
                waiting.append((at, pool.submit(np.copy, raw)))
            else:
                waiting.append((at, pool.submit(decode, part.chunk)))
            if len(waiting) > threads:
                yield _taken(waiting)
        while waiting:
            yield _taken(waiting)
    finally:
        pool.shutdown(cancel_futures=True)


def _taken(waiting: deque[tuple[int, Future[Bytes]]]) -> Patch:
    at, future = waiting.popleft()
    return Patch(at, future.result().data)
