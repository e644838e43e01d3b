"""Two, then eight processes add, fetch and prune at once: nothing is lost, nobody waits."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.checkpoints import weights
from tests.sandbox import Sandbox, encode

pytestmark = pytest.mark.git
NAME = "m.safetensors"
SCRIPT = """
set -e
for round in $ROUNDS; do
    case "$1" in
        add) cp "$2/$round" m.safetensors; git add m.safetensors; git commit -qm "$round" ;;
        fetch) git theta fetch -q --all ;;
        prune) git theta prune -q ;;
    esac
done
"""


def version(tree: int, turn: int) -> bytes:
    """All trees share a tensor, and each has one of its own that changes."""
    own = {"own": weights(100, 100, seed=10 * tree + turn)}
    return encode({"same": weights(200, 200), "of the turn": weights(50, 50, seed=turn), **own})


@pytest.mark.parametrize("processes", [2, 8])
def test_all_at_once(repo: Sandbox, processes: int):
    """Worktrees share one store; what is pruned has no age that would protect it."""
    repo.git("config", "theta.gracePeriod", "0")
    (repo.work / "readme").write_text("x")
    repo.commit()
    origin = repo.root / "origin.git"
    repo.git("clone", "-q", "--bare", repo.work, origin)
    repo.git("remote", "add", "origin", origin)
    adders = max(1, processes // 2)
    verbs = ["add"] * adders + ["prune", "fetch"] * adders
    rounds = ["1", "2"]
    running, trees = [], []
    for number, verb in enumerate(verbs[:processes]):
        tree = repo.root / f"tree{number}"
        repo.git("worktree", "add", "-q", "-b", f"b{number}", tree)
        source = repo.root / f"versions{number}"
        source.mkdir()
        for turn in rounds:
            (source / turn).write_bytes(version(number, int(turn)))
        trees.append((verb, tree, number))
        words = ["bash", "-c", SCRIPT, "bash", verb, str(source)]
        running.append((words, tree))
    started = [
        subprocess.Popen(words, cwd=tree, env=repo.env | {"ROUNDS": " ".join(rounds)})
        for words, tree in running
    ]
    assert [process.wait(timeout=100) for process in started] == [0] * processes
    repo.theta("fsck")
    for verb, tree, number in trees:
        if verb == "add":
            check(repo, tree, [version(number, int(turn)) for turn in rounds])
    repo.theta("prune")
    repo.theta("fsck")
    assert list((repo.work / ".git" / "theta" / "tmp").iterdir()) == []


def check(repo: Sandbox, tree: Path, versions: list[bytes]) -> None:
    """The commits of a tree hold what was added there."""
    for commit, data in zip(["HEAD~1", "HEAD"], versions, strict=True):
        out = repo.root / "out"
        repo.theta("export", f"{commit}:{NAME}", "-o", out, "--force", cwd=tree)
        assert out.read_bytes() == data


def test_fetches_at_once(repo: Sandbox):
    """Eight processes bring the same objects, while one removes what nothing names."""
    repo.git("config", "theta.gracePeriod", "0")
    for turn in range(2):
        (repo.work / NAME).write_bytes(version(0, turn))
        repo.commit()
    origin = repo.root / "origin.git"
    repo.git("init", "-q", "--bare", origin)
    repo.git("remote", "add", "origin", origin)
    repo.git("push", "-q", "origin", "main")
    before = {path.name: path.read_bytes() for path in repo.objects()}
    shutil.rmtree(repo.store())
    words = [["git", "theta", "fetch", "-q", "--all"]] * 7 + [["git", "theta", "prune", "-q"]]
    started = [subprocess.Popen(word, cwd=repo.work, env=repo.env) for word in words]
    assert [process.wait(timeout=100) for process in started] == [0] * 8
    assert {path.name: path.read_bytes() for path in repo.objects()} == before
