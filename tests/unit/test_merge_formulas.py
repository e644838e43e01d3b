"""Strategies equal their formulas, written out in a few lines of NumPy."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from git_theta.core.random import Source
from git_theta.core.strategy import Versions
from git_theta.errors import MergeError, UsageError
from git_theta.merges.breadcrumbs import Breadcrumbs
from git_theta.merges.dare import DareLinear
from git_theta.merges.della import Della, DellaLinear
from git_theta.merges.fisher import Fisher
from git_theta.merges.linear import Extrapolate, Interpolate
from git_theta.merges.mats import Mats
from git_theta.merges.model_stock import ModelStock
from git_theta.merges.opcm import Opcm
from git_theta.merges.regmean import RegMean
from git_theta.merges.replace import NearSwap
from git_theta.merges.spherical import Karcher, MultiSlerp, Slerp
from git_theta.merges.svd import IsoC, IsoCts, Tsvm
from git_theta.merges.task_arithmetic import Consensus, MagMax, TaskArithmetic
from git_theta.testing import merged

Array = Any
SHAPE = (8, 12)
loose: Any = partial
"""What mypy would refuse, as JSON may say it."""


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def wide(array: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(torch.float64)


def versions(
    models: list[Array], base: Array | None = None, **statistics: list[Array | None]
) -> Versions:
    return Versions(
        name="w",
        shape=models[0].shape,
        models=tuple(wide(model) for model in models),
        base=None if base is None else wide(base),
        statistics={
            kind: tuple(None if one is None else wide(one) for one in each)
            for kind, each in statistics.items()
        },
    )


def result(strategy: Any, given: Versions) -> Array:
    return merged(strategy, {"w": given})["w"].numpy()


@pytest.fixture
def base() -> Array:
    return draw(*SHAPE)


@pytest.fixture
def models(base: Array) -> list[Array]:
    common = draw(*SHAPE, seed=9)
    return [base + 0.1 * common + 0.2 * draw(*SHAPE, seed=seed) for seed in (1, 2, 3)]


def test_interpolation_and_extrapolation(base: Array, models: list[Array]):
    found = result(Interpolate(alpha=0.3), versions(models[:1], base))
    np.testing.assert_allclose(found, 0.7 * base + 0.3 * models[0])
    found = result(Extrapolate(alpha=0.5), versions(models[:1], base))
    np.testing.assert_allclose(found, models[0] + 0.5 * (models[0] - base))


def test_an_analogy_is_task_arithmetic_with_a_negative_weight(base: Array, models: list[Array]):
    found = result(TaskArithmetic(weights=(1, -1, 1)), versions(models, base))
    np.testing.assert_allclose(found, models[0] - models[1] + models[2])


def test_magmax_and_consensus(base: Array, models: list[Array]):
    deltas = np.stack(models) - base
    strongest = np.take_along_axis(deltas, np.abs(deltas).argmax(0)[None], 0)[0]
    np.testing.assert_allclose(result(MagMax(), versions(models, base)), base + 0.5 * strongest)
    total = deltas.sum(0)
    used = np.abs(deltas) > 0.4 * np.abs(total - deltas)
    wanted = base + np.where(used.sum(0) >= 2, total, 0)
    np.testing.assert_allclose(result(Consensus(), versions(models, base)), wanted)


@pytest.mark.parametrize("normalize", ["none", "tensor", "model"])
def test_fisher(models: list[Array], normalize: str):
    fishers = [draw(*SHAPE, seed=seed) ** 4 for seed in (4, 5, 6)]
    weights, floor = (1.0, 2.0, 0.5), 1e-2
    scaled = [f if normalize == "none" else f / np.sqrt((f**2).mean()) for f in fishers]
    sure = np.stack([w * np.maximum(f, floor) for w, f in zip(weights, scaled, strict=True)])
    wanted = (sure * np.stack(models)).sum(0) / sure.sum(0)
    strategy = Fisher(weights=weights, floor=floor, normalize=normalize)
    found = result(strategy, versions(models, fisher=[*fishers]))
    np.testing.assert_allclose(found, wanted)


def test_fisher_of_a_model_is_normalised_over_all_tensors():
    tensors, squares = {}, 0.0
    for name, size in (("a", 4.0), ("b", 0.5)):
        fishers = [size * draw(5, 3, seed=seed) ** 2 for seed in (1, 2)]
        tensors[name] = versions([draw(5, 3), draw(5, 3, seed=1)], fisher=[*fishers])
        squares += (fishers[0] ** 2).sum()
    strategy = Fisher(floor=1e-12)
    so_far = None
    for given in tensors.values():
        so_far = strategy.survey(given, so_far)
    assert strategy.conclude(so_far)[0] == pytest.approx(np.sqrt(squares / 30))


def test_fisher_without_statistics_is_the_average(models: list[Array]):
    found = result(Fisher(), versions(models, fisher=[None, None, None]))
    np.testing.assert_allclose(found, sum(models) / 3)


def test_fisher_statistics_of_some_models_only_are_refused(models: list[Array]):
    with pytest.raises(MergeError, match="not there for all"):
        result(Fisher(), versions(models, fisher=[draw(*SHAPE) ** 2, None, None]))


def grams(count: int = 3, size: int = 12) -> list[Array]:
    inputs = [
        draw(4 * size, size, seed=seed) @ draw(size, size, seed=seed) for seed in range(count)
    ]
    return [x.T @ x / len(x) for x in inputs]


def test_regmean(models: list[Array]):
    given = grams()
    scaled = [0.9 * g + 0.1 * np.diag(np.diag(g)) for g in given]
    above: Array = sum(m @ g for m, g in zip(models, scaled, strict=True))
    wanted = above @ np.linalg.inv(sum(scaled))
    found = result(RegMean(ridge=0.0), versions(models, gram=[*given]))
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


def test_regmean_knows_matrices_stored_the_other_way_and_short_forms(models: list[Array]):
    given = grams()
    wanted = result(RegMean(), versions(models, gram=[*given]))
    found = result(RegMean(), versions([m.T for m in models], gram=[*given]))
    np.testing.assert_allclose(found, wanted.T)
    packed = [g[np.triu_indices(12)] for g in given]
    np.testing.assert_allclose(result(RegMean(), versions(models, gram=[*packed])), wanted)
    diagonal = result(RegMean(off_diagonal=0.0), versions(models, gram=[*given]))
    short = result(RegMean(), versions(models, gram=[np.diag(g) for g in given]))
    np.testing.assert_allclose(short, diagonal)


def test_regmean_gives_the_average_for_inputs_that_never_fire(models: list[Array]):
    given = grams()
    for gram in given:
        gram[:, 3] = gram[3, :] = 0
    found = result(RegMean(), versions(models, gram=[*given]))
    np.testing.assert_allclose(found[:, 3], np.mean(models, 0)[:, 3])
    nothing = [np.zeros((12, 12))] * 3
    found = result(RegMean(), versions(models, gram=[*nothing]))
    np.testing.assert_allclose(found, sum(models) / 3)
    with pytest.raises(MergeError, match="singular"):
        result(RegMean(ridge=0.0), versions(models, gram=[*nothing]))


def test_mats_solves_what_regmean_inverts(models: list[Array]):
    given = grams()
    wanted = result(RegMean(off_diagonal=1.0, ridge=0.0), versions(models, gram=[*given]))
    strategy = Mats(iterations=1000, tol=1e-13)
    found = result(strategy, versions(models, gram=[*given]))
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-8)


def test_mats_with_gradients_of_outputs(base: Array, models: list[Array]):
    right, left = grams(), grams(size=8)
    pairs = list(zip(left, right, models, strict=True))
    operator = sum(np.kron(a, c) for a, c, _ in pairs)
    goal = sum(a @ m @ c for a, c, m in pairs)
    wanted = np.linalg.solve(operator, goal.reshape(-1)).reshape(SHAPE)
    strategy = Mats(iterations=3000, tol=1e-14, start="task-arithmetic")
    given = versions(models, base, **{"gram": [*right], "gram#out": [*left]})
    np.testing.assert_allclose(result(strategy, given), wanted, rtol=1e-5, atol=1e-6)


def test_mats_stops_after_its_iterations(models: list[Array]):
    found = result(Mats(iterations=0), versions(models, gram=[*grams()]))
    np.testing.assert_allclose(found, sum(models) / 3)


def thin(matrix: Array) -> tuple[Array, Array, Array]:
    return np.linalg.svd(matrix, full_matrices=False)


def polar(matrix: Array) -> Array:
    left, _, right = thin(matrix)
    return left @ right


def test_tsvm(base: Array, models: list[Array]):
    parts = [thin(model - base) for model in models]
    kept = min(SHAPE) // 3
    left = polar(np.concatenate([u[:, :kept] for u, _, _ in parts], 1))
    right = polar(np.concatenate([v[:kept] for _, _, v in parts], 0))
    values = np.concatenate([s[:kept] for _, s, _ in parts])
    wanted = base + left @ np.diag(values) @ right
    np.testing.assert_allclose(result(Tsvm(), versions(models, base)), wanted, atol=1e-12)


def test_iso_c(base: Array, models: list[Array]):
    left, values, right = thin(sum(models) - 3 * base)
    wanted = base + values.mean() * left @ right
    np.testing.assert_allclose(result(IsoC(), versions(models, base)), wanted, atol=1e-12)


def test_iso_cts(base: Array, models: list[Array]):
    left, values, right = thin(sum(models) - 3 * base)
    each = (8 - int(8 * 0.25)) // 3
    lead = 8 - 3 * each
    us, ss, vs = [left[:, :lead]], [values[:lead]], [right[:lead]]
    for model in models:
        rest = model - base
        u, s, v = thin(rest - left[:, :lead] @ left[:, :lead].T @ rest)
        us, ss, vs = [*us, u[:, :each]], [*ss, s[:each]], [*vs, v[:each]]
    iso = np.concatenate(ss).mean()
    wanted = base + iso * polar(np.concatenate(us, 1)) @ polar(np.concatenate(vs, 0))
    found = result(IsoCts(common=0.25), versions(models, base))
    np.testing.assert_allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize("strategy", [Tsvm(), IsoC(), IsoCts(), Opcm()])
def test_rows_that_nobody_changed_stay(strategy: Any, base: Array, models: list[Array]):
    """Singular vectors of what is rounding are not amplified."""
    for model in models:
        model[2] = base[2]
        model[:, 5] = base[:, 5]
    found = result(strategy, versions(models, base))
    np.testing.assert_allclose(found[2], base[2], atol=1e-12)
    np.testing.assert_allclose(found[:, 5], base[:, 5], atol=1e-12)


@pytest.mark.parametrize("strategy", [Tsvm(), IsoC(), IsoCts()])
def test_matrix_methods_average_vectors(strategy: Any):
    vectors = [draw(7, seed=seed) for seed in (1, 2, 3)]
    found = result(strategy, versions(vectors, draw(7)))
    np.testing.assert_allclose(found, sum(vectors) / 3)


def test_opcm(base: Array, models: list[Array]):
    """By the sum over pairs of singular vectors that its paper writes."""
    merged_delta = models[0] - base
    for model in models[1:]:
        left, values, right = np.linalg.svd(merged_delta)
        lead = int((values.cumsum() < 0.5 * values.sum()).sum()) + 1
        inside = left.T @ (model - base) @ right.T
        inside[:lead], inside[:, :lead] = 0, 0
        np.fill_diagonal(inside, 0)
        merged_delta = merged_delta + left @ inside @ right
    mean = np.mean([np.linalg.norm(model - base) for model in models])
    wanted = base + merged_delta * mean / np.linalg.norm(merged_delta)
    np.testing.assert_allclose(result(Opcm(), versions(models, base)), wanted, atol=1e-12)


def test_model_stock_never_leaves_the_segment(base: Array):
    """A cosine of zero or less would give a negative or an infinite ratio."""
    delta = draw(*SHAPE, seed=1)
    found = result(ModelStock(), versions([base + delta, base - 0.9 * delta], base))
    np.testing.assert_allclose(found, base)
    found = result(ModelStock(filter_wise=True), versions([base + delta, base - delta], base))
    np.testing.assert_allclose(found, base)


@pytest.mark.parametrize("factor", [1.0, -1.0, 1 + 1e-5, -1 + 1e-6])
def test_slerp_of_parallel_and_opposite_vectors_is_a_line(models: list[Array], factor: float):
    other = factor * models[0]
    found = result(Slerp(t=0.25), versions([models[0], other]))
    np.testing.assert_allclose(found, 0.75 * models[0] + 0.25 * other, atol=1e-12)


def test_slerp_ends_in_its_models(models: list[Array]):
    for t, wanted in ((0.0, models[0]), (1.0, models[1])):
        found = result(Slerp(t=t), versions(models[:2]))
        np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_karcher_leaves_zero_models_out_and_slerp_is_its_case_of_two(models: list[Array]):
    """Halfway along the arc, with the mean length."""
    units = [model / np.linalg.norm(model) for model in models[:2]]
    size = np.mean([np.linalg.norm(model) for model in models[:2]])
    wanted = size * result(Slerp(), versions(units))
    found = result(Karcher(tol=1e-12, max_iter=100), versions(models[:2]))
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    three = [*models[:2], np.zeros(SHAPE)]
    found = result(Karcher(tol=1e-12, max_iter=100), versions(three))
    np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_multislerp_of_directions_that_cancel_is_the_mean(models: list[Array]):
    found = result(MultiSlerp(), versions([models[0], -models[0]]))
    np.testing.assert_allclose(found, 0, atol=1e-12)


def test_nearswap_moves_no_entry_further_than_t(models: list[Array]):
    found = result(NearSwap(t=0.01), versions(models[:2]))
    apart = models[1] - models[0]
    np.testing.assert_allclose(found, models[0] + np.clip(apart, -0.01, 0.01), atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 16, 64, 99, 100, 1000])
def test_breadcrumbs_keep_their_share_of_every_size(size: int):
    base, model = np.zeros(size), draw(size) + 3
    found = result(Breadcrumbs(density=0.8), versions([model], base))
    assert np.count_nonzero(found) == max(1, int(0.8 * size))
    dropped = int(0.01 * size)
    largest = np.argsort(-model)[:dropped]
    assert not found[largest].any()


def random_versions(strategy: Any, size: int, dtype: torch.dtype = torch.float32) -> Versions:
    model = torch.linspace(0.5, 1.5, size, dtype=dtype)

    def uniform(model: int, start: int, stop: int) -> Tensor:
        drawn: Tensor = Source(strategy.seed, "w", str(model)).torch(start, stop)
        return drawn

    return Versions(
        name="w", shape=(size,), models=(model,), base=torch.zeros_like(model), uniform=uniform
    )


@pytest.mark.parametrize("density", [0.05, 0.5, 0.9])
def test_dare_keeps_its_share_and_the_expectation(density: float):
    strategy = DareLinear(density=density, seed=3)
    found = result(strategy, random_versions(strategy, 200_000))
    spread = np.sqrt(density * (1 - density) / 200_000)
    assert np.count_nonzero(found) / 200_000 == pytest.approx(density, abs=5 * spread)
    assert found.mean() == pytest.approx(1.0, abs=6 * spread / density)


def test_della_keeps_large_entries_more_often_and_the_expectation():
    strategy = DellaLinear(density=0.5, epsilon=0.2, seed=3)
    found = result(strategy, random_versions(strategy, 200_000))
    small, large = np.split(found != 0, 2)
    assert small.mean() == pytest.approx(0.4, abs=0.01)
    assert large.mean() == pytest.approx(0.6, abs=0.01)
    assert found.mean() == pytest.approx(1.0, abs=0.02)


def test_della_of_one_column_keeps_with_the_mean_probability():
    model = np.ones((50_000, 1))
    strategy = Della(density=0.3, epsilon=0.1)
    given = random_versions(strategy, 50_000)
    given = Versions(
        name="w",
        shape=(50_000, 1),
        models=(wide(model).float(),),
        base=torch.zeros(50_000, 1),
        uniform=given.uniform,
    )
    found = result(strategy, given)
    assert (found != 0).mean() == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (loose(DareLinear, density=0.0), r"dare-linear: density is 0.0; .* in \(0, 1\]"),
        (loose(DareLinear, density=[0.5, 1.5]), "density"),
        (loose(DareLinear, seed=0.5), "seed is 0.5; it must be a whole number"),
        (lambda: Slerp(t=1.5), r"t is 1.5; .* in \[0, 1\]"),
        (lambda: Slerp(t=float("nan")), "t is nan"),
        (lambda: Slerp(t=True), "t is True"),
        (loose(TaskArithmetic, weights="1"), "weights is '1'"),
        (loose(TaskArithmetic, normalize=1), "normalize is 1; it must be true or false"),
        (lambda: Della(density=0.9), "epsilon is 0.15 and density 0.9"),
        (lambda: Fisher(normalize="all"), "normalize is 'all'"),
        (lambda: NearSwap(t=-1), "t is -1; it must be a finite number at least 0"),
        (lambda: Karcher(max_iter=0), "max_iter"),
    ],
)
def test_parameters_out_of_range_are_refused_by_name(make: Any, said: str):
    with pytest.raises(UsageError, match=said):
        make()


def test_one_weight_for_each_model(base: Array, models: list[Array]):
    with pytest.raises(MergeError, match="weights has 2 values for 3 models"):
        result(TaskArithmetic(weights=(1, 2)), versions(models, base))
    with pytest.raises(MergeError, match="add up to zero"):
        result(MultiSlerp(weights=(1, -1)), versions(models[:2]))
