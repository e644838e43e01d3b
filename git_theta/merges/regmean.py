"""RegMean: the linear map that differs least from all models on their inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from git_theta.core.strategy import Needs, Versions
from git_theta.errors import MergeError
from git_theta.merges.fisher import present
from git_theta.merges.parameters import NOT_NEGATIVE, UNIT, check, shares
from git_theta.merges.sums import combined


def square(gram: Tensor, size: int) -> Tensor:
    """A Gram matrix from its full form, its diagonal, or its packed upper triangle.

    Raises:
        MergeError: it does not fit a matrix with inputs of this size.
    """
    if gram.shape == (size, size):
        return gram
    if gram.shape == (size,):
        return gram.diag()
    if gram.shape == (size * (size + 1) // 2,):
        full = gram.new_zeros(size, size)
        rows, columns = torch.triu_indices(size, size, device=gram.device)
        full[rows, columns] = gram
        full[columns, rows] = gram
        return full
    raise MergeError(f"its gram statistics have shape {tuple(gram.shape)}, its inputs {size}")


def inputs(versions: Versions, grams: tuple[Tensor, ...]) -> tuple[list[Tensor], bool]:
    """The models as matrices of outputs by inputs, and whether they are stored the other way."""
    shape = versions.shape
    flat = [model.reshape(shape[0], -1) for model in versions.models]
    size = grams[0].shape[0]
    other = grams[0].dim() == 2 and flat[0].shape[1] != size == shape[0]
    return ([matrix.T for matrix in flat] if other else flat), other


def averaged(versions: Versions, weights: tuple[float, ...]) -> Tensor:
    """The weighted mean."""
    return combined(versions.models, shares("weights", weights, len(versions.models)))


def usable(versions: Versions) -> tuple[Tensor, ...] | None:
    """The Gram matrices, for tensors that are matrices."""
    if len(versions.shape) < 2 or not versions.models[0].numel():
        return None
    return present(versions, "gram")


def _damped(gram: Tensor, size: int, off_diagonal: float) -> Tensor:
    """The Gram matrix with all but its diagonal scaled."""
    full = square(gram, size) * off_diagonal
    full.diagonal().copy_(square(gram, size).diagonal())
    return full


@dataclass(frozen=True, kw_only=True)
class RegMean:
    """W = (sum(w_i W_i G_i) + r M) (sum(w_i G_i) + r I)^-1, G_i = X^T X / n of a layer's inputs.

    W is outputs by inputs, M the weighted mean. All but the diagonal of each G_i is multiplied by
    `off_diagonal`. r is `ridge` times the mean of the diagonal of the sum, so that inputs which
    never fire give the mean. Tensors without Gram matrix are averaged. Solved in float64.

    Source: Dataless Knowledge Fusion by Merging Weights (Jin et al., 2023).
    """

    name: ClassVar[str] = "regmean"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(
        models=(1, None), scope="tensor", statistics=("gram",), double=True
    )

    weights: tuple[float, ...] = ()
    off_diagonal: float = 0.9
    ridge: float = 1e-6

    def __post_init__(self) -> None:
        check(self, off_diagonal=UNIT, ridge=NOT_NEGATIVE)

    def merge(self, versions: Versions) -> Tensor:
        grams = usable(versions)
        if grams is None:
            return averaged(versions, self.weights)
        matrices, other = inputs(versions, grams)
        size = matrices[0].shape[1]
        weights = shares("weights", self.weights, len(matrices))
        mean = combined(matrices, weights)
        whole = mean.new_zeros(size, size)
        right = mean.new_zeros(len(mean), size)
        for matrix, gram, weight in zip(matrices, grams, weights, strict=True):
            damped = _damped(gram.to(mean), size, self.off_diagonal) * weight
            whole += damped
            right += matrix @ damped
        merged = _solved(whole, right, mean, self.ridge)
        return (merged.T if other else merged).reshape(versions.shape).contiguous()


def _solved(whole: Tensor, right: Tensor, mean: Tensor, ridge: float) -> Tensor:
    """W with W whole = right; the ridge draws towards the mean where the inputs say nothing."""
    amount = float(whole.diagonal().mean()) * ridge or float(ridge > 0)
    whole.diagonal().add_(amount)
    try:
        found: Tensor = torch.linalg.solve(whole, right + mean * amount, left=False)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise MergeError("its gram matrices are singular", hint="set ridge above 0") from error
    return found
