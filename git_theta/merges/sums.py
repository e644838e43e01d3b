"""Sums of models: arithmetic that gives the same bits for torch tensors and numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T", bound=Any)


def combined(tensors: Sequence[T], factors: Sequence[float]) -> T:
    """The sum of factor times tensor, in order, with one rounding for each step."""
    total: T = tensors[0] * factors[0]
    for tensor, factor in zip(tensors[1:], factors[1:], strict=True):
        total += tensor * factor
    return total


def mean(tensors: Sequence[T], parts: Sequence[float]) -> T:
    """The weighted mean, for weights of sum 1: where all tensors are equal, exactly that number.

    It is counted from the tensor of the greatest weight. A plain sum of products differs from what
    is the same everywhere by its rounding: entries that no model changed would change. Half of the
    sum of two is exact there, and has the same bits in either order.
    """
    if len(tensors) == 2 and parts[0] == parts[1] == 0.5:
        half: T = tensors[0] + tensors[1]
        half *= 0.5
        return half
    first = max(range(len(parts)), key=lambda index: abs(parts[index]))
    total: T | None = None
    for index, (tensor, part) in enumerate(zip(tensors, parts, strict=True)):
        if index == first:
            continue
        change: T = tensor - tensors[first]
        change *= part
        if total is None:
            total = change
        else:
            total += change
    if total is None:
        total = tensors[first] * 1.0
    else:
        total += tensors[first]
    result: T = total
    return result
