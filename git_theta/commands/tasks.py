"""What is to be done for the steps of a merge, cut into parts for several threads.

Elementwise work goes chunk by chunk, so that what it holds is a chunk of each version. Whole
tensors are merged one after another, several at once only while the memory that was allowed
suffices. Nothing here imports torch: sums are made in numpy, and for all else the first versions
are read while it is still on its way.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from git_theta.commands import warming
from git_theta.commands.reading import Source
from git_theta.core import words
from git_theta.core.chain import Bytes
from git_theta.core.dtypes import DTYPES
from git_theta.core.manifest import CHUNK, Manifest, Tensor
from git_theta.core.merging import Step
from git_theta.errors import MergeError

_KEPT = 8


class Room:
    """Memory for results, used again once they are stored: fresh memory is slow."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._free: list[Bytes] = []
        self._lent: dict[int, Bytes] = {}

    def take(self, size: int) -> Bytes:
        """A buffer with any content, until it is given back."""
        if size > CHUNK:
            return np.empty(size, np.uint8)
        with self._guard:
            whole = self._free.pop() if self._free else np.empty(CHUNK, np.uint8)
            self._lent[id(whole)] = whole
        return whole[:size]

    def give(self, part: Bytes) -> None:
        """Give back a buffer, or any part of it; others are left alone."""
        with self._guard:
            whole = self._lent.pop(id(part.base), None)
            if whole is not None and len(self._free) < _KEPT:
                self._free.append(whole)


@dataclass(frozen=True, kw_only=True)
class Context:
    """What all steps share. `keys` tell the models apart, whatever their order."""

    source: Source
    labels: tuple[str, ...]
    keys: tuple[str, ...]
    statistics: Mapping[str, tuple[Manifest | None, ...]] = field(default_factory=dict)
    device: str = "auto"
    complain: Callable[[str], None] = lambda _: None
    room: Room = field(default_factory=Room)


class Task(NamedTuple):
    """Part of a step that can be done on any thread.

    It makes chunks of the result from byte `start` on; `cost` is the memory that it takes.
    """

    step: Step
    start: int
    cost: int
    work: Callable[[], Iterator[Bytes]]


def tasks(context: Context, step: Step, gathered: Any) -> Iterator[Task]:
    """What is to be done for one step, in order."""
    width = DTYPES[step.dtype].bits // 8
    count = math.prod(step.shape)
    if _elementwise(step):
        each = CHUNK // width
        for start in range(0, max(count, 1), each):
            stop = min(start + each, count)
            cost = (stop - start) * width * (len(step.unit.models) + 3)
            yield Task(step, start * width, cost, _slice_work(context, step, start, stop))
        return
    if in_arrays(context.device, step):
        cost = count * width * (len(step.unit.models) + 2)
    else:
        cost = count * 4 * (len(step.unit.models) + 3)
    yield Task(step, 0, cost, lambda: _whole_work(context, step, gathered))


def not_finite(context: Context, index: int) -> MergeError:
    """What is wrong with a version that cannot be computed with: 0 is the ancestor."""
    side = ("the ancestor", *context.labels)[index]
    return MergeError(f"{side} has NaN or infinite numbers in it")


def in_arrays(device: str, step: Step) -> bool:
    """Whether a step is done in numpy, without torch."""
    if step.chosen is None or step.rows is not None or device not in ("auto", "cpu"):
        return False
    alike = {None if t is None else t.dtype for t in versions_of(step)} - {None} == {step.dtype}
    return alike and step.dtype in words.FLOATS and step.chosen.strategy.needs.arrays


def _elementwise(step: Step) -> bool:
    return step.chosen is not None and step.chosen.strategy.needs.scope == "element"


def _slice_work(
    context: Context, step: Step, start: int, stop: int
) -> Callable[[], Iterator[Bytes]]:
    def work() -> Iterator[Bytes]:
        stored = read_versions(context, step, start, max(start, min(stop, common(step))))
        if in_arrays(context.device, step):
            from git_theta.commands import arrays

            yield arrays.merge_slice(context, step, start, stop, stored)
            return
        warming.ready()
        from git_theta.commands.computing import merge_slice

        yield merge_slice(context, step, start, stop, stored)

    return work


def _whole_work(context: Context, step: Step, gathered: Any) -> Iterator[Bytes]:
    if in_arrays(context.device, step):
        from git_theta.commands import arrays

        return arrays.merge_whole(context, step)
    warming.ready()
    from git_theta.commands.computing import merge_whole

    return merge_whole(context, step, gathered)


def common(step: Step) -> int:
    """How many elements, from the first on, all versions have."""
    if step.rows is None:
        return math.prod(step.shape)
    return step.rows * math.prod(step.shape[1:])


def versions_of(step: Step) -> list[Tensor | None]:
    """The ancestor, where the strategy looks at it, and the models."""
    used = step.chosen is not None and step.chosen.strategy.needs.base != "unused"
    return [step.unit.base if used else None, *step.unit.models]


def read_versions(context: Context, step: Step, start: int, stop: int) -> list[Bytes | None]:
    """The same entries of all versions of a tensor, as they are stored.

    They are valid until this thread reads others.
    """
    tensors = versions_of(step)
    widths = {DTYPES[tensor.dtype].bits // 8 for tensor in tensors if tensor is not None}
    if len(widths) != 1:
        return [None if t is None else stored(context, t, start, stop) for t in tensors]
    (width,) = widths
    segments: Sequence[Any] = [None if t is None else t.segment for t in tensors]
    return context.source.aligned(segments, start * width, stop * width)


def stored(context: Context, tensor: Tensor, start: int, stop: int) -> Bytes:
    """The bytes of a range of entries."""
    width = DTYPES[tensor.dtype].bits // 8
    return context.source.range(tensor.segment, start * width, stop * width)
