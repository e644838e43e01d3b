"""Strategies along a line: interpolation, extrapolation, a copy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from git_theta.core.strategy import Needs, Versions
from git_theta.merges.blocks import ancestor
from git_theta.merges.parameters import NOT_NEGATIVE, check, shares
from git_theta.merges.sums import mean


@dataclass(frozen=True, kw_only=True)
class Interpolate:
    """Between the ancestor and the models: B + alpha * sum(w_i (M_i - B)), weights of sum 1.

    With one model this is (1 - alpha) B + alpha M.

    Source: WiSE-FT (Wortsman et al., 2022), PAINT (Ilharco et al., 2022).
    """

    name: ClassVar[str] = "interpolate"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base="required", models=(1, None))

    alpha: float = 0.5
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check(self)

    def merge(self, versions: Versions) -> Tensor:
        parts = [self.alpha * w for w in shares("weights", self.weights, len(versions.models))]
        return mean((ancestor(versions), *versions.models), [1 - self.alpha, *parts])


@dataclass(frozen=True, kw_only=True)
class Extrapolate:
    """Beyond the models: M + alpha (M - B), with M the weighted mean of the models.

    Source: ExPO (Zheng et al., 2024).
    """

    name: ClassVar[str] = "extrapolate"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base="required", models=(1, None))

    alpha: float = 0.3
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check(self, alpha=NOT_NEGATIVE)

    def merge(self, versions: Versions) -> Tensor:
        further = 1 + self.alpha
        parts = [further * w for w in shares("weights", self.weights, len(versions.models))]
        return mean((ancestor(versions), *versions.models), [1 - math.fsum(parts), *parts])


@dataclass(frozen=True, kw_only=True)
class Passthrough:
    """One model as it is, times `scale`: scale * M."""

    name: ClassVar[str] = "passthrough"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(models=(1, 1))

    scale: float = 1.0

    def __post_init__(self) -> None:
        check(self)

    def merge(self, versions: Versions) -> Tensor:
        return versions.models[0] * self.scale
