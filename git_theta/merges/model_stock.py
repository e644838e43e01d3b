"""Model Stock: how far from the ancestor the mean of the models should lie, by their angle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor

from git_theta.core.strategy import Needs, Versions
from git_theta.merges.blocks import (
    ancestor,
    assembled,
    by_rows,
    deltas,
    row_length,
    slices,
)
from git_theta.merges.inner import cosine, double, gram
from git_theta.merges.parameters import check
from git_theta.merges.sums import combined


def ratio(count: int, cos: float) -> float:
    """N c / (1 + (N - 1) c), in [0, 1]: for a mean cosine of zero or less it is 0."""
    return min(1.0, count * cos / (1 + (count - 1) * cos)) if cos > 0 else 0.0


def _row_ratios(changes: Sequence[Tensor]) -> Tensor:
    """The ratio for each row of some matrices, as a column."""
    rows = [double(change) for change in changes]
    lengths = [row.square().sum(1, keepdim=True).sqrt_() for row in rows]
    total = torch.zeros_like(lengths[0])
    pairs = list(combinations(range(len(rows)), 2))
    for i, j in pairs:
        length = lengths[i] * lengths[j]
        total += (rows[i] * rows[j]).sum(1, keepdim=True) / length.masked_fill_(length == 0, 1)
    cos = total.mul_(1 / len(pairs)).clamp_(0, 1)
    count = len(rows)
    return (count * cos / (1 + (count - 1) * cos)).clamp_(max=1)


@dataclass(frozen=True, kw_only=True)
class ModelStock:
    """t mean(M_i) + (1 - t) B, t = N c / (1 + (N - 1) c), c the mean cosine between the V_i.

    t is kept in [0, 1]: task vectors that point away from one another give B. With `filter_wise`
    each row (entry of the first axis) has a ratio of its own. A zero task vector has cosine 0.

    Source: Model Stock (Jang et al., 2024).
    """

    name: ClassVar[str] = "model-stock"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base="required", models=(2, None), scope="tensor", widens=True)

    filter_wise: bool = False

    def __post_init__(self) -> None:
        check(self)

    def merge(self, versions: Versions) -> Tensor:
        if self.filter_wise and len(versions.shape) > 1:
            return self._by_rows(versions)
        products = gram(deltas(part) for part in slices(versions))
        pairs = list(combinations(range(len(products)), 2))
        cosines = [
            cosine(products[i][i], products[i][j], products[j][j])
            if products[i][i] and products[j][j]
            else 0.0
            for i, j in pairs
        ]
        count = len(versions.models)
        t = ratio(count, sum(cosines) / len(cosines)) if cosines else 0.0
        factors = [1 - t, *[t / count] * count]
        return assembled(versions, lambda part: combined((ancestor(part), *part.models), factors))

    def _by_rows(self, versions: Versions) -> Tensor:
        length = row_length(versions)

        def merge(part: Versions) -> Tensor:
            changes = [delta.view(-1, length) for delta in deltas(part)]
            t = _row_ratios(changes).to(changes[0])
            mean = combined(changes, [1 / len(changes)] * len(changes))
            mean *= t
            return mean.view(-1).add_(ancestor(part))

        return assembled(versions, merge, lambda whole: by_rows(whole, length))
