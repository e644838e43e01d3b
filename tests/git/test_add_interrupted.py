"""`git theta add --from` stopped half-way: the old file and index, or the new ones."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from git_theta.commands import rewriting
from tests.adapters import lora, safetensors
from tests.sandbox import Sandbox

pytestmark = pytest.mark.git

NAMES = [f"layer.{n}" for n in range(6)]


@pytest.fixture
def model(repo: Sandbox) -> Path:
    """A committed model of a few megabytes."""
    rng = np.random.default_rng(1)
    path = repo.work / "m.safetensors"
    weights = {f"{name}.weight": rng.normal(size=(512, 512)).astype("<f4") for name in NAMES}
    path.write_bytes(safetensors(weights))
    repo.commit()
    return path


@pytest.fixture
def adapter(repo: Sandbox) -> Path:
    rng = np.random.default_rng(2)
    pair = (rng.normal(size=(4, 512)).astype("<f4"), rng.normal(size=(512, 4)).astype("<f4"))
    return lora(repo.root / "adapter", dict.fromkeys(NAMES, pair))


def scratch(repo: Sandbox) -> list[Path]:
    return list((repo.work / ".git" / "theta" / "tmp").iterdir())


def test_killed_at_any_time(repo: Sandbox, model: Path, adapter: Path):
    old, staged = model.read_bytes(), repo.git("ls-files", "-s")
    words = ["git-theta", "add", "m.safetensors", "--from", str(adapter)]
    ends = set()
    changed = False
    for wait in (0.15, 0.3, 0.45, 0.6, 0.75):
        process = subprocess.Popen(
            words, cwd=repo.work, env=repo.env, start_new_session=True, stderr=subprocess.DEVNULL
        )
        time.sleep(wait)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        (repo.work / ".git" / "index.lock").unlink(missing_ok=True)
        changed = model.read_bytes() != old
        ends.add((changed, repo.git("ls-files", "-s") != staged))
        assert [p.name for p in repo.work.iterdir() if p.name.startswith(".m.")] == []
        if changed:
            break
    assert ends <= {(False, False), (True, False), (True, True)}
    if not changed:
        repo.theta("add", "m.safetensors", "--from", adapter)
    else:
        repo.git("add", "m.safetensors")
    kinds = {t["kinds"][0] for t in repo.json("show", "m.safetensors")["tensors"]}
    assert kinds == {"low-rank"}
    repo.theta("add", "m.safetensors")
    assert scratch(repo) == []


def test_a_full_disk(repo: Sandbox, model: Path, adapter: Path):
    old, staged = model.read_bytes(), repo.git("ls-files", "-s")
    limited = f"ulimit -f 4000; exec git theta add m.safetensors --from {adapter}"
    done = repo.run("bash", "-c", limited, code=128)
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr
    assert (model.read_bytes(), repo.git("ls-files", "-s")) == (old, staged)
    assert scratch(repo) == []


def test_a_directory_that_may_not_be_written(repo: Sandbox, adapter: Path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    below = repo.work / "sub"
    below.mkdir()
    path = below / "m.safetensors"
    weights = {f"{name}.weight": np.zeros((512, 512), "<f4") for name in NAMES}
    path.write_bytes(safetensors(weights))
    repo.commit()
    below.chmod(0o555)
    try:
        done = repo.theta("add", "sub/m.safetensors", "--from", adapter, code=128)
    finally:
        below.chmod(0o755)
    assert "cannot be written" in done.stderr
    assert repo.git("status", "--porcelain") == ""


def test_a_work_tree_on_another_disk(tmp_path: Path):
    source, target = tmp_path / "source", tmp_path / "m.safetensors"
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    (tmp_path / ".m.safetensors.x.git-theta").write_bytes(b"left behind")
    (tmp_path / ".m.safetensors.mine").write_bytes(b"somebody's")
    rewriting.move_over(source, target)
    assert target.read_bytes() == b"new"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".m.safetensors.mine", "m.safetensors"]
