"""The generated models are what they claim, and the report says what was measured."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from benchmarks import models
from benchmarks.report import BEGIN, END, Row, replaced, rows
from benchmarks.scenarios import Results, Sample

SCALE = 1 / 32


@pytest.fixture(params=["fp32", "bf16"])
def made(request, tmp_path):
    """A small model of each kind."""
    path = tmp_path / "model.safetensors"
    models.make(request.param, path, SCALE)
    return path


def test_a_model_is_the_same_every_time(made, tmp_path, request):
    again = tmp_path / "again.safetensors"
    models.make(request.node.callspec.params["made"], again, SCALE)
    assert again.read_bytes() == made.read_bytes()


def test_another_parser_reads_a_model(made):
    with safe_open(made, "np") as file:
        assert 290 <= len(file.keys()) <= 300
    found = models.entries(made)
    assert max(entry.end for entry in found.values()) == made.stat().st_size


def test_change_touches_two_tensors_and_nothing_else(made, tmp_path):
    target = tmp_path / "changed.safetensors"
    changed = models.change(made, target, 2)
    assert len(changed) == 2
    before, after = made.read_bytes(), target.read_bytes()
    assert len(before) == len(after)
    for name, entry in models.entries(made).items():
        same = before[entry.start : entry.end] == after[entry.start : entry.end]
        assert same is (name not in changed)
    start = min(entry.start for entry in models.entries(made).values())
    assert before[:start] == after[:start]


def test_bf16_is_rounded_to_the_nearest_even():
    values = np.random.default_rng(0).standard_normal(10_000, np.float32)
    expected = values.astype(ml_dtypes.bfloat16).tobytes()
    assert models.as_bytes(values, "BF16") == expected


def test_many_tensors(tmp_path):
    models.make("tensors", tmp_path / "many", 0.001)
    found = models.entries(tmp_path / "many")
    assert len(found) == 100
    assert {entry.end - entry.start for entry in found.values()} == {1024}


def test_blocks_of_a_large_file_differ(tmp_path):
    blocks = [block.tobytes() for block in models.cheap("w", (3, models.BLOCK), 1)]
    assert len(set(blocks)) == 3


def test_a_row_is_met_up_to_its_bar():
    assert Row("w", "m", "-", "-", 0.4, 0.4, "").met
    assert not Row("w", "m", "-", "-", 0.41, 0.4, "").met
    assert not Row("w", "m", "-", "-", 50, 50, "", strict=True).met


def test_ratios_are_of_medians():
    results = Results()
    for tool, walls in (("lfs", (9.0, 10.0, 90.0)), ("theta", (1.0, 5.0, 2.0))):
        for wall in walls:
            results.add("starts", "version", tool, Sample(wall))
            results.add("starts", "handshake", tool, Sample(wall / 100))
    version, handshake = rows(results)
    assert (version.value, version.met) == (2.0, False)
    assert (handshake.value, handshake.met) == (0.02, True)


def test_the_page_keeps_what_is_around_its_measured_part():
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    new = replaced(page, "new\n")
    assert new == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    assert replaced(new, "new\n") == new
