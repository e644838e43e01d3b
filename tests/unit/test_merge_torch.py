"""Merged PyTorch files load in PyTorch, and hold what they should."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from git_theta.core.manifest import parse
from tests.merging import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "work")
    yield made
    made.close()


def saved(value: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


def loaded(bench: Bench, text: bytes | None) -> Any:
    assert text is not None
    data = bench.file(parse(text))
    if data[:2] == b"PK":
        assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None
    return torch.load(io.BytesIO(data), weights_only=True)


def state(**changes: torch.Tensor) -> dict[str, Any]:
    torch.manual_seed(0)
    tensors = {f"w{i}": torch.randn(30, 20) for i in range(4)}
    return tensors | {"tied": tensors["w3"]} | changes


@pytest.mark.parametrize("zipped", [True, False])
def test_a_merged_file_loads(bench: Bench, zipped: bool):
    ones = torch.ones(30, 20)
    options = {"_use_new_zipfile_serialization": zipped}
    name = "m.pt"
    base = bench.keep(saved(state(), **options), name)
    ours = bench.keep(saved(state(w0=ones, w2=ones * 4), **options), name)
    theirs = bench.keep(saved(state(w1=ones * 2, w2=ones * 2), **options), name)
    outcome = bench.average(base, ours, theirs)
    assert outcome.conflicts == []
    found = loaded(bench, outcome.text)
    wanted = state(w0=ones, w1=ones * 2, w2=ones * 3)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert found["tied"].data_ptr() == found["w3"].data_ptr()


def test_tied_tensors_are_merged_once_and_stay_tied(bench: Bench):
    def tied(value: float) -> bytes:
        both = torch.full((10, 10), value)
        return saved({"embed": both, "head": both, "other": torch.ones(3)})

    sides = [bench.keep(tied(value), "m.pt") for value in (0.0, 2.0, 4.0)]
    outcome = bench.average(*sides)
    found = loaded(bench, outcome.text)
    assert torch.equal(found["head"], torch.full((10, 10), 3.0))
    assert found["head"].data_ptr() == found["embed"].data_ptr()
    assert sum(step.action == "merge" for step in outcome.steps) == 1


def test_tied_on_one_side_only_is_a_conflict(bench: Bench):
    both = torch.full((10, 10), 1.0)
    base = bench.keep(saved({"embed": both, "head": both}), "m.pt")
    ours = bench.keep(saved({"embed": both * 2, "head": both * 3}), "m.pt")
    again = both * 5
    theirs = bench.keep(saved({"embed": again, "head": again}), "m.pt")
    outcome = bench.average(base, ours, theirs)
    assert [step.reason for step in outcome.conflicts] == [
        "tied to another tensor on one side only"
    ]


def checkpoint(weight: float, **values: Any) -> dict[str, Any]:
    plain = {"epoch": 3, "lr": 0.1, "done": False, "best": 1.5, "name": "abc"} | values
    return {"model": {"w": torch.full((5,), weight), "v": torch.ones(2)}, **plain}


@pytest.mark.parametrize("zipped", [True, False])
def test_plain_values_are_merged_too(bench: Bench, zipped: bool):
    def keep(*args: Any, **values: Any) -> Any:
        data = saved(checkpoint(*args, **values), _use_new_zipfile_serialization=zipped)
        return bench.keep(data, "m.pt")

    base, ours = keep(0.0), keep(2.0, epoch=5, lr=0.25, name="xyz")
    theirs = keep(4.0, epoch=7, done=True, best=2.5)
    outcome = bench.average(base, ours, theirs)
    found = loaded(bench, outcome.text)
    assert torch.equal(found["model"]["w"], torch.full((5,), 3.0))
    wanted = {"epoch": 5, "lr": 0.25, "done": True, "best": 2.5, "name": "xyz"}
    assert {name: found[name] for name in wanted} == wanted
    assert outcome.notes == ["'epoch' was changed on both sides (5 and 7): ours was kept"]


def test_a_value_that_fits_into_neither_file_is_a_conflict(bench: Bench):
    base = bench.keep(saved(checkpoint(0.0, a=1, b=1)), "m.pt")
    ours = bench.keep(saved(checkpoint(1.0, a=70000, b=1)), "m.pt")
    theirs = bench.keep(saved(checkpoint(2.0, a=1, b=70000)), "m.pt")
    with pytest.raises(Exception, match="does not fit into the place"):
        bench.average(base, ours, theirs)


def test_a_checkpoint_that_only_one_side_went_on_with(bench: Bench):
    """Optimizer state that appeared on one side makes that side's file the frame."""
    base = bench.keep(saved({"w": torch.zeros(3), "v": torch.zeros(3)}), "m.pt")
    ours = bench.keep(saved({"w": torch.ones(3), "v": torch.zeros(3)}), "m.pt")
    more = {"w": torch.zeros(3), "v": torch.ones(3), "optimizer": {"m": torch.ones(4), "step": 9}}
    theirs = bench.keep(saved(more), "m.pt")
    found = loaded(bench, bench.merge(base, ours, theirs).text)
    assert torch.equal(found["w"], torch.ones(3))
    assert torch.equal(found["v"], torch.ones(3))
    assert found["optimizer"]["step"] == 9
