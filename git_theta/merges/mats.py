"""MaTS: merging in the subspaces that matter to each task, by conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from git_theta.core.strategy import Needs, Versions
from git_theta.merges.blocks import ancestor
from git_theta.merges.fisher import present
from git_theta.merges.parameters import NOT_NEGATIVE, Bounds, check, choice, shares
from git_theta.merges.regmean import averaged, inputs, square, usable


@dataclass(frozen=True, kw_only=True)
class Mats:
    """W with sum(w_i A_i W C_i) = sum(w_i A_i W_i C_i), by conjugate gradients.

    C_i = X^T X / n of a layer's inputs; A_i is the same of the gradients of its outputs, where the
    statistics have them (NAME#out), else the identity. Begins at the "average" of the models or at
    "task-arithmetic", B + scale * sum(V_i), and stops after `iterations` steps or when the residual
    is `tol` of what it was: fewer steps stay nearer to the start. Tensors without Gram matrix are
    averaged. Computed in float64.

    Source: Merging by Matching Models in Task Parameter Subspaces (Tam et al., 2024).
    """

    name: ClassVar[str] = "mats"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(
        base="optional", models=(1, None), scope="tensor", statistics=("gram",), double=True
    )

    weights: tuple[float, ...] = ()
    iterations: int = 100
    tol: float = 1e-10
    start: str = "average"
    scale: float = 0.3

    def __post_init__(self) -> None:
        check(self, weights=NOT_NEGATIVE, iterations=Bounds(0), tol=NOT_NEGATIVE)
        choice(self, "start", ("average", "task-arithmetic"))

    def merge(self, versions: Versions) -> Tensor:
        grams = usable(versions)
        if grams is None:
            return averaged(versions, self.weights)
        weights = shares("weights", self.weights, len(versions.models))
        matrices, other = inputs(versions, grams)
        rows, columns = matrices[0].shape
        right = [square(gram.to(matrices[0]), columns) for gram in grams]
        outs = present(versions, "gram#out")
        left = [square(gram.to(matrices[0]), rows) for gram in outs] if outs else None

        def applied(each: list[Tensor]) -> Tensor:
            total = each[0].new_zeros(rows, columns)
            for model, weight in enumerate(weights):
                product = each[model] @ right[model]
                total += weight * (left[model] @ product if left else product)
            return total

        first = self._start(versions).reshape(versions.shape[0], -1)
        found = self._solved(
            lambda matrix: applied([matrix] * len(weights)),
            applied(matrices),
            first.T if other else first,
        )
        return (found.T if other else found).reshape(versions.shape).contiguous()

    def _start(self, versions: Versions) -> Tensor:
        if self.start == "average":
            return averaged(versions, self.weights)
        base = ancestor(versions)
        total = base.clone()
        for model in versions.models:
            total += (model - base) * self.scale
        return total

    def _solved(self, operator: Callable[[Tensor], Tensor], goal: Tensor, start: Tensor) -> Tensor:
        """Conjugate gradients for a symmetric operator without negative eigenvalues."""
        found = start.clone()
        rest = goal - operator(found)
        way = rest.clone()
        size = first = float(rest.square().sum())
        for _ in range(self.iterations):
            if size <= self.tol**2 * first or not size:
                break
            image = operator(way)
            bend = float((way * image).sum())
            if bend <= 0:
                break
            found += way * (size / bend)
            rest -= image * (size / bend)
            before, size = size, float(rest.square().sum())
            way = rest + way * (size / before)
        return found
