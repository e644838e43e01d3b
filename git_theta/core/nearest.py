"""The nearest of many chunks by their sketches: a way to find relatives, never to prove equality.

Chunks of one dtype and length stand on a shelf, sorted by one component of their sketches. Two near
chunks are near in each component, so that only a part of the shelf is compared; and no more than a
fixed number of comparisons is made for one file.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterable

import numpy as np
import numpy.typing as npt

from git_theta.core import sketch
from git_theta.core.chain import Read
from git_theta.core.manifest import Chunk, Manifest
from git_theta.core.payload import unpack
from git_theta.core.sketch import Summary
from git_theta.errors import ThetaError

_NEAR = 0.5
_COMPARISONS = 50_000_000


def read_summary(read: Read, chunk: Chunk) -> Summary | None:
    """The summary of a chunk, if it has one that can be read here."""
    if chunk.summary is None:
        return None
    try:
        _, frames = unpack(read(chunk.summary))
        return sketch.unpack(b"".join(map(bytes, frames)))
    except ThetaError:
        return None


class _Shelf:
    """The sketches of chunks of one dtype and length."""

    def __init__(self, chunks: Iterable[Chunk], read: Read, like: Summary) -> None:
        found = [
            (summary.sketch, chunk)
            for chunk in chunks
            if (summary := read_summary(read, chunk)) is not None
            and summary.sketch is not None
            and (summary.dtype, summary.count) == (like.dtype, like.count)
        ]
        sketches = np.array([values for values, _ in found], np.float32)
        sketches = sketches.reshape(len(found), sketch.WIDTH)
        order = np.argsort(sketches[:, 0], kind="stable")
        self.sketches: npt.NDArray[np.float32] = sketches[order]
        self.chunks = [found[index][1] for index in order]

    def within(self, values: npt.NDArray[np.float32], reach: float) -> slice:
        """Where chunks stand whose first component is near."""
        first = self.sketches[:, 0]
        low, high = np.searchsorted(first, [values[0] - reach, values[0] + reach])
        return slice(int(low), int(high))


class Nearest:
    """Finds near chunks in some manifests; summaries are read when first asked for their like."""

    def __init__(self, manifests: Iterable[Manifest], read: Read) -> None:
        self._read = read
        self._guard = threading.Lock()
        self._shelves: dict[tuple[str, int], _Shelf] = {}
        self._waiting: dict[int, dict[str, Chunk]] = {}
        self._left = _COMPARISONS
        for manifest in manifests:
            for chunk in manifest.all_chunks():
                if chunk.summary is not None:
                    self._waiting.setdefault(chunk.size, {}).setdefault(chunk.digest, chunk)

    def find(self, summary: Summary, size: int, without: Collection[str]) -> Chunk | None:
        """The nearest chunk of the same dtype and length, if it is near."""
        values = summary.sketch
        if values is None or not np.isfinite(values).all():
            return None
        with self._guard:
            key = (summary.dtype, size)
            shelf = self._shelves.get(key)
            if shelf is None:
                chunks = self._waiting.get(size, {}).values()
                shelf = self._shelves[key] = _Shelf(chunks, self._read, summary)
            # A component of the sketch of a difference is an eighth of its norm, give or take.
            near = shelf.within(values, 3 * _NEAR * summary.norm / math.sqrt(sketch.WIDTH))
            self._left -= near.stop - near.start
            if self._left < 0:
                return None
        # In float64: sketches of the largest float32 numbers have squares beyond float32.
        apart = np.linalg.norm(shelf.sketches[near] - values.astype(np.float64), axis=1)
        for index in np.argsort(apart, kind="stable")[: len(without) + 1]:
            if not apart[index] <= _NEAR * summary.norm:
                return None
            chunk: Chunk = shelf.chunks[near.start + int(index)]
            if chunk.digest not in without:
                return chunk
        return None
