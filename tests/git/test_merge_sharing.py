"""Merges that copies of the process share: the same objects come out, whatever becomes of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from git_theta.core.manifest import CHUNK
from tests.git.test_merge import NAME, ONES, Array, Two
from tests.sandbox import Done, Sandbox

pytestmark = [
    pytest.mark.git,
    pytest.mark.skipif(sys.platform != "linux", reason="copies are made on Linux alone"),
]

# A merge that shares even little work, and writes down whether copies have done it.
PROGRAM = """
import os, signal, sys, time
from git_theta.cli import main
from git_theta.commands import sharing

class Watched(sharing.Sharing):
    def do(self, number):
        BEFORE
        made = super().do(number)
        with open("../done", "a") as file:
            file.write("copy\\n" if made is not None else "here\\n")
        return made

    def _serve(self, line, work):
        def watched(task):
            DURING
            return work(task)
        super()._serve(line, watched)

sharing._WORTH_COPIES, sharing.Sharing = 0, Watched
sys.exit(main(sys.argv[1:]))
"""
MERGE = ("merge", "other", "-s", "average", "-m", "merged")


def program(before: str = "pass", during: str = "pass") -> str:
    return PROGRAM.replace("BEFORE", before).replace("DURING", during)


def shared(repo: Sandbox, code: str, ends: int = 0) -> tuple[Done, list[str]]:
    """Merge; also who did each of the tasks."""
    told = repo.root / "done"
    told.unlink(missing_ok=True)
    done = repo.run(sys.executable, "-c", code, *MERGE, code=ends)
    return done, told.read_text().split()


def outcome(repo: Sandbox) -> tuple[str, bytes, list[str]]:
    """What was committed, what lies in the tree, and all objects by name."""
    assert repo.git("status", "--porcelain") == ""
    blob = repo.git("rev-parse", f"HEAD:{NAME}")
    return blob, (repo.work / NAME).read_bytes(), [path.name for path in repo.objects()]


def diverged(repo: Sandbox, large: int = 10) -> Two:
    """Two branches that both changed all tensors, one of them of so many rows."""

    def side(seed: int) -> dict[str, Array]:
        rng = np.random.default_rng(seed)
        changed = {f"layer.{n}.weight": rng.normal(size=(40, 50)) for n in range(4)}
        return changed | {"large": np.full((large, 50), seed, "<f4")}

    two = Two(repo)
    two.write(side(1))
    repo.commit("larger")
    two.diverge(side(2), side(3))
    repo.git("config", "theta.threads", "2")
    return two


def anew(repo: Sandbox, tmp_path: Path) -> None:
    """As if there had been no merge."""
    shutil.rmtree(repo.work)
    shutil.copytree(tmp_path / "before", repo.work, symlinks=True)
    (repo.work / NAME).touch()
    repo.git("status")


def test_copies_make_the_same_merge(repo: Sandbox, tmp_path: Path):
    diverged(repo, CHUNK // 200 + 10)
    shutil.copytree(repo.work, tmp_path / "before", symlinks=True)
    repo.git("config", "theta.threads", "1")
    _, by = shared(repo, program())
    assert set(by) == {"here"}
    wanted = outcome(repo)

    anew(repo, tmp_path)
    _, by = shared(repo, program())
    assert by == ["copy"] * 6
    assert outcome(repo) == wanted
    repo.theta("fsck")

    # all of it is known now: nothing is stored twice
    repo.git("reset", "-q", "--hard", "HEAD^")
    _, by = shared(repo, program())
    assert by == ["copy"] * 6
    assert outcome(repo) == wanted

    # one copy after the other is gone, or is not able to
    for before, during in (
        ("[os.kill(one, signal.SIGKILL) for one in self._copies if number == 2]", "pass"),
        ("pass", "os._exit(1)"),
        ("pass", "raise OSError('no such luck')"),
        ("pass", "raise MemoryError"),
    ):
        anew(repo, tmp_path)
        _, by = shared(repo, program(before, during))
        assert "here" in by
        assert outcome(repo) == wanted


def test_what_copies_meet_is_told_once(repo: Sandbox):
    two = diverged(repo)
    repo.git("checkout", "-q", "other")
    two.write(two.theirs | {f"layer.{n}.weight": ONES * np.nan for n in range(4)})
    repo.commit("not numbers")
    repo.git("checkout", "-q", "main")
    done, by = shared(repo, program(), 1)
    assert sorted(by) == ["copy"] + ["here"] * 4
    assert done.stderr.count("layer.3.weight") == 1
    assert "other has NaN or infinite numbers in it" in done.stderr


def test_copies_end_with_the_first_process(repo: Sandbox):
    diverged(repo)
    told, go = repo.root / "copies", repo.root / "go"
    during = f"""
            with open({str(told)!r}, "a") as file:
                file.write(f"{{os.getpid()}}\\n")
            while not os.path.exists({str(go)!r}):
                time.sleep(0.05)"""
    argv = [sys.executable, "-c", program(during=during), *MERGE]
    first = subprocess.Popen(argv, cwd=repo.work, env=repo.env, stderr=subprocess.DEVNULL)
    try:
        until(lambda: told.exists() and len(told.read_text().split()) == 2)
    finally:
        first.kill()
        first.wait()
    go.touch()
    until(lambda: not any(is_alive(int(word)) for word in told.read_text().split()))


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
