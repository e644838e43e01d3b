"""The best approximation of a matrix by a product of thin ones, in float64."""

from __future__ import annotations

import numpy as np

from git_theta.core.values import Doubles

_EXACT = 512
_SPARE, _ROUNDS = 16, 4


def truncated(matrix: Doubles, rank: int) -> tuple[Doubles, Doubles]:
    """Factors (left, right) of a rank, each with half of the weight; zeros where it has less.

    Up to a short side of 512 that is the singular value decomposition itself; above, a random
    sketch of the matrix with four rounds of subspace iteration, from a fixed seed.
    """
    rows, columns = matrix.shape
    if min(rows, columns) <= max(_EXACT, 2 * rank):
        u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    else:
        u, s, vt = _sketched(matrix, rank)
    kept = min(rank, len(s))
    half = np.sqrt(s[:kept])
    left, right = np.zeros((rows, rank)), np.zeros((rank, columns))
    left[:, :kept] = u[:, :kept] * half
    right[:kept] = vt[:kept] * half[:, None]
    return left, right


def _sketched(matrix: Doubles, rank: int) -> tuple[Doubles, Doubles, Doubles]:
    rng = np.random.default_rng(20240117)
    basis = matrix @ rng.standard_normal((matrix.shape[1], rank + _SPARE))
    for _ in range(_ROUNDS):
        basis = np.linalg.qr(matrix.T @ np.linalg.qr(basis)[0])[0]
        basis = matrix @ basis
    basis = np.linalg.qr(basis)[0]
    u, s, vt = np.linalg.svd(basis.T @ matrix, full_matrices=False)
    return basis @ u, s, vt


def within(matrix: Doubles, error: float, limit: int) -> tuple[Doubles, Doubles] | None:
    """Factors of the least rank whose product is that near, in L2; None above a limit of rank."""
    most = min(limit, *matrix.shape)
    rank = min(16, most)
    while True:
        left, right = truncated(matrix, rank)
        rest = float(np.linalg.norm(matrix - left @ right))
        if rest <= error:
            break
        if rank == most:
            return None
        rank = min(2 * rank, most)
    # Both halves have the same norms, so the squares of those of one are the singular values.
    values = np.square(np.linalg.norm(right, axis=1))
    tails = rest**2 + np.append(np.cumsum(np.square(values)[::-1])[::-1], 0.0)
    kept = max(1, int(np.argmax(tails <= error**2)))
    return left[:, :kept], right[:kept]


def memory_needed(shape: tuple[int, ...]) -> int:
    """About how many bytes `truncated` takes for a matrix of this shape, with the matrix."""
    return 8 * 5 * shape[0] * shape[1]
