"""Parts of a merge carried out: strategies run on what was read, results as bytes.

Elementwise work goes in blocks that fit in a cache. Importing this module imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from git_theta import compute
from git_theta.commands.tasks import Context, common, not_finite, read_versions, stored, versions_of
from git_theta.core.chain import Bytes
from git_theta.core.dtypes import DTYPES
from git_theta.core.manifest import CHUNK, Manifest, Tensor
from git_theta.core.merging import Step
from git_theta.core.random import Source as Numbers
from git_theta.core.strategy import Versions
from git_theta.errors import MergeError

BLOCK = 1 << 18


def _strategy(step: Step) -> Any:
    if step.chosen is None:
        raise MergeError("no strategy was chosen")
    return step.chosen.strategy


# --- elementwise ---------------------------------------------------------------------------------


def merge_slice(
    context: Context, step: Step, start: int, stop: int, read: Sequence[Bytes | None]
) -> Bytes:
    """The entries `start` to `stop` of the result; `read` are those that all versions have."""
    width = DTYPES[step.dtype].bits // 8
    out = context.room.take((stop - start) * width)
    shared = min(max(common(step), start), stop)
    inputs = _Inputs(context, step, start, shared, read)
    strategy = _strategy(step)
    try:
        for low in range(start, shared, BLOCK):
            high = min(low + BLOCK, shared)
            merged = strategy.merge(inputs.versions(low, high))
            part = out[(low - start) * width : (high - start) * width]
            compute.put_bytes(merged, step.dtype, part)
        if shared < stop:
            out[(shared - start) * width :] = _tail(context, step, shared, stop)
    except BaseException:
        context.room.give(out)
        raise
    return out


def _tail(context: Context, step: Step, start: int, stop: int) -> Bytes:
    """Rows that only one version has."""
    winner = step.unit.version(step.winner)
    if winner is None:
        raise MergeError("the version that has more rows is not there")
    data = stored(context, winner, start, stop)
    if winner.dtype == step.dtype:
        return data
    return compute.to_bytes(compute.to_numbers(data, winner.dtype), step.dtype)


class _Inputs:
    """All versions of a range of entries, as bytes, and slices of them as numbers."""

    def __init__(
        self, context: Context, step: Step, start: int, stop: int, read: Sequence[Bytes | None]
    ) -> None:
        self.context, self.step, self.start = context, step, start
        needs = _strategy(step).needs
        self.double = needs.double or step.dtype == "F64"
        self.stored = [
            None if tensor is None or data is None else (data, tensor.dtype)
            for tensor, data in zip(versions_of(step), read, strict=True)
        ]
        wide = torch.float64 if self.double else torch.float32
        room = min(BLOCK, stop - start)
        self.room = [None if one is None else torch.empty(room, dtype=wide) for one in self.stored]
        self.statistics = {
            kind: [_statistic(context, step, side, start, stop) for side in sides]
            for kind, sides in context.statistics.items()
            if kind in needs.statistics
        }

    def versions(self, low: int, high: int) -> Versions:
        """The entries `low` to `high`, until others are asked for."""
        numbers = [self._numbers(index, low, high) for index in range(len(self.stored))]
        statistics = {
            kind: tuple(
                None if s is None else s[low - self.start : high - self.start] for s in sides
            )
            for kind, sides in self.statistics.items()
        }
        return Versions(
            name=self.step.unit.name,
            shape=_common_shape(self.step),
            base=numbers[0],
            models=tuple(n for n in numbers[1:] if n is not None),
            start=low,
            statistics=statistics,
            uniform=_uniform(self.context, self.step, "cpu"),
        )

    def _numbers(self, index: int, low: int, high: int) -> torch.Tensor | None:
        found, room = self.stored[index], self.room[index]
        if found is None or room is None:
            return None
        data, dtype = found
        width = DTYPES[dtype].bits // 8
        part = data[(low - self.start) * width : (high - self.start) * width]
        _check(self.context, index, part, dtype)
        return compute.put_numbers(part, dtype, room[: high - low])


def _check(context: Context, index: int, data: Bytes, dtype: str) -> None:
    if not compute.has_only_finite(data, dtype):
        raise not_finite(context, index)


def _common_shape(step: Step) -> tuple[int, ...]:
    return step.shape if step.rows is None else (step.rows, *step.shape[1:])


def _uniform(
    context: Context, step: Step, device: str
) -> Callable[[int, int, int], torch.Tensor] | None:
    strategy = _strategy(step)
    if not strategy.needs.seeded:
        return None

    def draw(model: int, start: int, stop: int) -> torch.Tensor:
        numbers = Numbers(strategy.seed, step.unit.name, context.keys[model])
        drawn: torch.Tensor = numbers.torch(start, stop, device)
        return drawn

    return draw


def _statistic(
    context: Context, step: Step, side: Manifest | None, start: int = 0, stop: int | None = None
) -> torch.Tensor | None:
    """One model's statistic of a tensor, whole and in shape, or a flat range of it."""
    tensor = _named(side, step.unit.names)
    if tensor is None:
        return None
    if stop is None:
        data = context.source.whole(tensor.segment)
        return compute.to_numbers(data, tensor.dtype).reshape(tensor.shape)
    return compute.to_numbers(stored(context, tensor, start, stop), tensor.dtype)


def _named(side: Manifest | None, names: Sequence[str]) -> Tensor | None:
    if side is None:
        return None
    return next((side.tensors[name] for name in names if name in side.tensors), None)


# --- whole tensors -------------------------------------------------------------------------------


def whole_versions(context: Context, step: Step, gathered: Any, device: str) -> Versions:
    """All versions of a whole tensor on a device."""
    tensors = versions_of(step)
    read = read_versions(context, step, 0, common(step))
    loaded = [
        None
        if tensor is None or data is None
        else _load(context, step, index, tensor, data, device)
        for index, (tensor, data) in enumerate(zip(tensors, read, strict=True))
    ]
    del read
    statistics = {
        kind: tuple(_moved(s, device) for s in sides)
        for kind, sides in _whole_statistics(context, step).items()
    }
    return Versions(
        name=step.unit.name,
        shape=_common_shape(step),
        base=loaded[0],
        models=tuple(n for n in loaded[1:] if n is not None),
        statistics=statistics,
        gathered=gathered,
        uniform=_uniform(context, step, device),
    )


def _moved(tensor: torch.Tensor | None, device: str) -> torch.Tensor | None:
    return None if tensor is None else tensor.to(device)


def _whole_statistics(context: Context, step: Step) -> dict[str, list[torch.Tensor | None]]:
    found = {}
    for kind in _strategy(step).needs.statistics:
        sides = context.statistics.get(kind, ())
        found[kind] = [_statistic(context, step, side) for side in sides]
        extra = [_extra(context, step, side) for side in sides]
        if any(e is not None for e in extra):
            found[f"{kind}#out"] = extra
    return found


def _extra(context: Context, step: Step, side: Manifest | None) -> torch.Tensor | None:
    """What a side-car says of a tensor's outputs, where it does."""
    tensor = _named(side, [f"{name}#out" for name in step.unit.names])
    if tensor is None:
        return None
    data = context.source.whole(tensor.segment)
    return compute.to_numbers(data, tensor.dtype).reshape(tensor.shape)


def _load(
    context: Context, step: Step, index: int, tensor: Tensor, data: Bytes, device: str
) -> torch.Tensor:
    needs = _strategy(step).needs
    _check(context, index, data, tensor.dtype)
    if needs.widens:
        flat = compute.as_stored(data, tensor.dtype)
    else:
        flat = compute.to_numbers(data, tensor.dtype, double=needs.double or step.dtype == "F64")
    return flat.reshape(_common_shape(step)).to(device)


def merge_whole(context: Context, step: Step, gathered: Any) -> Iterator[Bytes]:
    """The whole result, in chunks."""
    strategy = _strategy(step)
    count = common(step)
    device = compute.choose_device(
        context.device, elementwise=False, double=strategy.needs.double, count=count
    )

    def work(where: str) -> Bytes:
        merged = strategy.merge(whole_versions(context, step, gathered, where))
        context.source.doubt()  # on the CPU, tensors that were not widened are the very bytes read
        if tuple(merged.shape) != _common_shape(step):
            raise MergeError(f"{strategy.name} made a tensor of shape {list(merged.shape)}")
        out = context.room.take(merged.numel() * DTYPES[step.dtype].bits // 8)
        compute.put_bytes(merged, step.dtype, out)
        return out

    done = compute.on_device(
        device, work, lambda said: context.complain(f"{step.unit.name}: {said}")
    )
    if count < math.prod(step.shape):
        done = np.concatenate([done, _tail(context, step, count, math.prod(step.shape))])
    for start in range(0, max(len(done), 1), CHUNK):
        yield done[start : start + CHUNK]
