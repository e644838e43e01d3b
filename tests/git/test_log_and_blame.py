"""`git theta log` and `git theta blame`: who changed which tensor, from manifests alone."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.sandbox import Sandbox, encode, model

pytestmark = pytest.mark.git

NAME = "m.safetensors"
ONES = np.ones((40, 50), "<f4")


@pytest.fixture
def merged(repo: Sandbox) -> tuple[Sandbox, dict[str, str]]:
    """Two branches that changed one tensor each, merged by hand; then a rename and a change."""
    ids = {}
    model(repo.work / NAME)
    ids["base"] = repo.commit("base")
    repo.git("checkout", "-q", "-b", "topic")
    model(repo.work / NAME, {"layer.0.weight": ONES})
    ids["topic"] = repo.commit("topic")
    repo.git("checkout", "-q", "main")
    model(repo.work / NAME, {"layer.1.weight": ONES})
    ids["main"] = repo.commit("main")
    repo.git("merge", "-q", "--no-commit", "topic", code=None)
    both = {"layer.0.weight": ONES, "layer.1.weight": ONES, "new": ONES}
    model(repo.work / NAME, both)
    ids["merge"] = repo.commit("merge")
    repo.git("mv", NAME, "n.safetensors")
    ids["rename"] = repo.commit("rename")
    model(repo.work / "n.safetensors", {**both, "layer.2.weight": ONES})
    ids["last"] = repo.commit("last")
    return repo, ids


def test_blame_follows_merges_and_renames(merged: tuple[Sandbox, dict[str, str]]):
    repo, ids = merged
    shutil.rmtree(repo.store())
    found = {row["tensor"]: row for row in repo.json("blame", "n.safetensors")}
    assert {name: row["commit"] for name, row in found.items()} == {
        "layer.0.weight": ids["topic"],
        "layer.1.weight": ids["main"],
        "layer.2.weight": ids["last"],
        "layer.3.weight": ids["base"],
        "new": ids["merge"],
    }
    assert found["new"]["author"] == "Tess Tester"
    assert found["new"]["date"].startswith("2024-01-02")
    assert found["layer.3.weight"]["path"] == NAME
    text = repo.theta("blame", "n.safetensors").stdout
    assert f"{ids['topic'][:9]}  Tess Tester  2024-01-02  layer.0.weight" in text
    older = {row["tensor"]: row["commit"] for row in repo.json("blame", f"{ids['main']}:{NAME}")}
    assert older["layer.0.weight"] == ids["base"]


def test_log_lists_what_each_commit_did(merged: tuple[Sandbox, dict[str, str]]):
    repo, ids = merged
    shutil.rmtree(repo.store())
    found = {row["subject"]: row for row in repo.json("log", "n.safetensors")}
    assert {subject: row["commit"] for subject, row in found.items()} == ids
    assert found["base"]["state"] == "added"
    assert found["topic"]["tensors"] == [
        {"name": "layer.0.weight", "what": "changed", "old_name": None}
    ]
    assert found["merge"]["merge"]
    assert found["merge"]["counts"] == {"added": 1, "changed": 1}
    assert found["rename"]["counts"] == {}
    assert found["last"]["stored"] > 0
    text = repo.theta("log", "n.safetensors").stdout
    assert "merge; 1 added, 1 changed; stored " in text
    assert "changed layer.2.weight" in text
    only = repo.json("log", "n.safetensors", "--tensor", "*.2.*", "-n", "1")
    assert [row["commit"] for row in only] == [ids["last"]]
    assert [r["commit"] for r in repo.json("log", "main~1..main", "n.safetensors")] == [ids["last"]]


def test_a_renamed_tensor_keeps_its_history(repo: Sandbox):
    ids = {}
    layers = {f"layer.{n}.weight": n + ONES for n in range(3)}
    (repo.work / NAME).write_bytes(encode(layers))
    ids["first"] = repo.commit("first")
    renamed = {name.replace("layer", "block"): v for name, v in layers.items()}
    (repo.work / NAME).write_bytes(encode(renamed))
    repo.commit("renamed")
    renamed["block.1.weight"] = -ONES
    (repo.work / NAME).write_bytes(encode(renamed))
    ids["last"] = repo.commit("last")
    found = {row["tensor"]: row["subject"] for row in repo.json("blame", NAME)}
    assert found == {
        "block.0.weight": "first", "block.1.weight": "last", "block.2.weight": "first",
    }  # fmt: skip
    assert "renamed layer.0-2.weight -> block.0-2.weight (3)" in repo.theta("log", NAME).stdout
    only = repo.json("log", NAME, "--tensor", "layer.1.*")
    assert [row["subject"] for row in only] == ["renamed", "first"]
    (tensor,) = only[0]["tensors"]
    assert tensor == {
        "name": "block.1.weight", "what": "renamed", "old_name": "layer.1.weight",
    }  # fmt: skip


def test_files_that_were_raw_or_removed(sandbox: Sandbox):
    sandbox.init(track="")
    model(sandbox.work / NAME)
    sandbox.commit("raw")
    sandbox.theta("track", "*.safetensors")
    model(sandbox.work / NAME, {"layer.0.weight": ONES})
    sandbox.commit("tracked")
    (sandbox.work / NAME).unlink()
    sandbox.commit("gone")
    found = {row["subject"]: row["state"] for row in sandbox.json("log", NAME)}
    assert found == {"raw": "raw", "tracked": "raw", "gone": "removed"}
    blamed = {row["subject"] for row in sandbox.json("blame", f"HEAD~1:{NAME}")}
    assert blamed == {"tracked"}


def test_names_and_messages_cannot_act_on_a_terminal(repo: Sandbox):
    tensors: dict[str, npt.NDArray[Any]] = {"w\x1b[2J": ONES}
    (repo.work / NAME).write_bytes(encode(tensors))
    repo.commit("evil \x1b]0;owned\x07")
    for words in (("log", NAME), ("blame", NAME)):
        text = repo.theta(*words).stdout
        assert all(line.isprintable() for line in text.splitlines())
        assert r"evil \x1b]0;owned\x07" in text


def test_what_is_not_there_is_said(repo: Sandbox):
    model(repo.work / NAME)
    repo.commit()
    for verb in ("log", "blame"):
        assert "no commit has a file" in repo.theta(verb, "other", code=3).stderr
    assert "nowhere" in repo.theta("log", "nowhere", NAME, code=3).stderr
