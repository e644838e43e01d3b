"""What matrix methods share: a tensor as a matrix, and what becomes of those that are none."""

from __future__ import annotations

import torch
from torch import Tensor

from git_theta.core.strategy import Versions
from git_theta.errors import MergeError
from git_theta.merges.blocks import ancestor
from git_theta.merges.sums import combined


def is_matrix(versions: Versions) -> bool:
    """Whether a tensor has two axes or more, and entries."""
    return len(versions.shape) > 1 and versions.models[0].numel() > 0


def changed(versions: Versions) -> list[Tensor]:
    """The task vectors as matrices of the first axis by the rest."""
    base = ancestor(versions)
    return [(model - base).reshape(len(base), -1) for model in versions.models]


def mean(versions: Versions, weights: list[float]) -> Tensor:
    """The weighted mean: what matrix methods do with vectors."""
    return combined(versions.models, weights)


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The thin singular value decomposition.

    Raises:
        MergeError: it does not converge.
    """
    try:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise MergeError(f"its singular values do not converge: {error}") from error
    return left, values, right


def rank(values: Tensor, shape: torch.Size) -> int:
    """How many singular values are more than rounding."""
    if not values.numel():
        return 0
    least = values[0] * max(shape) * torch.finfo(values.dtype).eps
    return int((values > least).sum())


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns (or rows), its polar factor.

    Directions that the matrix does not have are left out, not made up.
    """
    left, values, right = svd(matrix)
    kept = rank(values, matrix.shape)
    return left[:, :kept] @ right[:kept]
