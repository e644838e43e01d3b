"""Merges that a command judges: parameters chosen by it, and a gate."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tests.git.test_merge import Two, overlapping
from tests.sandbox import Sandbox

pytestmark = pytest.mark.git

SCORE = """
import os, sys
from pathlib import Path
from safetensors.numpy import load_file
path = sys.argv[1] if len(sys.argv) > 1 else os.environ["MODEL"]
found = float(load_file(path)["layer.2.weight"][0, 0])
Path("calls").open("a").write(f"{found} {len(sys.argv)}\\n")
if found > 3.6:
    sys.exit("too large")
print("some words before the score")
print(float("nan") if found < 1.2 else -abs(found - 2), end="\\n\\n")
"""


COMMAND = f"{sys.executable} score.py"


def ready(repo: Sandbox) -> Two:
    """Two branches, with layer.2.weight 4 here and 1 there, and a command that wants 2."""
    two = Two(repo)
    overlapping(two)
    (repo.work / "score.py").write_text(SCORE)
    (repo.work / ".git" / "info" / "exclude").write_text("score.py\ncalls\n")
    return two


def test_nothing_is_committed_that_the_command_fails(repo: Sandbox):
    ready(repo)
    command, calls, before = COMMAND, repo.work / "calls", repo.git("rev-parse", "HEAD")
    # what cannot be is refused before anything is computed
    plain = ("merge", "other", "-s", "interpolate")
    assert "--try needs --eval" in repo.theta(*plain, "--try", "alpha=1", code=2).stderr
    wrong = repo.theta(*plain, "--try", "beta=1", "--eval", command, code=2)
    assert "no parameter 'beta'" in wrong.stderr
    assert (
        "nothing to try" in repo.theta(*plain, "--try", "alpha", "--eval", command, code=2).stderr
    )
    assert not calls.exists()

    failed = repo.theta("merge", "other", "-s", "ours", "--eval", command, code=1)
    assert "exited with 1" in failed.stderr
    assert "failed for 1 merge: nothing was committed" in failed.stderr
    silent = repo.theta("merge", "other", "-s", "average", "--eval", "true", code=1)
    assert "the last line of --eval is no number" in silent.stderr
    assert repo.git("rev-parse", "HEAD") == before
    assert repo.git("status", "--porcelain") == ""


def test_the_best_is_chosen_and_recorded(repo: Sandbox):
    two = ready(repo)
    command, calls, before = COMMAND, repo.work / "calls", repo.git("rev-parse", "HEAD")
    # slerp from 4 to 1 is a line here: 4, 3.25, 2.5, 1.75, 1; the ends fail, one is there twice
    options = ("--try", "t=0,0.25,0.5,0.75,1,0.75", "--eval", command)
    (repo.work / "sub").mkdir()
    (repo.work / "sub" / "score.py").write_text(SCORE)
    done = repo.theta("merge", "other", "-s", "slerp", *options, cwd=repo.work / "sub")
    assert "the best of 6: t=0.75" in done.stderr
    assert np.allclose(two.loaded()["layer.2.weight"], 1.75)
    seen = (repo.work / "sub" / "calls").read_text().splitlines()
    assert [float(line.split()[0]) for line in seen] == [4, 3.25, 2.5, 1.75, 1]
    assert {line.split()[1] for line in seen} == {"2"}
    verified = repo.json("merge", "--verify", "HEAD")[0]
    said = verified["recipe"]
    assert verified["same"]
    assert not calls.exists()
    assert said["rules"][0]["parameters"] == {"t": 0.75}
    assert said["evaluation"]["score"] == -0.25
    assert [one["score"] for one in said["evaluation"]["tried"]] == [
        None, -1.25, -0.5, -0.25, None, -0.25
    ]  # fmt: skip

    # repeated from the recipe, without a command
    repo.git("reset", "-q", "--hard", before.strip())
    repo.theta("merge", "other", "--replay", "HEAD@{1}")
    assert np.allclose(two.loaded()["layer.2.weight"], 1.75)
    assert not calls.exists()

    # strategies beside each other, and the path in a variable
    repo.git("reset", "-q", "--hard", before.strip())
    tries = ("--try", "strategy=average,theirs,ours", "--eval", f"{command} $MODEL")
    assert "the best of 3: strategy=average" in repo.theta("merge", "other", *tries).stderr
    assert {line.split()[1] for line in calls.read_text().splitlines()} == {"2"}
