"""The laws of metrics, and a way to try one on two arrays."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from git_theta.core.facts import ChunkPair, Sums, estimate
from git_theta.core.manifest import Segment, Tensor
from git_theta.core.metric import (
    MANIFEST,
    SUMMARIES,
    WEIGHTS,
    BlockMetric,
    Facts,
    Metric,
    Pair,
    Value,
)
from git_theta.core.sketch import summarize

_KINDS = {"f4": "F32", "f2": "F16", "f8": "F64"}
Array = npt.NDArray[Any]


def measured(metric: Metric, old: Array, new: Array) -> Value | None:
    """What a metric says of two arrays of one shape, their weights read as `--exact` does."""
    dtype = _KINDS[new.dtype.str[1:]]
    sides = (_tensor(old, dtype), _tensor(new, dtype))
    meter = None
    if isinstance(metric, BlockMetric):
        meter = metric.meter(Pair(name="t", old=sides[0], new=sides[1]))
    sums = Sums(meters=() if meter is None else (meter,))
    sums.add(_bytes(old), _bytes(new), (dtype, dtype), 0)
    found = None if meter is None else meter.result()
    return metric.value(sums.facts({})) if found is None else found


def estimated(metric: Metric, old: Array, new: Array) -> Value | None:
    """What a metric says of two arrays whose weights nobody read."""
    dtype = _KINDS[new.dtype.str[1:]]
    one, other = (summarize(_bytes(side), dtype) for side in (old, new))
    return metric.value(estimate([ChunkPair(one, other, False, old.size)], {}))


def _bytes(values: Array) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def _tensor(values: Array, dtype: str) -> Tensor:
    return Tensor(dtype, values.shape, Segment("0" * 64, values.nbytes, ()))


def _pairs() -> dict[str, tuple[Array, Array]]:
    rng = np.random.default_rng(1)
    old = rng.normal(size=(48, 64)).astype(np.float32)
    ill = old.copy()
    ill[0, 0], ill[1, 1] = np.nan, np.inf
    return {
        "moved": (old, old + np.float32(0.01) * rng.normal(size=old.shape).astype(np.float32)),
        "one value": (old, np.where(np.arange(old.size).reshape(old.shape) == 5, old + 1, old)),
        "zeros": (np.zeros_like(old), old),
        "to zeros": (old, np.zeros_like(old)),
        "ill": (old, ill),
        "healed": (ill, old),
        "all ill": (np.full_like(old, np.nan), np.full_like(old, np.inf)),
        "vector": (old[0], old[1]),
        "scalar": (old[0, :1].reshape(()), old[0, 1:2].reshape(())),
        "half": (old.astype(np.float16), (old * 2).astype(np.float16)),
        "double": (old.astype(np.float64), (old * 2).astype(np.float64)),
    }


class MetricContract:
    """The laws of `git_theta.core.metric.Metric`. Set `metric`."""

    metric: ClassVar[Metric]

    def test_it_says_what_it_is(self) -> None:
        assert self.metric.name.isidentifier()
        assert self.metric.title.isprintable()
        assert self.metric.needs in (MANIFEST, SUMMARIES, WEIGHTS)

    @pytest.mark.parametrize("name", list(_pairs()))
    def test_every_pair_has_a_value_or_none(self, name: str) -> None:
        for find in (measured, estimated):
            value = find(self.metric, *_pairs()[name])
            if value is None:
                continue
            assert json.loads(json.dumps([value.value, value.error])) is not None
            assert value.error >= 0
            text = self.metric.text(value.value)
            assert text.isprintable()
            assert len(text) < 40

    def test_nothing_known_is_no_value(self) -> None:
        value = self.metric.value(Facts(exact=False, count=0))
        assert value is None or self.metric.needs == MANIFEST

    def test_the_same_pair_has_the_same_value(self) -> None:
        for old, new in _pairs().values():
            first = measured(self.metric, old, new)
            again = measured(self.metric, old.copy(), new.copy())
            assert repr(first) == repr(again)

    def test_arrays_are_left_as_they_are(self) -> None:
        for old, new in _pairs().values():
            before = old.tobytes(), new.tobytes()
            measured(self.metric, old, new)
            assert (old.tobytes(), new.tobytes()) == before

    def test_something_is_said_of_a_tensor_that_moved(self) -> None:
        pairs = _pairs().values()
        assert any(measured(self.metric, old, new) is not None for old, new in pairs)
