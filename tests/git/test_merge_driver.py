"""Merges of tracked files: never a prompt, never markers, never a silent choice."""

from __future__ import annotations

import numpy as np
import pytest

from tests.sandbox import Sandbox, model

pytestmark = pytest.mark.git

ONES = np.ones((40, 50))


@pytest.fixture
def sides(repo: Sandbox) -> tuple[Sandbox, bytes, bytes]:
    """Branches `main` and `other` that changed one tensor each, and one both; `main` is out."""
    path = repo.work / "m.safetensors"
    model(path)
    repo.commit("base")
    repo.git("checkout", "-q", "-b", "other")
    theirs = model(path, {"layer.1.weight": ONES, "layer.2.weight": ONES})
    repo.commit("theirs")
    repo.git("checkout", "-q", "main")
    ours = model(path, {"layer.0.weight": ONES, "layer.2.weight": ONES * 2})
    repo.commit("ours")
    return repo, ours, theirs


def test_a_conflict_keeps_our_file_and_says_what_to_do(sides: tuple[Sandbox, bytes, bytes]):
    repo, ours, theirs = sides
    done = repo.run("git", "merge", "other", code=1)
    assert (repo.work / "m.safetensors").read_bytes() == ours
    told = done.stderr
    assert (
        "1 tensor changed on both sides (layer.2.weight), 1 only on ours, 1 only on theirs" in told
    )
    assert "git checkout --theirs -- m.safetensors && git add -- m.safetensors" in told
    assert len(repo.git("ls-files", "-u").splitlines()) == 3
    command = next(line for line in told.splitlines() if "--theirs" in line).partition(":")[2]
    repo.run("sh", "-c", command)
    assert (repo.work / "m.safetensors").read_bytes() == theirs
    repo.git("commit", "-q", "-m", "merged")
    assert repo.git("status", "--short") == ""


def test_one_sided_changes_need_no_driver(repo: Sandbox):
    path = repo.work / "m.safetensors"
    model(path)
    repo.commit("base")
    repo.git("checkout", "-q", "-b", "other")
    theirs = model(path, {"layer.1.weight": ONES})
    repo.commit("theirs")
    repo.git("checkout", "-q", "main")
    (repo.work / "notes.txt").write_text("ours")
    repo.commit("ours")
    repo.git("merge", "-q", "--no-edit", "other")
    assert path.read_bytes() == theirs


@pytest.mark.parametrize("command", ["rebase", "cherry-pick"])
def test_other_ways_to_merge(sides: tuple[Sandbox, bytes, bytes], command: str):
    repo, ours, theirs = sides
    done = repo.run("git", command, "other", code=1)
    assert "both sides changed this file" in done.stderr
    assert (repo.work / "m.safetensors").read_bytes() == (theirs if command == "rebase" else ours)
    repo.git(command, "--abort")
    assert repo.git("status", "--short") == ""


def test_crossed_merges_stay_a_conflict(sides: tuple[Sandbox, bytes, bytes]):
    """Two merge bases: the tips look unchanged against one of them, which must not decide."""
    repo, _, _ = sides
    repo.git("branch", "main-before")
    repo.git("merge", "other", code=1)
    repo.git("checkout", "--ours", "--", "m.safetensors")
    repo.commit("keep ours")
    repo.git("checkout", "-q", "other")
    repo.git("merge", "main-before", code=1)
    repo.git("checkout", "--ours", "--", "m.safetensors")
    repo.commit("keep theirs")
    repo.git("checkout", "-q", "main")
    repo.git("merge", "other", code=1)
    assert len(repo.git("ls-files", "-u").splitlines()) == 3


def test_files_that_were_committed_raw(sandbox: Sandbox):
    sandbox.init(track="")
    path = sandbox.work / "m.safetensors"
    model(path)
    (sandbox.work / ".gitattributes").write_text("*.safetensors -text merge=theta\n")
    sandbox.commit("base")
    sandbox.git("checkout", "-q", "-b", "other")
    model(path, {"layer.1.weight": ONES})
    sandbox.commit("theirs")
    sandbox.git("checkout", "-q", "main")
    ours = model(path, {"layer.2.weight": ONES})
    sandbox.commit("ours")
    sandbox.git("merge", "other", code=1)
    assert path.read_bytes() == ours


def test_a_driver_that_fails_is_no_conflict(repo: Sandbox):
    assert repo.theta("merge-driver", "a", "b", "c", "7", "path", code=129).stderr
    assert repo.theta("merge-driver", code=129).stderr
