"""`git theta fsck --remote`: what the other side lacks, and who has it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.remote.fault_server import FaultServer, serving
from tests.remote.people import NAME, Person, lfs_objects

pytestmark = pytest.mark.git


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serving() as server:
        yield server


def test_a_server_that_lacks_objects(alice: Person, server: FaultServer) -> None:
    alice.git("config", "lfs.url", server.url)
    alice.save(0)
    alice.push()
    assert "on origin: all well" in alice.theta("fsck", "--remote").stderr
    assert "get" not in server.asked, "nothing is downloaded"
    before = set(alice.objects())
    alice.save(1)
    alice.push("--no-verify", "origin", "HEAD")
    new = {path.name for path in set(alice.objects()) - before}
    report = alice.json("fsck", "--remote", "origin", code=4)
    assert report["remote"] == "origin"
    assert {loss["object"] for loss in report["losses"]} == new
    assert {loss["kind"] for loss in report["losses"]} == {"remote"}
    head = alice.git("rev-parse", "HEAD").strip()
    assert {(loss["path"], loss["commit"]) for loss in report["losses"]} == {(NAME, head)}
    assert "layer.1.weight" in {loss["tensor"] for loss in report["losses"]}
    assert {tuple(loss["available"]) for loss in report["losses"]} == {("here",)}
    said = alice.theta("fsck", "--remote", code=4).stdout
    assert f"{NAME} tensor layer.1.weight (commit {head[:12]})" in said
    assert "(it is here)" in said
    assert "git theta push --all" in said
    alice.theta("push", "--all")
    alice.theta("fsck", "--remote")


def test_what_is_lost_here_and_there(alice: Person, server: FaultServer) -> None:
    alice.git("config", "lfs.url", server.url)
    alice.save(0)
    alice.push()
    lost = max(alice.objects(), key=lambda path: path.stat().st_size)
    kept = lost.read_bytes()
    lost.unlink()
    losses = alice.json("fsck", code=4)["losses"]
    assert {tuple(loss["available"]) for loss in losses} == {("origin",)}
    assert "(on origin)" in alice.theta("fsck", code=4).stdout
    del server.objects[lost.name]
    for words in (["fsck"], ["fsck", "--remote"]):
        losses = alice.json(*words, code=4)["losses"]
        assert {(loss["object"], tuple(loss["available"])) for loss in losses} == {(lost.name, ())}
    lost.write_bytes(kept)
    alice.theta("fsck")


def test_who_cannot_be_asked(alice: Person, bob: Person, host: Path, server: FaultServer) -> None:
    alice.git("config", "lfs.url", server.url)
    alice.save(0)
    alice.push()
    server.fail("batch", "500", 100)
    said = alice.theta("fsck", "--remote", code=6).stderr
    assert "origin cannot be asked" in said
    server.recover()
    assert "cannot be reached" in alice.theta("fsck", "--remote", "nowhere", code=6).stderr
    bob.git("config", "--global", "lfs.url", server.url, cwd=bob.root)
    bob.clone(host)
    alice.save(1)
    alice.push()
    assert "1 ref of origin not looked at: git fetch first" in bob.theta("fsck", "--remote").stderr


def test_a_directory_that_lacks_objects(alice: Person, host: Path) -> None:
    alice.save(0)
    alice.push()
    alice.theta("fsck", "--remote")
    lfs_objects(host)[0].unlink()
    losses = alice.json("fsck", "--remote", code=4)["losses"]
    assert {tuple(loss["available"]) for loss in losses} == {("here",)}
    alice.theta("push", "--all")
    alice.theta("fsck", "--remote")
