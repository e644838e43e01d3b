"""The generated models are what they claim, and the report says what was measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from benchmarks import models, plot, trust, updates
from benchmarks.everyday import rows
from benchmarks.report import BEGIN, END, Row, replaced, table
from benchmarks.run import PAGE, PARTS
from benchmarks.sandbox import sandbox
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


def test_a_page_keeps_all_but_one_part():
    parts = [f"{BEGIN.format(part)}\nold\n{END.format(part)}\n" for part in ("one", "two")]
    page = "before\n" + "between\n".join(parts) + "after\n"
    new = replaced(page, "two", "new\n")
    assert new == page[: page.rindex("old")] + "new" + page[page.rindex("old") + 3 :]
    assert replaced(new, "two", "new\n") == new


def test_the_page_has_a_place_for_every_part():
    page = PAGE.read_text()
    for part in (*PARTS, trust.NAME):
        assert page.count(BEGIN.format(part)) == page.count(END.format(part)) == 1


def test_columns_of_figures_are_to_the_right():
    assert table("a | b: | ", ["| 1 | 2 | 3 |"]) == "| a | b |  |\n|---|---:|---|\n| 1 | 2 | 3 |\n"


def test_what_the_long_tests_counted(tmp_path):
    """A test that failed, and one that did not run, meet no bar."""
    record = tmp_path / "soak.xml"
    cases = {
        "test_add[200]": ("", {"kills": 201, "survived": 201}),
        "test_commit[200]": ("<failure/>", {"kills": 7, "survived": 6}),
        "test_packed_manifests[400]": ("", {"flips": 400, "found": 390, "found by Git": 10}),
        trust.FUZZED: (
            "<failure/>",
            {"index: read": 5, "index: refused": 1, "index: not survived": 1},
        ),
        "test_something_else": ("", {}),
    }
    lines = [
        f'<testcase name="{name}">{end}<properties>'
        + "".join(f'<property name="{key}" value="{value}"/>' for key, value in counts.items())
        + "</properties></testcase>"
        for name, (end, counts) in cases.items()
    ]
    record.write_text(f'<testsuite timestamp="2030-01-02T03:04:05">{"".join(lines)}</testsuite>')
    with sandbox(tmp_path) as box:
        text = trust.written(box, [record])
    assert text.startswith("Counted on 2030-01-02")
    assert "| `git add` | 201 | 201 | 100.0% = 100%, of 200 or more | met |" in text
    assert "| `git commit -a` | 7 | 6 | 85.7% = 100%, of 200 or more | **not met** |" in text
    assert "| `git push` | 0 | 0 | was not run | **not met** |" in text
    assert "| manifests in a pack of Git's | 400 | 390 | 10 | 0 | 100.0% = 100% | met |" in text
    assert "| index | 5 | 1 | 85.7% = 100% | **not met** |" in text


def test_the_long_tests_have_the_names_that_are_looked_for():
    root = Path(__file__).parents[1]
    files = (
        "git/test_kills.py",
        "git/test_migrate.py",
        "git/test_flips.py",
        "unit/test_hostile_input.py",
    )
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "--collect-only", "-m", "soak"]
    found = subprocess.run([*command, *files], cwd=root, capture_output=True, text=True).stdout
    names = {line.rpartition("::")[2] for line in found.splitlines()}
    assert {*trust.COMMANDS, *trust.FLIPPED, trust.FUZZED} <= names


@pytest.mark.parametrize("kind", ["full", "lora", "sparse"])
def test_a_fine_tune_moves_what_its_kind_moves(made, tmp_path, kind):
    target = tmp_path / "tuned.safetensors"
    moved = models.tune(made, target, kind, 1)
    changed, share = updates.compared(made, target)
    wanted = models.entries(made) if kind == "full" else _matrices(made)
    assert changed.keys() <= set(wanted)
    if "model.norm.weight" in models.entries(made):
        return  # in bf16 not every entry moves that is told to
    assert changed.keys() == set(wanted)
    assert sum(changed.values()) == moved
    assert 0.003 < share <= 0.005 if kind == "sparse" else share > 0.99


def _matrices(path: Path) -> list[str]:
    found = models.entries(path).items()
    return [
        n for n, e in found if len(e.shape) == 2 and not n.startswith(("wte", "wpe", "model.emb"))
    ]


def test_a_low_rank_fine_tune_is_of_low_rank(tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    models.make("fp32", source, SCALE)
    models.tune(source, target, "lora", 1)
    name = "h.0.mlp.up.weight"
    with safe_open(source, "np") as a, safe_open(target, "np") as b:
        strengths = np.linalg.svd(b.get_tensor(name) - a.get_tensor(name), compute_uv=False)
    assert strengths[8] < 1e-4 * strengths[7]


def test_picked_matrices_are_those_of_the_source(made, tmp_path):
    target = tmp_path / "picked"
    prefix = _matrices(made)[0].rpartition(".")[0].rpartition(".")[0]
    models.pick(made, target, prefix)
    assert models.entries(target)
    assert updates.compared(target, target) == ({}, 0)
    before, after = made.read_bytes(), target.read_bytes()
    for name, entry in models.entries(target).items():
        assert name.startswith(prefix)
        old = models.entries(made)[name]
        assert after[entry.start : entry.end] == before[old.start : old.end]


def test_sides_of_a_wide_model_conflict_in_three_tensors(tmp_path):
    changed = {}
    for side in ("main", "ours", "theirs"):
        models.wide(tmp_path / side, side, 1 / 1024)
    for side in ("ours", "theirs"):
        changed[side], _ = updates.compared(tmp_path / "main", tmp_path / side)
        assert len(changed[side]) == 10
    assert len(changed["ours"].keys() & changed["theirs"].keys()) == 3


@pytest.mark.parametrize("highest", [0.3, 1, 7, 8.1, 42, 99, 425])
def test_ticks_are_round_and_reach_the_highest_value(highest):
    found = plot.ticks(highest)
    assert 4 <= len(found) - 1 <= 8
    assert found[-2] < highest <= found[-1]


def test_a_picture_is_well_formed_and_has_every_line():
    lines = [plot.Line("a & b", [1, 2, 3]), plot.Line("c", [1.5], dashed=True)]
    root = ElementTree.fromstring(plot.drawn([plot.Panel("<title>", lines)] * 2))
    assert len(list(root.iter("{http://www.w3.org/2000/svg}polyline"))) == 4
    assert "a & b" in [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
