"""`git theta extract`: an adapter from the difference of two versions, and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.adapters import read, safetensors
from tests.sandbox import Sandbox

pytestmark = pytest.mark.git


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


OLD = {f"l{n}.q.weight": rng(n).normal(size=(48, 80)).astype("<f4") for n in range(2)}
OLD |= {
    "word_embeddings.weight": rng(5).normal(size=(120, 32)).astype("<f4"),
    "norm.weight": rng(6).normal(size=80).astype("<f4"),
    "same.weight": rng(7).normal(size=(9, 9)).astype("<f4"),
    "gone.weight": rng(8).normal(size=(9, 9)).astype("<f4"),
}


def change(name: str, rank: int = 3) -> np.ndarray:
    rows, columns = OLD[name].shape
    made = rng(30).normal(size=(rows, rank)) @ rng(31).normal(size=(rank, columns))
    return (0.01 * made).astype("<f4")


TURNED = ("l0.q.weight", "l1.q.weight", "word_embeddings.weight")
NEW = {name: v + change(name) if name in TURNED else v for name, v in OLD.items()}
NEW["norm.weight"] = OLD["norm.weight"] + 1
del NEW["gone.weight"]


@pytest.fixture
def history(repo: Sandbox) -> Sandbox:
    """Two versions of a model, the second checked out."""
    path = repo.work / "m.safetensors"
    path.write_bytes(safetensors(OLD))
    repo.commit()
    path.write_bytes(safetensors(NEW))
    repo.commit()
    return repo


def test_there_and_back(history: Sandbox):
    folder = history.root / "adapter"
    words = ["extract", "HEAD~1", "HEAD", "m.safetensors", "--rank", "3", "-o", str(folder)]
    report = history.json(*words)
    assert report["relative_error"] < 1e-4
    assert [row["name"] for row in report["tensors"]] == list(TURNED)
    assert all(row["energy"] > 1 - 1e-8 for row in report["tensors"])
    left = {row["name"]: row["reason"] for row in report["left_out"]}
    assert left == {"gone.weight": "is only in A", "norm.weight": "is no matrix but [80]"}
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 3, 3)
    assert config["target_modules"] == ["l0.q", "l1.q", "word_embeddings"]
    tensors = read((folder / "adapter_model.safetensors").read_bytes())
    prefix = "base_model.model."
    assert {name: v.shape for name, v in tensors.items()} == {
        prefix + "l0.q.lora_A.weight": (3, 80),
        prefix + "l0.q.lora_B.weight": (48, 3),
        prefix + "l1.q.lora_A.weight": (3, 80),
        prefix + "l1.q.lora_B.weight": (48, 3),
        prefix + "word_embeddings.lora_embedding_A": (3, 120),
        prefix + "word_embeddings.lora_embedding_B": (32, 3),
    }
    history.git("checkout", "-q", "HEAD~1")
    history.theta("add", "m.safetensors", "--update", "low-rank", "--from", folder)
    now = read((history.work / "m.safetensors").read_bytes())
    for name in TURNED:
        assert np.allclose(now[name], NEW[name], atol=1e-6)


def test_what_is_lost_is_told(history: Sandbox):
    folder = history.root / "adapter"
    old, new = history.root / "old.safetensors", history.work / "m.safetensors"
    old.write_bytes(safetensors(OLD))
    done = history.theta("extract", old, new, "--rank", "1", "-o", folder)
    assert "ERROR  ENERGY KEPT" in done.stdout
    assert "norm.weight  is no matrix but [80]" in done.stdout
    report = history.json("extract", "HEAD~1:m.safetensors", new, "--rank", "1", "--force",
                          "-o", folder)  # fmt: skip
    values = np.linalg.svd(change("l0.q.weight").astype(float), compute_uv=False)
    row = report["tensors"][0]
    energy = values[0] ** 2 / np.square(values).sum()
    assert row["energy"] == pytest.approx(energy, abs=1e-4)
    assert row["relative_error"] == pytest.approx(np.sqrt(1 - energy), abs=1e-4)


def test_files_that_are_there_stay(history: Sandbox):
    folder = history.root / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("mine")
    words = ["extract", "HEAD~1", "HEAD", "m.safetensors", "--rank", "3", "-o", str(folder)]
    assert "--force" in history.theta(*words, code=7).stderr
    assert (folder / "adapter_config.json").read_text() == "mine"
    assert [p.name for p in folder.iterdir()] == ["adapter_config.json"]
    history.theta(*words, "--force")
    assert {p.name for p in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_without_a_repository(sandbox: Sandbox):
    old, new = sandbox.root / "old.safetensors", sandbox.root / "new.safetensors"
    old.write_bytes(safetensors(OLD))
    new.write_bytes(safetensors(NEW))
    sandbox.theta("extract", old, new, "--rank", "3", "-o", sandbox.root / "adapter")
    done = sandbox.theta("extract", "a:b", new, "--rank", "3", "-o", sandbox.root / "x", code=3)
    assert "not a Git repository" in done.stderr
    assert not (sandbox.root / "x").exists()


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["HEAD", "HEAD", "m.safetensors"], 7, "no matrix differs"),
        (["nowhere", "HEAD", "m.safetensors"], 3, "no revision"),
        (["HEAD", "HEAD", "nothing"], 3, "no file"),
        (["HEAD", "HEAD"], 2, "neither a file nor REV:PATH"),
        ([".gitattributes", "HEAD:m.safetensors"], 5, "no format"),
        (["HEAD:.gitattributes", "HEAD:m.safetensors"], 3, "is not kept by git-theta"),
    ],
    ids=str,
)
def test_what_cannot_be(history: Sandbox, words: list[str], code: int, told: str):
    folder: Path = history.root / "adapter"
    done = history.theta("extract", *words, "--rank", "3", "-o", folder, code=code)
    assert told in done.stderr
    assert not folder.exists()


def test_a_weight_stored_inputs_first(history: Sandbox):
    folder = history.root / "adapter"
    history.theta("extract", "HEAD~1", "HEAD", "m.safetensors", "--rank", "3", "-o", folder,
                  "--fan-in-fan-out")  # fmt: skip
    tensors = read((folder / "adapter_model.safetensors").read_bytes())
    assert tensors["base_model.model.l0.q.lora_A.weight"].shape == (3, 48)
    history.git("checkout", "-q", "HEAD~1")
    history.theta("add", "m.safetensors", "--from", folder)
    now = read((history.work / "m.safetensors").read_bytes())
    assert np.allclose(now["l0.q.weight"], NEW["l0.q.weight"], atol=1e-6)
