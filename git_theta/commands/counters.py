"""Whole numbers that count, such as the batches that a BatchNorm has seen."""

from __future__ import annotations

from collections.abc import Sequence

from git_theta.commands.reading import Source
from git_theta.core.dtypes import DTYPES
from git_theta.core.manifest import Tensor


def largest(source: Source, tensors: Sequence[Tensor]) -> int:
    """Which of several whole numbers is the largest; the first of equal ones."""
    values = []
    for tensor in tensors:
        known = DTYPES[tensor.dtype]
        kind = f"<{known.kind[0]}{known.bits // 8}"
        values.append(int(source.whole(tensor.segment).view(kind)[0]))
    return values.index(max(values))
