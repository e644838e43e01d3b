"""A manifest turned back into the bytes of its file, decoded in parallel and proven.

Files are rebuilt unit by unit: a unit is a run of skeleton bytes and chunks that lie together in
the file, decoded into one buffer. Memory is bounded by the units in flight, not by the file.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from blake3 import blake3

from git_theta.core import skeleton as skeletons
from git_theta.core.chain import Bytes, Read, Updates, decode_chunk, sealed
from git_theta.core.layout import SplitTensor
from git_theta.core.manifest import Chunk, Manifest, Segment
from git_theta.errors import CorruptError, NoPluginError, ThetaError

_UNIT = 8 << 20
_PACKAGE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?: |\Z)")


@dataclass(frozen=True, slots=True)
class Part:
    """A byte range of the file: skeleton bytes, or a chunk to decode."""

    size: int
    data: memoryview | None
    chunk: Chunk | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugins:
    """How the core reaches plug-ins: by name, when a manifest names them."""

    updates: Updates
    formats: Callable[[str], Any]


def read_segment(
    segment: Segment,
    manifest: Manifest,
    read: Read,
    updates: Updates,
    chunks: Mapping[str, Chunk] | None = None,
) -> bytes:
    """The plain bytes of one segment, proven.

    `chunks` is what `by_digest` gives for the manifest; who reads many segments makes it once.

    Raises:
        CorruptError: what is stored is not what the manifest names.
        MissingError: an object is not here.
    """
    if chunks is None:
        based = any(chunk.base is not None for chunk in segment.chunks)
        chunks = by_digest(manifest) if based else {}
    plain = b"".join(decode_chunk(c, read, updates, chunks).tobytes() for c in segment.chunks)
    if len(segment.chunks) != 1 and blake3(plain).hexdigest() != segment.digest:
        raise CorruptError(f"segment {segment.digest[:16]} is not what the manifest names")
    return plain


def rebuild(
    manifest: Manifest,
    read: Read,
    plugins: Plugins,
    *,
    threads: int = 2,
    learned: Callable[[str], None] | None = None,
) -> Iterator[memoryview]:
    """The bytes of the file in order; each view is valid until the next is asked for.

    The last view comes only after the digest of the whole file was found right. Where the
    manifest has none, `learned` is told it.

    Raises:
        CorruptError: the stored bytes are not those of the file.
        MissingError: an object is not here.
        PluginError: the manifest needs a plug-in that is not installed.
    """
    with _what_to_install(manifest):  # before a byte is given
        for kind in sorted({chunk.kind for chunk in manifest.all_chunks()}):
            plugins.updates(kind)
        plain = read_segment(manifest.skeleton, manifest, read, plugins.updates)
        skeleton = skeletons.unpack(plain)
        if skeleton.runs is None:
            plugins.formats(manifest.format)
    if skeleton.runs is None:
        pieces = _joined(manifest, skeleton, read, plugins)
    else:
        pieces = _interleaved(manifest, skeleton, read, plugins.updates, threads)
    return _proven(manifest, pieces, learned)


@contextmanager
def _what_to_install(manifest: Manifest) -> Iterator[None]:
    """Turn "there is no such plug-in" into the packages that the manifest names."""
    try:
        yield
    except NoPluginError as error:
        entries = sorted(set(manifest.plugins.values()))
        packages = [name[1] for entry in entries if (name := _PACKAGE.match(entry))]
        if not packages:
            raise
        raise NoPluginError(
            f"a plug-in is missing: {', '.join(entries)}",
            hint=f"pip install {' '.join(packages)}",
        ) from error


def _proven(
    manifest: Manifest, pieces: Iterable[memoryview], learned: Callable[[str], None] | None
) -> Iterator[memoryview]:
    """Digest what passes by, on a thread of its own; hold the last piece back until proven."""
    whole, size, last = blake3(), 0, memoryview(b"")
    with ThreadPoolExecutor(1) as pool:
        for piece in pieces:
            size += len(piece)
            if size > manifest.size:
                raise CorruptError("the stored file is longer than its manifest says")
            digesting = pool.submit(whole.update, piece)
            if size < manifest.size:
                yield piece
                digesting.result()
            else:
                digesting.result()
                last = piece
                break
        else:
            if size != manifest.size:
                raise CorruptError("the stored file is shorter than its manifest says")
    if manifest.digest and whole.hexdigest() != manifest.digest:
        raise CorruptError("the stored parts do not make up the file that the manifest names")
    if not manifest.digest and learned is not None:
        learned(whole.hexdigest())
    if len(last):
        yield last


def _joined(
    manifest: Manifest, skeleton: skeletons.Skeleton, read: Read, plugins: Plugins
) -> Iterator[memoryview]:
    chunks = by_digest(manifest)

    def tensors() -> Iterator[SplitTensor]:
        for key in skeleton.order:
            tensor = manifest.tensors[str(key)]
            data = read_segment(tensor.segment, manifest, read, plugins.updates, chunks)
            yield SplitTensor(name=str(key), dtype=tensor.dtype, shape=tensor.shape, data=data)

    skeletons.ordered_segments(manifest, skeleton.order)
    plugin = plugins.formats(manifest.format)
    try:
        for piece in plugin.join(skeleton.data, tensors()):
            if len(piece):
                yield memoryview(piece)
    except (ThetaError, MemoryError):
        raise
    except Exception as error:  # another package's fault must not keep other files from coming
        raise CorruptError(f"the format {manifest.format!r} fails with {error!r}") from error


def by_digest(manifest: Manifest) -> dict[str, Chunk]:
    """Where updates find their bases; nothing where there are no updates."""
    chunks = {chunk.digest: chunk for chunk in manifest.all_chunks()}
    return chunks if any(chunk.base is not None for chunk in chunks.values()) else {}


def proofs(manifest: Manifest, chosen: Callable[[Chunk], bool] | None = None) -> list[Chunk]:
    """The chunks of a file that was rebuilt, sealed; those of the tensors' bases are not proven."""
    chunks = by_digest(manifest)
    own = (chunk for segment in manifest.all_segments() for chunk in segment.chunks)
    return [sealed(chunk, chunks) for chunk in own if chosen is None or chosen(chunk)]


def _interleaved(
    manifest: Manifest,
    skeleton: skeletons.Skeleton,
    read: Read,
    updates: Updates,
    threads: int,
) -> Iterator[memoryview]:
    segments = skeletons.ordered_segments(manifest, skeleton.order)
    chunks = by_digest(manifest)
    units = list(_units(file_parts(skeleton, segments)))
    sizes = [sum(part.size for part in unit) for unit in units]

    def decode(number: int, view: memoryview) -> None:
        buffer, start = np.frombuffer(view, np.uint8), 0
        for part in units[number]:
            out = buffer[start : start + part.size]
            if part.chunk is not None:
                decode_chunk(part.chunk, read, updates, chunks, out)
            elif part.data is not None:
                out[:] = np.frombuffer(part.data, np.uint8)
            start += part.size

    return _filled(sizes, threads, decode)


def _filled(
    sizes: Sequence[int], threads: int, fill: Callable[[int, memoryview], None]
) -> Iterator[memoryview]:
    """Memory of some sizes, each filled by `fill(its number, it)` on one of some threads.

    They come in order, and each is valid until the next is asked for.
    """
    free: list[Bytes] = []

    def work(number: int) -> Bytes:
        buffer = _buffer(free, sizes[number])
        fill(number, buffer[: sizes[number]].data)
        return buffer

    waiting: deque[tuple[Future[Bytes], int]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for number, size in enumerate(sizes):
            waiting.append((pool.submit(work, number), size))
            if len(waiting) > threads:
                yield from _taken(waiting, free)
        while waiting:
            yield from _taken(waiting, free)
    finally:
        pool.shutdown(cancel_futures=True)


def _taken(waiting: deque[tuple[Future[Bytes], int]], free: list[Bytes]) -> Iterator[memoryview]:
    future, size = waiting.popleft()
    buffer = future.result()
    yield buffer[:size].data
    free.append(buffer)


def _buffer(free: list[Bytes], size: int) -> Bytes:
    """A used buffer that is large enough, else a new one: fresh memory is slow."""
    try:
        buffer = free.pop()
    except IndexError:
        buffer = np.empty(0, np.uint8)
    return buffer if len(buffer) >= size else np.empty(size, np.uint8)


def file_parts(skeleton: skeletons.Skeleton, segments: list[Segment]) -> Iterator[Part]:
    """The whole file as its parts, in order."""
    data, start = memoryview(skeleton.data), 0
    runs = skeleton.runs or ()
    for index, run in enumerate(runs):
        if run:
            yield Part(run, data[start : start + run], None)
            start += run
        if index < len(segments):
            for chunk in segments[index].chunks:
                if chunk.size:
                    yield Part(chunk.size, None, chunk)


def _units(parts: Iterable[Part]) -> Iterator[list[Part]]:
    unit: list[Part] = []
    size = 0
    for part in parts:
        if unit and size + part.size > _UNIT:
            yield unit
            unit, size = [], 0
        unit.append(part)
        size += part.size
    if unit:
        yield unit
