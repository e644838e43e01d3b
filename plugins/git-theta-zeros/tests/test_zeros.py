"""The laws of metrics, and what this one counts."""

from __future__ import annotations

import numpy as np
from git_theta_zeros import Zeros

from git_theta.testing import MetricContract, measured


class TestLaws(MetricContract):
    metric = Zeros()


def test_zeros_are_counted() -> None:
    old = np.ones((4, 4), np.float32)
    new = old.copy()
    new[0] = 0
    new[1, 0] = -0.0
    value = measured(Zeros(), old, new)
    assert value is not None
    assert value.value == 5 / 16
    assert Zeros().text(value.value) == "31.2 %"
