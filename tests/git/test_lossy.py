"""`git theta add --lossy`: on request only, told how far, marked, and exact from there on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.adapters import read, safetensors
from tests.sandbox import Sandbox

pytestmark = pytest.mark.git

SHAPE = (96, 160)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


OLD = {f"l{n}.weight": rng(n).normal(size=SHAPE).astype("<f4") for n in range(2)}
OLD |= {"norm.weight": rng(7).normal(size=160).astype("<f4"), "steps": np.array([3], "<i8")}
NEW = {name: v + (rng(9).normal(size=v.shape) * 1e-3).astype(v.dtype) for name, v in OLD.items()}


@pytest.fixture
def tuned(repo: Sandbox) -> Path:
    """A committed model, trained on in the work tree."""
    path = repo.work / "m.safetensors"
    path.write_bytes(safetensors(OLD))
    repo.commit()
    path.write_bytes(safetensors(NEW))
    return path


def marks(repo: Sandbox, place: str = "m.safetensors") -> dict[str, bool]:
    return {t["name"]: t["lossy"] for t in repo.json("show", place)["tensors"]}


def distance(new: np.ndarray, old: np.ndarray) -> float:
    return float(np.linalg.norm(new.astype(float) - old) / np.linalg.norm(old.astype(float)))


def test_a_rank_is_kept_and_told(repo: Sandbox, tuned: Path):
    words = ["add", "m.safetensors", "--update", "low-rank", "--rank", "8", "--lossy"]
    (report,) = repo.json(*words)
    now = read(tuned.read_bytes())
    told = {t["name"]: t for t in report["tensors"]}
    assert set(told) == {"l0.weight", "l1.weight"}
    for name, row in told.items():
        change = now[name].astype(float) - OLD[name]
        values = np.linalg.svd(change, compute_uv=False)
        assert values[8] < 1e-3 * values[0]
        assert row["relative_l2"] == pytest.approx(distance(now[name], NEW[name]))
        assert row["max"] == pytest.approx(np.abs(now[name].astype(float) - NEW[name]).max())
    best = np.linalg.svd(NEW["l0.weight"].astype(float) - OLD["l0.weight"], compute_uv=False)[8:]
    least = np.sqrt(np.square(best).sum()) / np.linalg.norm(NEW["l0.weight"].astype(float))
    assert told["l0.weight"]["relative_l2"] == pytest.approx(least, rel=1e-3)
    assert report["lossy"]["max"] == max(row["max"] for row in told.values())
    for name in ("norm.weight", "steps"):
        assert np.array_equal(now[name], NEW[name])
    assert marks(repo) == {n: n.startswith("l") for n in OLD}
    assert "low-rank (lossy)" in repo.theta("show", "m.safetensors").stdout
    assert repo.git("status", "--porcelain") == "M  m.safetensors\n"
    data = tuned.read_bytes()
    tuned.unlink()
    repo.git("checkout", "--", "m.safetensors")
    assert tuned.read_bytes() == data


def test_what_is_told_to_people(repo: Sandbox, tuned: Path):
    done = repo.theta("add", "m.safetensors", "--rank", "8", "--lossy")
    assert "RELATIVE L2" in done.stdout
    assert "all of these" in done.stdout
    assert "2 tensors changed" in done.stderr


@pytest.mark.parametrize(("kind", "most"), [("low-rank", 8e-4), ("sparse", 4e-4)])
def test_a_tolerance_is_kept(repo: Sandbox, tuned: Path, kind: str, most: float):
    words = ["add", "m.safetensors", "--update", kind, "--tolerance", str(most), "--lossy"]
    (report,) = repo.json(*words)
    now = read(tuned.read_bytes())
    assert all(t["relative_l2"] <= 1.001 * most for t in report["tensors"])
    assert report["lossy"]["relative_l2"] > 0.9 * most
    changed = [name for name in NEW if not np.array_equal(now[name], NEW[name])]
    assert {n for n, lossy in marks(repo).items() if lossy} == set(changed)
    assert changed == ["l0.weight", "l1.weight"] + (["norm.weight"] if kind == "sparse" else [])


def test_marks_stay_with_what_is_unchanged(repo: Sandbox, tuned: Path):
    repo.theta("add", "m.safetensors", "--rank", "8", "--lossy")
    repo.git("commit", "-q", "-m", "lossy")
    staged = repo.git("ls-files", "-s")
    tuned.write_bytes(tuned.read_bytes())
    repo.git("add", "m.safetensors")
    assert repo.git("ls-files", "-s") == staged
    repo.theta("add", "--force", "m.safetensors")
    assert marks(repo)["l0.weight"]
    now = read(tuned.read_bytes())
    tuned.write_bytes(safetensors(now | {"l0.weight": OLD["l0.weight"] + 1}))
    repo.commit("one more")
    assert marks(repo) == {n: n == "l1.weight" for n in OLD}


def test_nothing_makes_a_plain_add_lossy(repo: Sandbox, tuned: Path):
    lines = "*.safetensors filter=theta -text theta-update=low-rank theta-lossy theta-rank=1\n"
    (repo.work / ".gitattributes").write_text(lines + "*.safetensors lossy tolerance=1\n")
    for key in ("lossy", "rank", "tolerance"):
        repo.git("config", f"theta.{key}", "1")
    repo.git("config", "theta.update", "low-rank")
    for words in (["git", "add"], ["git", "theta", "add"], ["git", "theta", "add", "--force"]):
        repo.run(*words, "m.safetensors")
        assert tuned.read_bytes() == safetensors(NEW)
        assert not any(marks(repo).values())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--lossy"], "--update low-rank or --update sparse"),
        (["--lossy", "--update", "delta", "--tolerance", "0.1"], "--update low-rank"),
        (["--lossy", "--update", "low-rank"], "--rank R or --tolerance T"),
        (["--lossy", "--update", "sparse", "--rank", "3"], "--rank is for"),
        (["--lossy", "--rank", "0"], "--rank"),
        (["--lossy", "--update", "sparse", "--tolerance", "7"], "--tolerance"),
        (["--lossy", "--update", "sparse", "--tolerance", "nan"], "--tolerance"),
    ],
    ids=str,
)
def test_options_that_make_no_sense(repo: Sandbox, words: list[str], told: str):
    (repo.work / "m.safetensors").write_bytes(safetensors(NEW))
    done = repo.theta("add", "m.safetensors", *words, code=2)
    assert told in done.stderr


def test_without_a_base_or_a_change(repo: Sandbox):
    path = repo.work / "m.safetensors"
    path.write_bytes(safetensors(NEW))
    repo.theta("add", "m.safetensors", "--rank", "8", "--lossy", code=3)
    repo.git("add", "m.safetensors")
    done = repo.theta("add", "m.safetensors", "--rank", "8", "--lossy", code=7)
    assert "nothing to approximate" in done.stderr
    assert path.read_bytes() == safetensors(NEW)
