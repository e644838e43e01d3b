"""`git theta prune`: only what nothing names goes, and never more than Git itself gave up."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.sandbox import Sandbox, model

pytestmark = pytest.mark.git


@pytest.fixture
def history(repo: Sandbox) -> Sandbox:
    """A commit on main, and a branch with one more; every object is old enough to go."""
    repo.git("config", "theta.gracePeriod", "0")
    model(repo.work / "m.safetensors")
    repo.commit("first")
    repo.git("switch", "-qc", "side")
    model(repo.work / "m.safetensors", {"layer.2.weight": np.ones((40, 50))})
    repo.commit("second")
    repo.git("switch", "-q", "main")
    return repo


def forget(repo: Sandbox) -> None:
    """Let Git give up the branch for good."""
    repo.git("branch", "-qD", "side")
    repo.git("reflog", "expire", "--expire=now", "--all")
    repo.git("gc", "-q", "--prune=now")


def test_nothing_goes_while_git_has_the_manifest(history: Sandbox):
    before = history.objects()
    history.git("branch", "-qD", "side")
    report = history.json("prune")
    assert (report["objects"], report["kept"]) == (0, len(before))
    assert history.objects() == before


def test_what_git_gave_up_goes_and_is_named_by_its_tensors(history: Sandbox):
    before = history.objects()
    forget(history)
    told = history.json("prune", "--dry-run")
    assert history.objects() == before
    assert told["objects"] > 0
    assert told["versions"][0]["tensors"][0] == "layer.0.weight"
    shown = history.theta("prune", "-n").stdout
    assert "layer.0.weight" in shown
    report = history.json("prune")
    assert report["objects"] == told["objects"] == len(before) - len(history.objects())
    history.theta("fsck")
    (history.work / "m.safetensors").unlink()
    history.git("checkout", "--", "m.safetensors")
    assert history.git("status", "--porcelain") == ""
    assert history.json("prune")["objects"] == 0


def test_a_pruned_version_can_be_added_again(history: Sandbox):
    forget(history)
    history.theta("prune")
    data = model(history.work / "m.safetensors", {"layer.2.weight": np.ones((40, 50))})
    history.commit("again")
    (history.work / "m.safetensors").unlink()
    history.git("checkout", "--", "m.safetensors")
    assert (history.work / "m.safetensors").read_bytes() == data
    history.theta("fsck")


def test_young_objects_stay(history: Sandbox):
    forget(history)
    history.git("config", "theta.gracePeriod", "24h")
    before = history.objects()
    report = history.json("prune")
    assert (report["objects"], history.objects()) == (0, before)
    assert report["young"] > 0


def test_other_worktrees_and_the_index_count(history: Sandbox):
    history.git("worktree", "add", "-q", history.root / "tree", "side")
    model(history.work / "m.safetensors", {"layer.1.weight": np.zeros((40, 50))})
    history.git("add", ".")
    before = history.objects()
    history.git("reflog", "expire", "--expire=now", "--all")
    history.git("gc", "-q", "--prune=now")
    history.theta("prune")
    assert history.objects() == before


def test_what_a_borrower_needs_stays(history: Sandbox):
    borrower = history.root / "borrower"
    history.git("clone", "-q", "--shared", "-b", "side", history.work, borrower)
    changes = {"layer.2.weight": np.ones((40, 50)), "layer.3.weight": np.ones((40, 50))}
    data = model(borrower / "m.safetensors", changes)
    history.git("commit", "-qam", "built on side", cwd=borrower)
    forget(history)
    before = history.objects()
    report = history.json("prune")
    assert report["borrowers"] == [str(borrower / ".git")]
    assert before == history.objects()
    (borrower / "m.safetensors").unlink()
    history.git("checkout", "--", "m.safetensors", cwd=borrower)
    assert (borrower / "m.safetensors").read_bytes() == data
    shutil.rmtree(borrower)
    assert history.json("prune")["objects"] > 0


def test_a_manifest_that_cannot_be_read_stops_it(history: Sandbox):
    bad = '{"git-theta": 1,\n"objects": broken\n' + " " * 300
    (history.work / "bad.txt").write_text(bad)
    history.git("add", "bad.txt")
    forget(history)
    before = history.objects()
    done = history.theta("prune", code=7)
    assert "nothing was removed" in done.stderr
    assert history.objects() == before


def test_verify_remote_keeps_what_only_we_have(history: Sandbox):
    origin = history.root / "origin.git"
    history.git("init", "-q", "--bare", origin)
    history.git("remote", "add", "origin", f"file://{origin}")
    history.git("push", "-q", "origin", "main")
    forget(history)
    before = history.objects()
    report = history.json("prune", "--verify-remote")
    assert (report["objects"], history.objects()) == (0, before)
    assert report["not_on_remote"] > 0
    assert history.json("prune")["objects"] == report["not_on_remote"]


def test_verify_remote_drops_what_the_remote_has(history: Sandbox):
    origin = history.root / "origin.git"
    history.git("init", "-q", "--bare", origin)
    history.git("remote", "add", "origin", f"file://{origin}")
    history.git("push", "-q", "origin", "main", "side")
    history.git("remote", "remove", "origin")
    forget(history)
    report = history.json("prune", "--verify-remote", f"file://{origin}")
    assert report["objects"] > 0
    assert report["not_on_remote"] == 0


def test_a_remote_out_of_reach_stops_it(history: Sandbox, tmp_path: Path):
    forget(history)
    before = history.objects()
    gone = (tmp_path / "none.git").as_uri()
    done = history.theta("prune", "--verify-remote", gone, code=6)
    assert "nothing was removed" in done.stderr
    assert history.objects() == before


def test_git_lfs_prune_takes_nothing_of_ours(repo: Sandbox):
    """It deletes what no pointer names, and knows no manifests; nothing is pushed yet."""
    repo.git("lfs", "install", "--skip-repo")
    repo.git("init", "-q", "--bare", repo.root / "origin.git")
    repo.git("remote", "add", "origin", repo.root / "origin.git")
    versions = []
    for number in range(2):
        change = {"layer.2.weight": np.full((40, 50), number)}
        versions.append(model(repo.work / "m.safetensors", change))
        repo.commit()
    before = repo.objects()
    oid = before[0].name
    its_own = repo.work / ".git" / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
    its_own.parent.mkdir(parents=True)
    shutil.copyfile(before[0], its_own)
    repo.git("lfs", "prune", "--force", "--recent")
    assert not its_own.exists(), "it did its work"
    assert repo.objects() == before
    for number, data in enumerate(reversed(versions)):
        repo.git("checkout", "-q", f"main~{number}")
        assert (repo.work / "m.safetensors").read_bytes() == data
