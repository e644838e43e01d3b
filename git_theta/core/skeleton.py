"""The skeleton: every byte of a file that is in no segment, and the order of the segments.

Stored like any other segment. Its plain bytes are msgpack: the version, the lengths of the runs
of skeleton bytes before, between and behind the segments, the segments in file order (a tensor's
name, or the digest of a segment that is no tensor's own), and the bytes themselves. A file that
its format splits and joins has no runs: its tensors are in the order that `join` expects.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import msgpack

from git_theta.core.manifest import Manifest, Segment
from git_theta.core.payload import Buffer
from git_theta.errors import CorruptError


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Runs of bytes and the segments between them; `runs` is None for a format that joins."""

    runs: tuple[int, ...] | None
    order: tuple[str | bytes, ...]
    data: bytes


def pack(skeleton: Skeleton) -> bytes:
    """Write a skeleton; the same skeleton always gives the same bytes."""
    runs = None if skeleton.runs is None else list(skeleton.runs)
    packed: bytes = msgpack.packb([1, runs, list(skeleton.order), skeleton.data])
    return packed


def unpack(data: Buffer) -> Skeleton:
    """Read a skeleton.

    Raises:
        CorruptError: the bytes are no skeleton.
    """
    limit = len(data)
    try:
        version, runs, order, body = msgpack.unpackb(
            data, max_bin_len=limit, max_array_len=limit, max_str_len=limit
        )
        if version != 1 or not isinstance(body, bytes):
            raise ValueError("of another version")
        if not all(isinstance(key, (str, bytes)) for key in order):
            raise ValueError("its order is no list of names")
        if runs is None:
            return Skeleton(None, tuple(order), body)
        if not all(type(run) is int and run >= 0 for run in runs):
            raise ValueError("its runs are no lengths")
        if len(runs) != len(order) + 1 or sum(runs) != len(body):
            raise ValueError("its runs do not fit")
        return Skeleton(tuple(runs), tuple(order), body)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise CorruptError(f"the skeleton of a file is damaged: {error}") from error


def ordered_segments(manifest: Manifest, order: Sequence[str | bytes]) -> list[Segment]:
    """The segments that a skeleton's order names.

    Raises:
        CorruptError: the manifest lacks one of them.
    """
    try:
        return [
            manifest.tensors[key].segment if isinstance(key, str) else manifest.segments[key.hex()]
            for key in order
        ]
    except KeyError as error:
        raise CorruptError(f"the manifest lacks a segment of its file: {error}") from error


class SkeletonReader:
    """A file of which only the skeleton is known, read like the file; segments are zeros."""

    def __init__(self, skeleton: Skeleton, sizes: Sequence[int]) -> None:
        self._runs: list[tuple[int, int, int]] = []
        at = start = 0
        for run, size in zip(skeleton.runs or (), [*sizes, 0], strict=False):
            self._runs.append((at, start, run))
            at += run + size
            start += run
        self._data = skeleton.data
        self.size = at

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`."""
        out = bytearray(max(0, min(size, self.size - offset)))
        first = bisect_right(self._runs, offset, key=lambda run: run[0]) - 1
        for at, start, run in itertools.islice(self._runs, max(0, first), None):
            if at >= offset + len(out):
                break
            low, high = max(offset, at), min(offset + len(out), at + run)
            if low < high:
                out[low - offset : high - offset] = self._data[start + low - at : start + high - at]
        return bytes(out)
