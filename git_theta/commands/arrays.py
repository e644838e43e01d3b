"""Parts of a merge carried out in numpy: sums, for which torch need not be imported.

As in `computing`, on the CPU, with the same bits for elementwise work. Blocks are small enough to
stay in a cache from the stored bytes to the rounded result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from git_theta.commands.tasks import Context, not_finite, read_versions
from git_theta.core import words
from git_theta.core.chain import Bytes, scratch
from git_theta.core.dtypes import DTYPES
from git_theta.core.manifest import CHUNK
from git_theta.core.merging import Step
from git_theta.core.strategy import Versions
from git_theta.errors import MergeError
from git_theta.merges.inner import products
from git_theta.merges.sums import combined

BLOCK = 1 << 17


def merge_slice(
    context: Context, step: Step, start: int, stop: int, read: Sequence[Bytes | None]
) -> Bytes:
    """The entries `start` to `stop` of the result; `read` are those of all versions."""
    base, *models = read
    strategy: Any = step.chosen and step.chosen.strategy

    def merge(low: int, high: int) -> Any:
        def part(data: Bytes | None, index: int) -> Any:
            return None if data is None else _wide(step, data, low, high, index)

        versions = Versions(
            name=step.unit.name,
            shape=step.shape,
            base=part(base, 0),
            models=tuple(part(data, index) for index, data in enumerate(models, 1)),
            start=start + low,
        )
        return strategy.merge(versions)

    return _made(context, step, read, merge, 0, stop - start)


def merge_whole(context: Context, step: Step) -> Iterator[Bytes]:
    """The whole result, in chunks."""
    count = math.prod(step.shape)
    read = read_versions(context, step, 0, count)
    models = [data for data in read[1:] if data is not None]

    def vectors(low: int, high: int) -> list[Any]:
        return [_wide(step, data, low, high, index) for index, data in enumerate(models)]

    def doubled() -> Iterator[list[Any]]:
        for low in range(0, count, BLOCK):
            found = vectors(low, min(low + BLOCK, count))
            yield [_double(vector, index) for index, vector in enumerate(found)]

    with np.errstate(all="ignore"):
        gram = products(doubled())
    if not all(math.isfinite(row[n]) for n, row in enumerate(gram)):
        _refuse(context, step, read)
    strategy: Any = step.chosen and step.chosen.strategy
    factors = strategy.factors(gram) if gram else []
    each = CHUNK * 8 // DTYPES[step.dtype].bits
    for start in range(0, max(count, 1), each):
        stop = min(start + each, count)
        yield _made(context, step, read, lambda a, b: combined(vectors(a, b), factors), start, stop)


def _made(
    context: Context, step: Step, read: Sequence[Bytes | None], merge: Any, start: int, stop: int
) -> Bytes:
    """What `merge` makes of the entries of `read` from `start` to `stop`, rounded."""
    width = DTYPES[step.dtype].bits // 8
    out = context.room.take((stop - start) * width)
    try:
        for low in range(start, stop, BLOCK):
            high = min(low + BLOCK, stop)
            part = out[(low - start) * width : (high - start) * width]
            with np.errstate(all="ignore"):
                merged = merge(low, high)
            words.narrow(merged, step.dtype, part)
            if not words.has_only_finite(part, step.dtype):
                _refuse(context, step, read)
    except BaseException:
        context.room.give(out)
        raise
    return out


def _wide(step: Step, data: Bytes, low: int, high: int, index: int) -> Any:
    """Some entries of a version as numbers, until others of it are asked for."""
    width = DTYPES[step.dtype].bits // 8
    room = scratch.take(f"numbers {index}", 4 * BLOCK)
    return words.widen(data[low * width : high * width], step.dtype, room)


def _double(vector: Any, index: int) -> Any:
    room = scratch.take(f"double {index}", 8 * BLOCK).view(np.float64)[: len(vector)]
    np.copyto(room, vector)
    return room


def _refuse(context: Context, step: Step, read: Sequence[Bytes | None]) -> None:
    """Say what is not finite, or too large.

    Raises:
        MergeError: always.
    """
    for index, data in enumerate(read):
        if data is not None and not words.has_only_finite(data, step.dtype):
            raise not_finite(context, index)
    raise MergeError(
        f"the result overflows {step.dtype}",
        hint="merge this tensor otherwise: --for NAME ...",
    )
