"""Devices: where a tensor is merged, and what happens where its memory does not suffice."""

from __future__ import annotations

import pytest
import torch

from git_theta import compute
from git_theta.errors import UsageError


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("MPS backend out of memory")],
)
def test_too_little_memory_costs_a_line_and_goes_to_the_processor(error: Exception):
    asked: list[str] = []
    said: list[str] = []

    def work(device: str) -> str:
        asked.append(device)
        if device != "cpu":
            raise error
        return "done"

    assert compute.on_device("mps", work, said.append) == "done"
    assert asked == ["mps", "cpu"]
    assert said == ["not enough memory on mps: merged on the CPU"]


def test_other_failures_are_not_hidden():
    def work(device: str) -> str:
        raise RuntimeError(f"{device} is broken")

    with pytest.raises(RuntimeError, match="mps is broken"):
        compute.on_device("mps", work, lambda _: None)


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match="no device"):
        compute.check_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="is not here"):
            compute.check_device("cuda:1")
        assert compute.choose_device("auto", elementwise=False, double=True, count=1 << 30) == "cpu"
    assert compute.choose_device("auto", elementwise=True, double=False, count=1 << 30) == "cpu"
    assert compute.choose_device("mps", elementwise=False, double=True, count=1) == "cpu"
