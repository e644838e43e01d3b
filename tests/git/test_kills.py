"""Killed at any moment, nothing is lost: the same command again does it, and nothing lies about.

Each test runs a command again and again and kills it, with everything it started, at a random
moment of the time that it takes. Twenty kills a command here, two hundred in `make soak`.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from tests.sandbox import Sandbox, model

pytestmark = pytest.mark.git
NAME = "m.safetensors"
FEW, MANY = 20, 200


@dataclass
class Victim:
    """A repository with a history whose every version is known, and a remote beside it."""

    repo: Sandbox
    chance: random.Random
    versions: dict[str, bytes] = field(default_factory=dict)
    took: float = 0.0
    number: int = 0

    def change(self) -> bytes:
        """Write a new version of the file."""
        self.number += 1
        weights = np.random.default_rng(self.number).normal(size=(40, 50))
        layer = f"layer.{self.number % 4}.weight"
        return model(self.repo.work / NAME, {layer: weights})

    def commit(self) -> str:
        data = self.change()
        commit = self.repo.commit(f"version {self.number}")
        self.versions[commit] = data
        return commit

    def run(self, *words: str) -> None:
        """Run a command to its end; remember the longest time that one took."""
        start = time.monotonic()
        self.repo.run(*words)
        self.took = max(self.took, time.monotonic() - start)

    def kill(self, *words: str) -> bool:
        """Run a command and kill it at a random moment; says whether it was still running."""
        process = subprocess.Popen(
            words,
            cwd=self.repo.work,
            env=self.repo.env,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(self.chance.uniform(0, self.took))
        alive = process.poll() is None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.unlock()
        return alive

    def unlock(self) -> None:
        """Do what Git asks of its user after a crash: remove its lock files."""
        for lock in (self.repo.work / ".git").rglob("*.lock"):
            if "theta" not in lock.parts:
                lock.unlink()

    def check(self) -> None:
        """Everything that was committed is there, byte for byte, and fsck is content."""
        self.repo.theta("fsck")
        commit, data = self.chance.choice(list(self.versions.items()))
        out = self.repo.root / "out"
        self.repo.theta("export", f"{commit}:{NAME}", "-o", out, "--force")
        assert out.read_bytes() == data


@pytest.fixture
def victim(repo: Sandbox, request: pytest.FixtureRequest) -> Victim:
    victim = Victim(repo, random.Random(request.node.name))
    repo.git("config", "--global", "theta.directFrom", "1k")
    repo.git("config", "theta.gracePeriod", "0")
    for _ in range(3):
        victim.commit()
    origin = repo.root / "origin.git"
    repo.git("init", "-q", "--bare", origin)
    repo.git("remote", "add", "origin", f"file://{origin}")
    repo.git("push", "-q", "-u", "origin", "main")
    return victim


times = pytest.mark.parametrize(
    "kills", [FEW, pytest.param(MANY, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
)


def torment(
    victim: Victim,
    kills: int,
    words: Sequence[str],
    *,
    before: Callable[[], object],
    after: Callable[[], object],
) -> None:
    """Kill, look, do it again to the end, look; at least some kills must have hit."""
    before()
    victim.run(*words)
    after()
    hits = 0
    for _ in range(kills):
        before()
        hits += victim.kill(*words)
        victim.check()
        victim.run(*words)
        after()
    victim.check()
    assert hits >= kills // 4
    sweep(victim)


def sweep(victim: Victim) -> None:
    """The next commands leave no temporary file behind, nor anything that nothing names."""
    victim.commit()
    victim.repo.theta("prune")
    scratch = victim.repo.work / ".git" / "theta" / "tmp"
    assert [path.name for path in scratch.iterdir()] == []
    report = victim.repo.json("du")
    assert report["store"]["unnamed_objects"] == 0
    names = {path.name for path in victim.repo.work.iterdir()}
    assert not [name for name in names if name.startswith(f".{NAME}")]
    assert victim.repo.git("status", "--porcelain") == ""


@times
def test_add(victim: Victim, kills: int):
    data = [b""]

    def before() -> None:
        data[0] = victim.change()

    def after() -> None:
        commit = victim.repo.commit("added")
        victim.versions[commit] = data[0]

    torment(victim, kills, ["git", "add", NAME], before=before, after=after)


@times
def test_commit(victim: Victim, kills: int):
    data = [b""]

    def before() -> None:
        data[0] = victim.change()

    def after() -> None:
        victim.versions[victim.repo.git("rev-parse", "HEAD").strip()] = data[0]

    words = ["git", "commit", "-q", "--allow-empty", "-am", "killed or not"]
    torment(victim, kills, words, before=before, after=after)


@pytest.mark.parametrize("program", [["git"], ["git", "theta"]], ids=" ".join)
@times
def test_checkout(victim: Victim, kills: int, program: list[str]):
    older = next(iter(victim.versions))

    def before() -> None:
        victim.repo.git("checkout", "-q", "-f", "main")

    def after() -> None:
        if program == ["git"]:
            # Git is content with a manifest whose file was being written when it was killed.
            victim.repo.theta("pull")
        assert (victim.repo.work / NAME).read_bytes() == victim.versions[older]
        assert victim.repo.git("status", "--porcelain") == ""

    # What a killed checkout left half-way is no modification of the user's: hence -f.
    words = [*program, "checkout", "-q", "-f", "--detach", older]
    torment(victim, kills, words, before=before, after=after)


@times
def test_push(victim: Victim, kills: int, tmp_path: Path):
    def after() -> None:
        other = tmp_path / "other"
        victim.repo.run("rm", "-rf", other)
        victim.repo.git("clone", "-q", f"file://{victim.repo.root / 'origin.git'}", other)
        newest = victim.repo.git("rev-parse", "HEAD").strip()
        assert (other / NAME).read_bytes() == victim.versions[newest]

    words = ["git", "push", "-q", "origin", "main"]
    torment(victim, kills, words, before=victim.commit, after=after)


@times
def test_fetch_and_pull(victim: Victim, kills: int):
    victim.repo.theta("push", "--all")
    newest = victim.repo.git("rev-parse", "HEAD").strip()
    path = victim.repo.work / NAME
    hits = 0
    victim.run("git", "theta", "fetch", "--all")
    for _ in range(kills):
        victim.repo.run("rm", "-rf", victim.repo.store())
        path.unlink()
        hits += victim.kill("git", "theta", "pull")
        victim.run("git", "theta", "pull")
        assert path.read_bytes() == victim.versions[newest]
        victim.repo.theta("fetch", "--all")
        victim.check()
    assert hits >= kills // 4
    sweep(victim)


@times
def test_prune(victim: Victim, kills: int):
    def before() -> None:
        victim.change()
        victim.repo.git("add", NAME)
        victim.repo.git("reset", "-q", "--hard")
        victim.repo.git("prune", "--expire=now")

    def after() -> None:
        assert victim.repo.json("du")["store"]["unnamed_objects"] == 0

    torment(victim, kills, ["git", "theta", "prune"], before=before, after=after)
