"""Whole tensors block by block: what a strategy holds besides its inputs is a few blocks.

Blocks have a fixed size on each kind of device, so sums are added up in the same order every time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from git_theta.core.strategy import Versions
from git_theta.errors import MergeError

BLOCK = 1 << 18
_DEVICE_BLOCK = 1 << 25
"""On an accelerator a block must keep many cores busy."""


def width(versions: Versions) -> torch.dtype:
    """The dtype to compute in: float64 where an input is float64, else float32."""
    double = any(model.dtype == torch.float64 for model in versions.models)
    return torch.float64 if double else torch.float32


def _block(versions: Versions) -> int:
    return BLOCK if versions.models[0].device.type == "cpu" else _DEVICE_BLOCK


def slices(versions: Versions, step: int | None = None) -> Iterator[Versions]:
    """The tensors in flat, widened slices; statistics of the same shape are cut along."""
    step = step or _block(versions)
    dtype = width(versions)
    size = versions.models[0].numel()

    def cut(tensor: Tensor, start: int) -> Tensor:
        return tensor.reshape(-1)[start : start + step].to(dtype)

    for start in range(0, size, step):
        yield replace(
            versions,
            start=start,
            models=tuple(cut(model, start) for model in versions.models),
            base=None if versions.base is None else cut(versions.base, start),
            statistics={
                kind: tuple(
                    None if one is None or one.numel() != size else cut(one, start) for one in each
                )
                for kind, each in versions.statistics.items()
            },
        )


def by_rows(versions: Versions, length: int) -> Iterator[Versions]:
    """As `slices`, but always whole rows of a length."""
    length = max(1, length)
    yield from slices(versions, length * max(1, _block(versions) // length))


def row_length(versions: Versions) -> int:
    """The entries of one row: all axes but the first; a vector is one row."""
    shape = versions.shape
    return math.prod(shape[1:]) if len(shape) > 1 else math.prod(shape)


def assembled(
    versions: Versions,
    merge: Callable[[Versions], Tensor],
    parts: Callable[[Versions], Iterator[Versions]] = slices,
) -> Tensor:
    """A whole tensor whose parts are merged one after the other."""
    first = versions.models[0]
    out = torch.empty(first.shape, dtype=width(versions), device=first.device)
    flat = out.view(-1)
    for part in parts(versions):
        flat[part.start : part.start + part.models[0].numel()] = merge(part).reshape(-1)
    return out


def ancestor(versions: Versions) -> Tensor:
    """The base.

    Raises:
        MergeError: there is none.
    """
    if versions.base is None:
        raise MergeError("there is no common ancestor", hint="choose a strategy without one")
    return versions.base


def deltas(versions: Versions) -> list[Tensor]:
    """What each model changed: tensors of our own, which may be overwritten."""
    base = ancestor(versions)
    return [model - base for model in versions.models]
