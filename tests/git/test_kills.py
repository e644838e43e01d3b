"""Killed at any moment, nothing is lost: the same command again does it, and nothing lies about.

Each test runs a command again and again and kills it, with everything it started: at the n-th
change that it makes to the disk (n drawn at random, and no clock involved), in `make soak` every
other time at a random moment instead. Twenty kills a verb here, five to ten where one costs much;
two hundred in `make soak`, each of them followed by the same command again.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from git_theta.commands.proof import prove
from git_theta.commands.session import Session
from git_theta.core.checkpoint import rebuild
from git_theta.repo.gitrepo import Repo
from git_theta.repo.tracked import every_manifest, find_blob, parse_at
from tests.remote.fault_server import FaultServer, serving
from tests.sandbox import Sandbox, model

pytestmark = pytest.mark.git
NAME = "m.safetensors"
FEW, MANY = 20, 200

# Runs in every process of ours: each change to the disk is counted in a file that they share.
KILLER = """
import os, signal, sys

log = os.open(os.environ["KILL_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
at = int(os.environ["KILL_AT"])
changes = {"os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.utime", "os.truncate",
           "fcntl.flock", "sqlite3.connect", "subprocess.Popen"}
writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT

def hook(event, args):
    if event in changes or (event == "open" and isinstance(args[2], int) and args[2] & writing):
        os.write(log, b"x")
        if at and os.fstat(log).st_size >= at:
            os.killpg(0, signal.SIGKILL)

sys.addaudithook(hook)
"""


@dataclass
class Victim:
    """A repository with a history whose every version is known, and a remote beside it."""

    repo: Sandbox
    chance: random.Random
    tally: Counter[str]
    versions: dict[str, bytes] = field(default_factory=dict)
    took: float = 0.0
    changes: int = 1
    number: int = 0
    server: FaultServer | None = None

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
        """Run a command to its end; remember how long that took, and how many changes."""
        start = time.monotonic()
        self.repo.run(*words, env=self._watched(0))
        self.took = max(self.took, time.monotonic() - start)
        self.changes = max(1, self._log().stat().st_size)

    def kill(self, *words: str, by_clock: bool = False) -> bool:
        """Run a command and kill it somewhere; says whether it was still running."""
        at = 0 if by_clock else self.chance.randint(1, self.changes)
        process = subprocess.Popen(
            words,
            cwd=self.repo.work,
            env=self.repo.env | self._watched(at),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if by_clock:
            time.sleep(self.chance.uniform(0, self.took))
            hit = process.poll() is None
        else:
            process.wait(timeout=120)
            hit = self._log().stat().st_size >= at
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.unlock()
        self.tally["kills"] += hit
        return hit

    def attempts(self, kills: int) -> Iterator[bool]:
        """Go on until so many kills met a running command; says whether each should by the clock.

        What is asked for next has survived everything before.
        """
        for number in range(4 * kills):
            self.tally["survived"] = self.tally["kills"]
            if self.tally["kills"] >= kills:
                return
            yield kills == MANY and number % 2 == 1
        raise AssertionError("the command was mostly done before it was killed")

    def _log(self) -> Path:
        return self.repo.root / "changes"

    def _watched(self, at: int) -> dict[str, str]:
        startup = self.repo.root / "startup"
        startup.mkdir(exist_ok=True)
        (startup / "sitecustomize.py").write_text(KILLER)
        self._log().write_bytes(b"")
        return {"PYTHONPATH": str(startup), "KILL_LOG": str(self._log()), "KILL_AT": str(at)}

    def unlock(self) -> None:
        """Do what Git asks of its user after a crash: remove its locks and temporary files."""
        git_dir = self.repo.work / ".git"
        for lock in git_dir.rglob("*.lock"):
            if lock.relative_to(git_dir).parts[0] != "theta":
                lock.unlink()
        for left in self.repo.work.glob(".merge_file_*"):
            left.unlink()

    def check(self, *, every: bool = False) -> None:
        """Everything that Git has a manifest of is there; a version (or all) byte for byte.

        What `git theta fsck` looks at, in this process, which costs less.
        """
        session = Session(Repo.find(self.repo.work))
        manifests = [parse_at(blob, text) for blob, text in every_manifest(session.repo)]
        proof = prove(session, manifests, lambda _: None)
        assert not proof.objects
        assert not proof.chunks
        versions = list(self.versions.items())
        for commit, data in versions if every else [self.chance.choice(versions)]:
            manifest = parse_at(NAME, find_blob(session.repo, commit, NAME)[1])
            pieces = rebuild(manifest, session.store.read, session.plugins)
            assert b"".join(bytes(piece) for piece in pieces) == data
        session.close()


@pytest.fixture
def victim(repo: Sandbox, request: pytest.FixtureRequest, tally: Counter[str]) -> Victim:
    victim = Victim(repo, random.Random(request.node.name), tally)
    repo.git("config", "--global", "theta.directFrom", "1k")
    repo.git("config", "theta.gracePeriod", "0")
    for _ in range(3):
        victim.commit()
    return victim


@pytest.fixture
def remote(victim: Victim) -> Iterator[FaultServer]:
    """A host for commits, and a server for objects."""
    repo, origin = victim.repo, victim.repo.root / "origin.git"
    repo.git("init", "-q", "--bare", origin)
    repo.git("remote", "add", "origin", f"file://{origin}")
    with serving() as server:
        repo.git("config", "--global", "lfs.url", server.url)
        repo.git("push", "-q", "-u", "origin", "main")
        yield server


def times(few: int) -> pytest.MarkDecorator:
    """Run a test with a few kills, and in `make soak` with many."""
    soak = [pytest.mark.soak, pytest.mark.timeout(3600)]
    return pytest.mark.parametrize("kills", [few, pytest.param(MANY, marks=soak)])


def torment(
    victim: Victim,
    kills: int,
    words: Sequence[str],
    *,
    before: Callable[[], object],
    after: Callable[[], object],
) -> None:
    """Kill, look, in the end (in the long run: every time) do it again and look."""
    before()
    victim.run(*words)
    after()
    for by_clock in victim.attempts(kills):
        before()
        victim.kill(*words, by_clock=by_clock)
        victim.check()
        if kills == MANY or victim.tally["kills"] == kills // 2:
            victim.run(*words)
            after()
    before()
    victim.run(*words)
    after()
    sweep(victim)


def sweep(victim: Victim) -> None:
    """The next commands leave no temporary file behind, nor anything that nothing names."""
    victim.commit()
    store = victim.repo.work / ".git" / "theta"
    for name in ("incomplete", "tmp", "logs"):  # what Git LFS keeps for a while
        for path in (store / "lfs.git" / "lfs" / name).glob("*"):
            os.utime(path, (0, 0))
    victim.repo.theta("prune")
    assert [path.name for path in (store / "tmp").iterdir()] == []
    lfs = store / "lfs.git" / "lfs"
    assert {path for path in lfs.rglob("*") if path.is_file()} == set(victim.repo.objects())
    assert victim.repo.json("du")["store"]["unnamed_objects"] == 0
    names = {path.name for path in victim.repo.work.iterdir()}
    assert not [name for name in names if name.startswith(f".{NAME}")]
    assert victim.repo.git("status", "--porcelain") == ""
    victim.repo.theta("fsck")
    victim.check(every=True)


@times(FEW)
def test_add(victim: Victim, kills: int):
    data = [b""]

    def before() -> None:
        data[0] = victim.change()

    def after() -> None:
        commit = victim.repo.commit("added")
        victim.versions[commit] = data[0]

    torment(victim, kills, ["git", "add", NAME], before=before, after=after)


@times(10)
def test_commit(victim: Victim, kills: int):
    data = [b""]

    def before() -> None:
        data[0] = victim.change()

    def after() -> None:
        victim.versions[victim.repo.git("rev-parse", "HEAD").strip()] = data[0]

    words = ["git", "commit", "-q", "--allow-empty", "-am", "killed or not"]
    torment(victim, kills, words, before=before, after=after)


@pytest.mark.parametrize("program", [["git"], ["git", "theta"]], ids=" ".join)
@times(6)
def test_checkout(victim: Victim, kills: int, program: list[str]):
    older, *_, newest = victim.versions

    def before() -> None:
        # What a killed checkout left half-way is no modification of the user's: hence -f.
        victim.repo.git("symbolic-ref", "HEAD", "refs/heads/main")
        victim.repo.git("read-tree", newest)
        (victim.repo.work / NAME).write_bytes(victim.versions[newest])

    def after() -> None:
        if program == ["git"]:
            # Git is content with a manifest whose file was being written when it was killed.
            victim.repo.theta("pull")
        assert (victim.repo.work / NAME).read_bytes() == victim.versions[older]
        assert victim.repo.git("status", "--porcelain") == ""

    words = [*program, "checkout", "-q", "-f", "--detach", older]
    torment(victim, kills, words, before=before, after=after)


@pytest.mark.parametrize("program", [["git"], ["git", "theta"]], ids=" ".join)
@times(5)
def test_merge(victim: Victim, kills: int, program: list[str]):
    """Both sides changed tensors of their own; in the long run one together, to be averaged."""
    repo = victim.repo
    both = {"layer.1.weight": np.ones((40, 50))} if kills == MANY else {}
    repo.git("config", "theta.merge", "average")
    repo.git("switch", "-qc", "side")
    data = model(repo.work / NAME, {"layer.0.weight": np.ones((40, 50)), **both})
    victim.versions[repo.commit("side")] = data
    repo.git("switch", "-q", "main")
    both = {name: values * 3 for name, values in both.items()}
    data = model(repo.work / NAME, {"layer.2.weight": np.ones((40, 50)), **both})
    main = repo.commit("main")
    victim.versions[main] = data

    def before() -> None:
        (repo.work / ".git" / "MERGE_HEAD").unlink(missing_ok=True)
        repo.git("reset", "-q", "--hard", main)

    def after() -> None:
        repo.theta("pull")
        assert repo.git("rev-list", "--count", f"{main}..HEAD").strip() == "2"
        assert (repo.work / NAME).read_bytes() != victim.versions[main]
        assert repo.git("status", "--porcelain") == ""

    words = [*program, "merge", "-m", "merged", "side"]
    torment(victim, kills, words, before=before, after=after)


@times(10)
def test_push(victim: Victim, kills: int, remote: FaultServer):
    origin = victim.repo.root / "origin.git"

    def before() -> None:
        """Make the remote new again; nothing that it has may lack its objects before that."""
        if (origin / "refs" / "heads" / "main").exists():
            assert {path.name for path in victim.repo.objects()} <= set(remote.objects)
        victim.repo.git("update-ref", "-d", "refs/heads/main", cwd=origin)
        victim.repo.git("update-ref", "-d", "refs/remotes/origin/main")
        remote.objects.clear()

    def after() -> None:
        newest = victim.repo.git("rev-parse", "HEAD")
        assert victim.repo.git("rev-parse", "main", cwd=origin) == newest
        stored = {path.name: path.read_bytes() for path in victim.repo.objects()}
        assert stored == remote.objects

    words = ["git", "push", "-q", "origin", "main"]
    torment(victim, kills, words, before=before, after=after)


@pytest.mark.parametrize("verb", ["fetch", "pull"])
@times(6)
def test_fetch(victim: Victim, kills: int, verb: str, remote: FaultServer):
    repo, path = victim.repo, victim.repo.work / NAME
    assert remote.objects
    words = ["git", "theta", verb, *(["--all"] if verb == "fetch" else [])]
    data = path.read_bytes()
    victim.run(*words)
    for by_clock in victim.attempts(kills):
        repo.run("rm", "-rf", repo.store())
        path.unlink(missing_ok=True)
        victim.kill(*words, by_clock=by_clock)
        assert all(remote.objects[o.name] == o.read_bytes() for o in repo.objects())
        assert not path.exists() or path.read_bytes() == data
        if kills == MANY or victim.tally["kills"] == kills:
            victim.run(*words)
            repo.theta("pull")
            assert path.read_bytes() == data
            repo.theta("fetch", "--all")
            victim.check(every=True)
    sweep(victim)


@times(10)
def test_prune(victim: Victim, kills: int):
    def before() -> None:
        victim.change()
        victim.repo.git("add", NAME)
        victim.repo.git("reset", "-q", "--hard")
        victim.repo.git("prune", "--expire=now")

    def after() -> None:
        assert victim.repo.json("du")["store"]["unnamed_objects"] == 0

    torment(victim, kills, ["git", "theta", "prune"], before=before, after=after)
