"""Inner products in float64: of whole tensors, block by block, and of their rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Gram = list[list[float]]
STRAIGHT = 0.9995
"""Above this |cosine| two vectors count as parallel, and the arc between them as a line."""


def double(tensor: Tensor) -> Tensor:
    """The tensor in float64, on the processor where its device has none."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def gram(parts: Iterable[Sequence[Tensor]]) -> Gram:
    """The inner products of vectors that come in blocks."""
    return products([double(vector) for vector in vectors] for vectors in parts)


def products(parts: Iterable[Sequence[Any]]) -> Gram:
    """As `gram`, of vectors in float64, which may be numpy's."""
    total: Gram = []
    for rows in parts:
        total = total or [[0.0] * len(rows) for _ in rows]
        for i, row in enumerate(rows):
            for j in range(i + 1):
                total[i][j] += float(row.dot(rows[j]))
                total[j][i] = total[i][j]
    return total


def cosine(aa: float, ab: float, bb: float) -> float:
    """The cosine of an angle from the inner products; 1 where a vector is zero."""
    length = math.sqrt(aa) * math.sqrt(bb)
    return max(-1.0, min(1.0, ab / length)) if length else 1.0


def arc(t: float, aa: float, ab: float, bb: float) -> tuple[float, float]:
    """The factors of two vectors for the point at `t` of the arc (or line) between them."""
    cos = cosine(aa, ab, bb)
    if abs(cos) > STRAIGHT:
        return 1 - t, t
    angle = math.acos(cos)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
