"""Strategies on spheres: sums of the models with factors that only their angles decide.

So all of them take one look at the tensors for their inner products, in float64 and in blocks of
fixed size, work out the factors from that small matrix, and add the models up. Torch is imported
only when it is used: some of them can do without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from git_theta.core.strategy import Needs, Versions
from git_theta.merges.inner import Gram, arc, gram
from git_theta.merges.parameters import POSITIVE, UNIT, Bounds, check, per_model, shares
from git_theta.merges.sums import combined

if TYPE_CHECKING:
    from torch import Tensor


def spread(versions: Versions, factors: Callable[[Gram], list[float]], *, turn: bool) -> Tensor:
    """The models (or, with `turn`, their task vectors) times factors that their angles give."""
    from git_theta.merges.blocks import ancestor, assembled, deltas, slices

    def vectors(part: Versions) -> list[Tensor]:
        return deltas(part) if turn else list(part.models)

    products = gram(vectors(part) for part in slices(versions))
    found = factors(products) if products else []

    def merge(part: Versions) -> Tensor:
        total = combined(vectors(part), found)
        return total.add_(ancestor(part)) if turn else total

    return assembled(versions, merge)


@dataclass(frozen=True, kw_only=True)
class Slerp:
    """Along the arc: sin((1-t) w)/sin(w) A + sin(t w)/sin(w) C, w the angle between A and C.

    A is the first model (ours), C the second. A line instead of an arc where they are parallel or
    opposite, |cos w| above 0.9995, or one of them is zero.

    Source: Animating Rotation with Quaternion Curves (Shoemake, 1985).
    """

    name: ClassVar[str] = "slerp"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(
        models=(2, 2), scope="tensor", ordered=True, widens=True, arrays=True
    )

    t: float = 0.5

    def __post_init__(self) -> None:
        check(self, t=UNIT)

    def merge(self, versions: Versions) -> Tensor:
        return spread(versions, self.factors, turn=False)

    def factors(self, products: Gram) -> list[float]:
        """What the models are multiplied by."""
        return list(arc(self.t, products[0][0], products[0][1], products[1][1]))


@dataclass(frozen=True, kw_only=True)
class MultiSlerp:
    """The mean direction of any number of models, times their mean length.

    m sum(w_i |M_i|), where m is sum(w_i M_i / |M_i|) made a unit vector; the weights are divided
    by their sum if `normalize`. With `from_base`, of the task vectors, added to the ancestor. The
    weighted mean where the directions cancel.

    Source: multislerp of model merging tools; its step along the sphere from m ends in m.
    """

    name: ClassVar[str] = "multislerp"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base="optional", models=(1, None), scope="tensor", widens=True)

    weights: tuple[float, ...] = ()
    normalize: bool = True
    from_base: bool = False
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        check(self, epsilon=POSITIVE)

    def merge(self, versions: Versions) -> Tensor:
        choose = shares if self.normalize else per_model
        weights = choose("weights", self.weights, len(versions.models))

        def factors(products: Gram) -> list[float]:
            lengths = [math.sqrt(products[i][i]) for i in range(len(products))]
            mean = [w / n if n else 0.0 for w, n in zip(weights, lengths, strict=True)]
            length = norm(products, mean)
            if length < self.epsilon:
                return weights
            size = math.fsum(w * n for w, n in zip(weights, lengths, strict=True))
            return [size / length * part for part in mean]

        return spread(versions, factors, turn=self.from_base)


@dataclass(frozen=True, kw_only=True)
class Karcher:
    """The Karcher mean of the directions, times the mean length of the models.

    Repeats u <- exp_u(sum(w_i log_u(u_i))) on the unit sphere, from the normalised mean, at most
    `max_iter` times or until a step is shorter than `tol`. A model that is zero in a tensor has no
    direction there and is left out.

    Source: Karcher (1977); Grove and Karcher (1973).
    """

    name: ClassVar[str] = "karcher"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(models=(1, None), scope="tensor", widens=True, arrays=True)

    weights: tuple[float, ...] = ()
    max_iter: int = 10
    tol: float = 1e-5

    def __post_init__(self) -> None:
        check(self, max_iter=Bounds(1), tol=POSITIVE)

    def merge(self, versions: Versions) -> Tensor:
        return spread(versions, self.factors, turn=False)

    def factors(self, products: Gram) -> list[float]:
        """What the models are multiplied by."""
        weights = shares("weights", self.weights, len(products))
        lengths = [math.sqrt(products[i][i]) for i in range(len(products))]
        whole = math.fsum(w for w, n in zip(weights, lengths, strict=True) if n)
        if abs(whole) < 1e-12:
            return weights
        parts = [w / whole if n else 0.0 for w, n in zip(weights, lengths, strict=True)]
        inverse = [1 / n if n else 0.0 for n in lengths]
        cosines = [
            [a * g * b for g, b in zip(row, inverse, strict=True)]
            for row, a in zip(products, inverse, strict=True)
        ]
        mean = self._mean(cosines, parts)
        size = math.fsum(w * n for w, n in zip(parts, lengths, strict=True))
        return [size * part * n for part, n in zip(mean, inverse, strict=True)]

    def _mean(self, cosines: Gram, weights: list[float]) -> list[float]:
        """The mean direction in terms of the unit vectors of the models."""
        length = norm(cosines, weights)
        if length < self.tol:
            first = next(i for i, weight in enumerate(weights) if weight)
            mean = [float(i == first) for i in range(len(weights))]
        else:
            mean = [weight / length for weight in weights]
        for _ in range(self.max_iter):
            step = _tangent(cosines, weights, mean)
            size = norm(cosines, step)
            if size < self.tol:
                break
            mean = [
                math.cos(size) * m + math.sin(size) / size * s
                for m, s in zip(mean, step, strict=True)
            ]
            length = norm(cosines, mean)
            mean = [part / length for part in mean]
        return mean


def norm(products: Gram, factors: list[float]) -> float:
    """The length of a combination of vectors with these inner products."""
    rows = (math.fsum(g * f for g, f in zip(row, factors, strict=True)) for row in products)
    return math.sqrt(max(0.0, math.fsum(f * r for f, r in zip(factors, rows, strict=True))))


def _tangent(cosines: Gram, weights: list[float], mean: list[float]) -> list[float]:
    """The weighted sum of the logarithms of the unit vectors at a mean."""
    step = [0.0] * len(weights)
    for i, weight in enumerate(weights):
        cosine = math.fsum(c * m for c, m in zip(cosines[i], mean, strict=True))
        angle = math.acos(max(-1.0, min(1.0, cosine)))
        sine = math.sin(angle)
        if not weight or sine < 1e-12:
            continue
        factor = weight * angle / sine
        step = [s - factor * cosine * m for s, m in zip(step, mean, strict=True)]
        step[i] += factor
    return step
