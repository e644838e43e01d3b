"""Steps of a merge carried out: bytes read, strategies run, results encoded.

Elementwise work goes chunk by chunk, in cache-sized blocks within a chunk, so that what it holds
is a chunk of each version. Whole tensors are merged one after another, several at once only while
the memory that was allowed suffices. Importing this module imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from git_theta import compute
from git_theta.commands.reading import Source
from git_theta.core.chain import Bytes
from git_theta.core.dtypes import DTYPES
from git_theta.core.manifest import CHUNK, Manifest, Tensor
from git_theta.core.merging import Step
from git_theta.core.random import Source as Numbers
from git_theta.core.strategy import Versions
from git_theta.errors import MergeError

BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Context:
    """What all steps share. `keys` tell the models apart, whatever their order."""

    source: Source
    labels: tuple[str, ...]
    keys: tuple[str, ...]
    statistics: Mapping[str, tuple[Manifest | None, ...]] = field(default_factory=dict)
    device: str = "auto"
    complain: Callable[[str], None] = lambda _: None


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
    cost = count * 4 * (len(step.unit.models) + 3)
    yield Task(step, 0, cost, lambda: _whole_work(context, step, gathered))


def _elementwise(step: Step) -> bool:
    return step.chosen is not None and step.chosen.strategy.needs.scope == "element"


def _strategy(step: Step) -> Any:
    if step.chosen is None:
        raise MergeError("no strategy was chosen")
    return step.chosen.strategy


def _common(step: Step) -> int:
    """How many elements, from the first on, all versions have."""
    if step.rows is None:
        return math.prod(step.shape)
    return step.rows * math.prod(step.shape[1:])


# --- elementwise ---------------------------------------------------------------------------------


def _slice_work(
    context: Context, step: Step, start: int, stop: int
) -> Callable[[], Iterator[Bytes]]:
    def work() -> Iterator[Bytes]:
        yield _merge_slice(context, step, start, stop)

    return work


def _merge_slice(context: Context, step: Step, start: int, stop: int) -> Bytes:
    width = DTYPES[step.dtype].bits // 8
    out = np.empty((stop - start) * width, np.uint8)
    common = min(max(_common(step), start), stop)
    inputs = _Inputs(context, step, start, common)
    strategy = _strategy(step)
    for low in range(start, common, BLOCK):
        high = min(low + BLOCK, common)
        merged = strategy.merge(inputs.versions(low, high))
        out[(low - start) * width : (high - start) * width] = compute.to_bytes(merged, step.dtype)
    if common < stop:
        out[(common - start) * width :] = _tail(context, step, common, stop)
    return out


def _tail(context: Context, step: Step, start: int, stop: int) -> Bytes:
    """Rows that only one version has."""
    winner = step.unit.version(step.winner)
    if winner is None:
        raise MergeError("the version that has more rows is not there")
    data = _stored(context, winner, start, stop)
    if winner.dtype == step.dtype:
        return data
    return compute.to_bytes(compute.to_numbers(data, winner.dtype), step.dtype)


def _stored(context: Context, tensor: Tensor, start: int, stop: int) -> Bytes:
    width = DTYPES[tensor.dtype].bits // 8
    return context.source.range(tensor.segment, start * width, stop * width)


def _read(
    context: Context, tensors: Sequence[Tensor | None], start: int, stop: int
) -> list[Bytes | None]:
    """The same entries of several versions of a tensor, as they are stored."""
    widths = {DTYPES[tensor.dtype].bits // 8 for tensor in tensors if tensor is not None}
    if len(widths) != 1:
        return [None if t is None else _stored(context, t, start, stop) for t in tensors]
    (width,) = widths
    segments = [None if tensor is None else tensor.segment for tensor in tensors]
    return context.source.aligned(segments, start * width, stop * width)


class _Inputs:
    """All versions of a range of entries, as bytes, and slices of them as numbers."""

    def __init__(self, context: Context, step: Step, start: int, stop: int) -> None:
        self.context, self.step, self.start = context, step, start
        needs = _strategy(step).needs
        self.double = needs.double or step.dtype == "F64"
        base = step.unit.base if needs.base != "unused" else None
        tensors = [base, *step.unit.models]
        read = _read(context, tensors, start, stop)
        self.stored = [
            None if tensor is None or data is None else (data, tensor.dtype)
            for tensor, data in zip(tensors, read, strict=True)
        ]
        self.statistics = {
            kind: [_statistic(context, step, side, start, stop) for side in sides]
            for kind, sides in context.statistics.items()
            if kind in needs.statistics
        }

    def versions(self, low: int, high: int) -> Versions:
        """The entries `low` to `high`."""
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
        found = self.stored[index]
        if found is None:
            return None
        data, dtype = found
        width = DTYPES[dtype].bits // 8
        part = data[(low - self.start) * width : (high - self.start) * width]
        numbers = compute.to_numbers(part, dtype, double=self.double)
        _check(self.context, index, numbers)
        return numbers


def _check(context: Context, index: int, numbers: torch.Tensor) -> None:
    if not compute.has_only_finite(numbers):
        side = ("the ancestor", *context.labels)[index]
        raise MergeError(f"{side} has NaN or infinite numbers in it")


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
    return compute.to_numbers(_stored(context, tensor, start, stop), tensor.dtype)


def _named(side: Manifest | None, names: Sequence[str]) -> Tensor | None:
    if side is None:
        return None
    return next((side.tensors[name] for name in names if name in side.tensors), None)


# --- whole tensors -------------------------------------------------------------------------------


def whole_versions(context: Context, step: Step, gathered: Any, device: str) -> Versions:
    """All versions of a whole tensor on a device."""
    needs = _strategy(step).needs
    base = step.unit.base if needs.base != "unused" else None
    tensors = [base, *step.unit.models]
    read = _read(context, tensors, 0, _common(step))
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
    if needs.widens:
        flat = compute.as_stored(data, tensor.dtype)
    else:
        flat = compute.to_numbers(data, tensor.dtype, double=needs.double or step.dtype == "F64")
    _check(context, index, flat)
    return flat.reshape(_common_shape(step)).to(device)


def _whole_work(context: Context, step: Step, gathered: Any) -> Iterator[Bytes]:
    strategy = _strategy(step)
    count = _common(step)
    device = compute.choose_device(
        context.device, elementwise=False, double=strategy.needs.double, count=count
    )

    def work(where: str) -> Bytes:
        merged = strategy.merge(whole_versions(context, step, gathered, where))
        if tuple(merged.shape) != _common_shape(step):
            raise MergeError(f"{strategy.name} made a tensor of shape {list(merged.shape)}")
        return compute.to_bytes(merged, step.dtype)

    done = compute.on_device(
        device, work, lambda said: context.complain(f"{step.unit.name}: {said}")
    )
    if count < math.prod(step.shape):
        done = np.concatenate([done, _tail(context, step, count, math.prod(step.shape))])
    for start in range(0, max(len(done), 1), CHUNK):
        yield done[start : start + CHUNK]
