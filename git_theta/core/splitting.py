"""Formats that split and join: their tensors taken out of a file, and the law that this keeps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from blake3 import blake3

from git_theta.core.clean import Whole
from git_theta.core.dtypes import nbytes
from git_theta.core.feeds import Source
from git_theta.core.layout import (
    Layout,
    RangeReader,
    Segment,
    SplitFormat,
    SplitTensor,
    TensorView,
)
from git_theta.errors import FormatError, ThetaError

_BLOCK = 1 << 20


def split_proven(
    plugin: SplitFormat, file: RangeReader, memory: int
) -> tuple[Whole, Sequence[SplitTensor]]:
    """Split a file, and join it again to see that not a byte is lost.

    Raises:
        FormatError: the format cannot read the file, the file needs more than `memory` bytes, or
            what is joined is not what was split.
    """
    size = file.size
    if size is None or size * 8 > memory:
        raise FormatError("too large to be split in memory", hint="theta.memory sets the limit")
    try:
        return _proven(plugin, file, size)
    except (ThetaError, MemoryError):
        raise
    except Exception as error:  # another package's fault: nothing is lost, so nothing need fail
        raise FormatError(f"its plug-in fails with {error!r}") from error


def _proven(
    plugin: SplitFormat, file: RangeReader, size: int
) -> tuple[Whole, Sequence[SplitTensor]]:
    skeleton, tensors = plugin.split(file)
    side_by_side(tensors)  # refuses what no manifest could name
    for tensor in tensors:
        if nbytes(tensor.dtype, tensor.shape) != len(tensor.data):
            raise FormatError(f"tensor {tensor.name!r} has the wrong number of bytes")
    whole, at = blake3(), 0
    for piece in plugin.join(skeleton, iter(tensors)):
        if file.read(at, len(piece)) != piece:
            raise FormatError(f"written again, the file would differ at byte {at} or soon after")
        whole.update(piece)
        at += len(piece)
    if at != size:
        raise FormatError(f"written again, the file would have {at} bytes instead of {size}")
    return Whole(size=size, digest=whole.hexdigest(), skeleton=skeleton), tensors


def side_by_side(tensors: Sequence[SplitTensor]) -> Layout:
    """The layout of the tensors' bytes, one behind the other."""
    starts = itertools.accumulate((len(tensor.data) for tensor in tensors), initial=0)
    segments = tuple(
        Segment(offset=start, size=len(tensor.data))
        for start, tensor in zip(starts, tensors, strict=False)
    )
    views = tuple(
        TensorView(name=tensor.name, dtype=tensor.dtype, shape=tensor.shape, segment=index)
        for index, tensor in enumerate(tensors)
    )
    return Layout(segments=segments, tensors=views)


class BytesSource:
    """Bytes in memory, read as a stream."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._parts = [memoryview(part) for part in reversed(parts)]

    def readinto(self, view: memoryview) -> int:
        """Fill the view; fewer bytes only at the end."""
        done = 0
        while self._parts and done < len(view):
            part = self._parts.pop()
            take = min(len(part), len(view) - done)
            view[done : done + take] = part[:take]
            done += take
            if take < len(part):
                self._parts.append(part[take:])
        return done


def drain(source: Source) -> None:
    """Read a source to its end."""
    waste = memoryview(bytearray(_BLOCK))
    while source.readinto(waste) == len(waste):
        pass
