"""First and second moments of a model's weights over several versions of it.

The mean is what averaging along a branch gives (SWA); with the mean of the squares and the last
few deviations from the running mean it is a Gaussian over weights (SWAG). One tensor of all
versions is looked at at a time, one version after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

RANK = 20


@dataclass(frozen=True)
class Moments:
    """`rank` is how many deviations are kept, of the last versions."""

    rank: int = RANK

    def of(self, name: str, versions: Iterable[Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Mean, mean square and deviations of one tensor; holds `rank` + 3 of its size."""
        mean, square = torch.zeros(()), torch.zeros(())
        deviations: list[Tensor] = []
        for count, version in enumerate(versions, start=1):
            exact = version.double()
            mean = exact.clone() if count == 1 else mean + (exact - mean) / count
            square = exact**2 if count == 1 else square + (exact**2 - square) / count
            if self.rank:
                deviations.append((exact - mean).float().reshape(-1))
                del deviations[: -self.rank]
        yield f"{name}#mean", mean.float()
        yield f"{name}#sqmean", square.float()
        if deviations:
            yield f"{name}#dev", torch.stack(deviations)
