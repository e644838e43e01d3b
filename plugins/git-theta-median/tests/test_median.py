"""The median strategy: the laws of strategies, its numbers, and a merge that uses it."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from git_theta_median import Median

from git_theta import registry
from git_theta.core.strategy import Strategy, Versions
from git_theta.errors import UsageError
from git_theta.testing import StrategyContract


class TestMedian(StrategyContract):
    strategy: ClassVar[Strategy] = Median()


class TestTrimmedMean(StrategyContract):
    strategy: ClassVar[Strategy] = Median(width=0.5)
    count: ClassVar[int] = 6


def versions(*values: list[float]) -> Versions:
    models = tuple(torch.tensor(each) for each in values)
    return Versions(name="w", shape=tuple(models[0].shape), models=models)


def test_one_model_that_is_far_off_has_no_pull() -> None:
    found = Median().merge(versions([1.0, 2.0], [1.5, 2.5], [1000.0, -1000.0]))
    assert found.tolist() == [1.5, 2.0]


def test_of_an_even_number_the_two_in_the_middle_are_averaged() -> None:
    assert Median().merge(versions([1.0], [2.0], [4.0], [9.0])).tolist() == [3.0]
    assert Median().merge(versions([1.0], [2.0])).tolist() == [1.5]


def test_width_goes_from_the_median_to_the_mean() -> None:
    given = versions([0.0], [1.0], [2.0], [3.0], [100.0])
    assert Median(width=0.5).merge(given).tolist() == [2.0]
    assert Median(width=1.0).merge(given).tolist() == pytest.approx([21.2])


@pytest.mark.parametrize("width", [-0.1, 1.1, True, float("nan")])
def test_a_width_out_of_range_is_refused(width: Any) -> None:
    with pytest.raises(UsageError, match="width"):
        Median(width=width)


def test_it_is_found_by_its_name() -> None:
    assert registry.find("merges", "median").load() is Median
