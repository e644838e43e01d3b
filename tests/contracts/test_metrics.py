"""The built-in metrics keep the laws of metrics."""

from __future__ import annotations

import numpy as np
import pytest

from git_theta.metrics.distance import L2, Cosine, Largest, Relative
from git_theta.metrics.elements import Changed, Flips, Infinities, NaNs
from git_theta.metrics.rank import Rank
from git_theta.testing import MetricContract, estimated, measured


class TestL2(MetricContract):
    metric = L2()


class TestRelative(MetricContract):
    metric = Relative()


class TestCosine(MetricContract):
    metric = Cosine()


class TestLargest(MetricContract):
    metric = Largest()


class TestChanged(MetricContract):
    metric = Changed()


class TestFlips(MetricContract):
    metric = Flips()


class TestNaNs(MetricContract):
    metric = NaNs()


class TestInfinities(MetricContract):
    metric = Infinities()


class TestRank(MetricContract):
    metric = Rank()


@pytest.mark.parametrize("rank", [1, 3, 17])
@pytest.mark.parametrize("shape", [(200, 300), (2000, 70)])
def test_the_rank_of_a_difference_is_found(rank: int, shape: tuple[int, int]):
    rng = np.random.default_rng(rank)
    old = (0.02 * rng.normal(size=shape)).astype(np.float32)
    step = 1e-3 * rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))
    value = measured(Rank(), old, (old + step).astype(np.float32))
    assert value is not None
    assert value.value == rank
    noise = old + (1e-3 * rng.normal(size=shape)).astype(np.float32)
    assert measured(Rank(), old, noise) is None


def test_estimates_keep_their_error():
    errors = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        old = rng.normal(size=(64, 64)).astype(np.float32)
        new = old + 0.01 * rng.normal(size=old.shape).astype(np.float32)
        guess, exact = estimated(L2(), old, new), measured(L2(), old, new)
        assert guess is not None
        assert exact is not None
        errors.append(float(guess.value) / float(exact.value) - 1)
        assert guess.error == pytest.approx(0.0884, abs=1e-3)
    assert np.std(errors) == pytest.approx(0.0884, rel=0.2)
    assert np.mean(np.abs(errors) < 0.2) > 0.95


def test_signs_turn_and_zeros_have_none():
    old = np.array([1, -1, 0, -0.0, 2, 1e-30, -1e-30], np.float32)
    new = np.array([-1, 1, -3, 3, 3, -1e-30, -2e-30], np.float32)
    value = measured(Flips(), old, new)
    assert value is not None
    assert value.value == 3 / 7


def test_a_cosine_near_one_keeps_its_digits():
    old = np.random.default_rng(0).normal(size=10_000)
    new = old + 1e-5 * np.random.default_rng(1).normal(size=10_000)
    value = measured(Cosine(), old, new)
    assert value is not None
    assert 1 - float(value.value) == pytest.approx(0.5e-10, rel=0.1)
    assert Cosine().text(0.99998) == "0.999980"
