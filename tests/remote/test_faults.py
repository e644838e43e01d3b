"""A server that fails in every way: retried and done, or a clear word and nothing half-written."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from git_theta.repo.gitrepo import Repo
from git_theta.repo.lfs import Lfs, says_missing
from git_theta.repo.objects import Store
from tests.remote.fault_server import FaultServer, serving
from tests.remote.people import NAME, Person

pytestmark = pytest.mark.git

ALWAYS = 1000
# What a repeated request gets over, and what it does not. Git LFS does not repeat a batch request
# that fails with 5xx, nor a download with other bytes than it asked for.
PASSING = ["get 429", "get 500", "get 503", "get truncated", "get reset", "get slow"]
PASSING += ["batch 429", "batch expired", "batch reset"]
LASTING = ["get 429", "get 500", "get wrong", "get truncated", "get reset", "get hang"]
LASTING += ["batch 500", "batch 503", "batch expired", "batch reset", "batch garbage", "batch hang"]
UPLOAD_PASSING = ["put 429", "put 500", "put reset", "put slow", "batch 429", "batch expired"]
UPLOAD_LASTING = ["put 500", "put 507", "put reset", "put hang", "batch 503", "batch garbage"]
VERBS = ["fetch", "pull", "checkout", "clone"]


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serving() as server:
        yield server


@pytest.fixture
def pushed(alice: Person, server: FaultServer) -> bytes:
    """A version that Alice has pushed."""
    use(alice, server)
    data = alice.save(0)
    alice.push()
    return data


def use(person: Person, server: FaultServer) -> None:
    """Send a person's objects to the server, with few tries and little patience."""
    settings = {"url": server.url, "transfer.maxretries": "1", "transfer.maxretrydelay": "1"}
    for key, value in settings.items():
        person.git("config", "--global", f"lfs.{key}", value, cwd=person.root)


def meet(person: Person, server: FaultServer, fault: str, times: int) -> None:
    """Let the next requests meet a fault."""
    recover(person, server)
    kind, _, what = fault.partition(" ")
    server.fail(kind, what, times)
    if fault.endswith("hang"):
        person.git("config", "--global", "lfs.activitytimeout", "1", cwd=person.root)


def recover(person: Person, server: FaultServer) -> None:
    """All is well again; only who waits for nothing is impatient: a busy machine is no fault."""
    server.recover()
    person.git("config", "--global", "lfs.activitytimeout", "30", cwd=person.root)


def whole(person: Person) -> bool:
    """Whether all that lies in the store is what its name says, and nothing lies beside it."""
    store = person.store().parents[2]
    assert not list((store / "tmp").iterdir())
    return all(hashlib.sha256(p.read_bytes()).hexdigest() == p.name for p in person.objects())


def download(bob: Person, host: Path, verb: str) -> tuple[int, str]:
    """Make the objects needed: exit code and what was said."""
    shutil.rmtree(bob.work if verb == "clone" else bob.store(), ignore_errors=True)
    if verb == "clone":
        done = bob.clone(host, code=None)
    elif verb == "checkout":
        bob.file.unlink()
        done = bob.run("git", "checkout", "--", NAME, code=None)
    else:
        if verb == "pull":
            bob.file.unlink()
        done = bob.theta(verb, code=None)
    return done.returncode, done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_downloads(bob: Person, host: Path, server: FaultServer, pushed: bytes, verb: str) -> None:
    use(bob, server)
    bob.clone(host)
    turn = VERBS.index(verb)
    for fault in PASSING[turn::4]:
        meet(bob, server, fault, 1)
        code, said = download(bob, host, verb)
        assert code == 0, (fault, said)
        assert bob.file.read_bytes() == pushed, (fault, said)
    for fault in LASTING[turn::4]:
        meet(bob, server, fault, ALWAYS)
        code, said = download(bob, host, verb)
        # Git goes on without a file that cannot be had: the others are to be there.
        assert code == (6 if verb in ("fetch", "pull") else 0), (fault, said)
        assert "could not be fetched" in said, fault
        assert "Traceback" not in said
        assert whole(bob)
        if verb != "fetch":
            assert not bob.file.exists() or bob.is_left()
        recover(bob, server)
        bob.theta("pull")
        assert bob.file.read_bytes() == pushed
        assert bob.git("status", "--porcelain") == ""
    met = {fault.split()[1] for fault in server.met}
    assert met == {fault.split()[1] for fault in PASSING[turn::4] + LASTING[turn::4]}


def test_uploads(alice: Person, bob: Person, host: Path, server: FaultServer) -> None:
    use(alice, server)
    data = alice.save(0)
    for number, fault in enumerate(UPLOAD_PASSING + UPLOAD_LASTING):
        data = alice.save(number + 1)
        before = alice.git("ls-remote", "origin")
        passing = number < len(UPLOAD_PASSING)
        meet(alice, server, fault, 1 if passing else ALWAYS)
        done = alice.push(code=None)
        assert done.returncode == (0 if passing else 1), (fault, done.stderr)
        if not passing:
            assert "did not take the objects" in done.stderr
            assert alice.git("ls-remote", "origin") == before, "no commit without its objects"
            recover(alice, server)
            alice.push()
        assert all(server.objects[path.name] == path.read_bytes() for path in alice.objects())
        assert whole(alice)
    server.recover()
    use(bob, server)
    bob.clone(host)
    assert bob.file.read_bytes() == data


def test_nobody_waits_for_ever(alice: Person) -> None:
    """A server that sends nothing is given up, after 30 seconds where the user says nothing."""
    for said in ("", "7"):
        if said:
            alice.git("config", "lfs.activityTimeout", said)
        repo = Repo.find(alice.work)
        env = Lfs(repo, Store.of(repo.common_dir)).shadow.environment()
        repo.close()
        keys = {v: env[k.replace("_KEY_", "_VALUE_")] for k, v in env.items() if "_KEY_" in k}
        assert keys["lfs.activitytimeout"] == (said or "30")


@pytest.mark.parametrize(
    ("said", "missing"),
    [
        ("Authentication required: http://127.0.0.1:34041/a: HTTP 403", False),
        ('Get "http://h/objects/404404": dial tcp: lookup h: no such host', False),
        (f'error transferring "{"404" + "0" * 61}": [0] i/o timeout', False),
        ("bash: git-lfs-authenticate: command not found", False),
        (f'error transferring "{"1" * 64}": [0] remote missing object {"1" * 64}', True),
        (f"[{'1' * 64}] Object does not exist on the server: [404] no", True),
        ("batch response: Repository or object not found: http://h/x", True),
    ],
)
def test_what_is_missing_and_what_could_not_be_asked(said: str, *, missing: bool) -> None:
    assert says_missing(said) == missing
