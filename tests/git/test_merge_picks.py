"""Commands that apply a change: what one side alone did is taken, averages are never made."""

from __future__ import annotations

import numpy as np
import pytest

from tests.git.test_merge import NAME, ONES, Two, overlapping, same
from tests.sandbox import Sandbox

pytestmark = pytest.mark.git


@pytest.fixture
def two(repo: Sandbox) -> Two:
    """Branches that overlap in one tensor, and an attribute that would average."""
    made = Two(repo, "theta-merge=average")
    overlapping(made)
    return made


def test_a_pick_is_no_merge(two: Two):
    repo = two.repo
    for command in (["cherry-pick", "other"], ["rebase", "other"]):
        done = repo.run("git", *command, code=1)
        assert "1 tensor changed on both sides (layer.2.weight)" in done.stderr
        repo.git(command[0], "--abort")
    repo.git("config", "theta.pickMerge", "apply")
    repo.git("cherry-pick", "other")
    found = two.loaded()
    assert np.array_equal(found["layer.0.weight"], ONES)
    assert np.array_equal(found["layer.1.weight"], ONES)
    change = ONES - two.base["layer.2.weight"]
    assert np.array_equal(found["layer.2.weight"], change + ONES * 4)


def test_the_environment_decides_a_pick_and_an_option_before_it(two: Two):
    repo = two.repo
    repo.git("cherry-pick", "other", env={"GIT_THETA_MERGE": "average:weights=[1,3]"})
    assert np.array_equal(two.loaded()["layer.2.weight"], ONES * 1.75)
    repo.git("reset", "-q", "--hard", "HEAD~1")
    repo.git("cherry-pick", "-X", "theirs", "other", env={"GIT_THETA_MERGE": "average"})
    assert same(two.loaded(), two.theirs | {"layer.0.weight": ONES})


def test_a_revert_takes_back_what_nobody_changed_since(repo: Sandbox):
    two = Two(repo)
    first = two.write({"layer.0.weight": ONES})
    repo.commit("first")
    two.write({"layer.0.weight": ONES, "layer.1.weight": ONES})
    repo.commit("second")
    repo.git("revert", "--no-edit", "HEAD~1")
    assert same(two.loaded(), two.base | {"layer.1.weight": ONES})
    assert not np.array_equal(first["layer.0.weight"], two.base["layer.0.weight"])


def test_a_stash_is_popped_onto_a_newer_commit(two: Two):
    repo = two.repo
    two.write({"layer.0.weight": ONES, "layer.2.weight": ONES * 4, "layer.3.weight": ONES * 5})
    repo.git("stash", "-q")
    two.write({"layer.0.weight": ONES * 6, "layer.2.weight": ONES * 4})
    repo.commit("newer")
    repo.git("stash", "pop", "-q")
    wanted = {"layer.0.weight": ONES * 6, "layer.2.weight": ONES * 4, "layer.3.weight": ONES * 5}
    assert same(two.loaded(), two.base | wanted)


def test_options_of_git_merge_are_honoured(two: Two):
    repo = two.repo
    for option, side in (("-Xours", two.ours), ("--strategy-option=theirs", two.theirs)):
        repo.git("merge", "--no-edit", option, "other")
        assert np.array_equal(two.loaded()["layer.2.weight"], side["layer.2.weight"])
        assert np.array_equal(two.loaded()["layer.1.weight"], ONES)
        repo.git("reset", "-q", "--hard", "HEAD~1")


def test_a_rename_is_followed(repo: Sandbox):
    two = Two(repo, "theta-merge=average")
    two.diverge({"layer.2.weight": ONES * 4}, {"layer.2.weight": ONES})
    repo.git("mv", NAME, "renamed.safetensors")
    repo.commit("renamed")
    repo.git("merge", "--no-edit", "other")
    two.path = repo.work / "renamed.safetensors"
    assert np.array_equal(two.loaded()["layer.2.weight"], ONES * 2.5)
    assert repo.git("status", "--short") == ""


def test_a_file_added_on_both_sides_has_no_ancestor(repo: Sandbox):
    two = Two(repo, "theta-merge=average")
    new = repo.work / "new.safetensors"
    repo.git("checkout", "-q", "-b", "other")
    two.write({"layer.0.weight": ONES}, new)
    repo.commit("theirs")
    repo.git("checkout", "-q", "main")
    two.write({"layer.0.weight": ONES * 3}, new)
    repo.commit("ours")
    repo.git("merge", "--no-edit", "other")
    two.path = new
    assert same(two.loaded(), two.base | {"layer.0.weight": ONES * 2})


def test_a_word_that_is_no_strategy_is_a_failure_that_leaves_the_tree(two: Two):
    repo = two.repo
    done = repo.run("git", "merge", "other", env={"GIT_THETA_MERGE": "avrage"}, code=None)
    assert done.returncode != 0
    assert "no merge plug-in is called 'avrage'" in done.stderr
    assert repo.git("log", "-1", "--format=%P").count(" ") == 0
