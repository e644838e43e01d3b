"""What goes wrong with remotes is told, ends with the right code, and loses nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from git_theta.repo.neighbours import Neighbour
from git_theta.repo.objects import Store
from tests.remote.conftest import bare
from tests.remote.lfs_server import LfsServer
from tests.remote.people import NAME, Person, lfs_objects
from tests.sandbox import without_program

pytestmark = pytest.mark.git


def test_a_failed_upload_fails_the_push(alice: Person, host: Path, lfs_server: LfsServer) -> None:
    alice.git("config", "lfs.url", f"{lfs_server.url}/broken/repository")
    alice.save(0)
    said = alice.push(code=1).stderr
    assert "did not take the objects" in said
    assert "Traceback" not in said
    assert alice.git("ls-remote", "origin") == ""
    assert alice.theta("push", code=6).stderr.startswith("git theta: ")


def test_a_server_that_is_not_there(alice: Person, bob: Person, host: Path) -> None:
    data = alice.save(0)
    alice.push()
    bob.git("config", "--global", "lfs.url", "http://127.0.0.1:9/none", cwd=bob.root)
    shutil.rmtree(host / "lfs")
    said = bob.clone(host).stderr
    assert bob.is_left()
    assert "could not be fetched" in said
    said = bob.theta("pull", code=6).stderr
    assert said.count("could not be fetched") == 1
    bob.git("config", "--global", "--unset", "lfs.url")
    bob.theta("pull", code=4)
    alice.theta("push", "--all")
    bob.theta("pull")
    assert bob.file.read_bytes() == data


def test_an_object_that_is_nowhere_is_named(alice: Person, host: Path) -> None:
    alice.save(0)
    alice.push()
    alice.write(1)
    before = set(alice.objects())
    head = alice.commit()[:7]
    for path in set(alice.objects()) - before:
        path.unlink()
    said = alice.push(code=1).stderr
    assert "model.safetensors, tensor layer.1.weight" in said
    assert f"commit {head}" in said
    assert "--no-verify" in said
    assert alice.theta("push", code=4).stderr.startswith("git theta: ")


def test_damage_on_the_way_is_found(
    alice: Person, bob: Person, host: Path, lfs_server: LfsServer
) -> None:
    """Git LFS checks what it downloads, so that no damaged object lands in the store."""
    name = host.parent.name
    alice.git("config", "lfs.url", f"{lfs_server.url}/team/{name}")
    data = alice.save(0)
    alice.push()
    largest = max(lfs_server.object_files(f"team/{name}"), key=lambda path: path.stat().st_size)
    flip(largest)
    bob.git("config", "--global", "lfs.url", f"{lfs_server.url}/team/{name}", cwd=bob.root)
    bob.clone(host)
    assert bob.is_left()
    assert largest.name not in [path.name for path in bob.objects()]
    flip(largest)
    bob.theta("pull")
    assert bob.file.read_bytes() == data


def flip(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    replace(path, bytes(data))


def replace(path: Path, data: bytes) -> None:
    """Write other content, and only here: objects of several repositories may be one file."""
    path.unlink()
    path.write_bytes(data)


def test_damage_at_a_remote_on_this_disk_is_found(alice: Person, bob: Person, host: Path) -> None:
    alice.save(0)
    alice.push()
    flip(max(lfs_objects(host), key=lambda path: path.stat().st_size))
    bob.clone(host, code=128)
    assert not bob.file.exists()


def test_a_damaged_object_here_gives_way_to_a_sound_one(alice: Person, host: Path) -> None:
    data = alice.save(0)
    alice.push()
    largest = max(alice.objects(), key=lambda path: path.stat().st_size)
    replace(largest, largest.read_bytes()[:-5])
    assert alice.json("fetch")["fetched"] == 1
    alice.file.unlink()
    alice.git("checkout", "--", NAME)
    assert alice.file.read_bytes() == data


def test_without_git_lfs(alice: Person, host: Path, tmp_path: Path) -> None:
    alice.save(0)
    env = without_program(alice.env, "git-lfs", tmp_path / "bin")
    said = alice.push(code=1, env=env).stderr
    assert "Git LFS is not installed" in said
    assert "Traceback" not in said
    assert not lfs_objects(host)


def test_without_any_remote(alice: Person) -> None:
    alice.git("remote", "remove", "origin")
    alice.save(0)
    shutil.rmtree(alice.store())
    assert "no remote" in alice.theta("fetch", code=4).stderr
    assert "has no remote" in alice.theta("push", code=6).stderr


def test_fetch_from_a_named_remote_only(alice: Person, bob: Person, host: Path) -> None:
    alice.save(0)
    alice.push()
    empty = bare(host.parent / "empty.git")
    bob.run("git", "clone", "-q", host, bob.work, cwd=bob.root,
            env={"GIT_THETA_SKIP_SMUDGE": "1"})  # fmt: skip
    assert bob.is_left()
    assert not bob.objects()
    bob.git("remote", "add", "empty", empty)
    bob.theta("fetch", "empty", code=4)
    bob.theta("fetch", "no-such-thing", code=2)
    report = bob.json("fetch", "origin", "HEAD")
    assert report["fetched"] == report["objects"] == len(bob.objects())
    assert bob.json("fetch")["fetched"] == 0
    assert bob.is_left()


def test_pull_writes_what_is_not_there_and_nothing_else(
    alice: Person, bob: Person, host: Path
) -> None:
    alice.write(0, "changed.safetensors")
    data = {name: alice.write(number, name) for number, name in enumerate(
        [NAME, "gone.safetensors", "deep/below.safetensors", "run.safetensors"])}  # fmt: skip
    (alice.work / "run.safetensors").chmod(0o755)
    alice.commit()
    alice.push()
    bob.run("git", "clone", "-q", host, bob.work, cwd=bob.root,
            env={"GIT_THETA_SKIP_SMUDGE": "1"})  # fmt: skip
    (bob.work / "changed.safetensors").write_bytes(b"work of my own")
    (bob.work / "gone.safetensors").unlink()
    report = bob.json("pull", "below.safetensors", cwd=bob.work / "deep")
    assert [entry["path"] for entry in report["written"]] == ["deep/below.safetensors"]
    assert bob.is_left()
    bob.theta("pull")
    assert {name: (bob.work / name).read_bytes() for name in data} == data
    assert os.access(bob.work / "run.safetensors", os.X_OK)
    assert not os.access(bob.work / NAME, os.X_OK)
    assert (bob.work / "changed.safetensors").read_bytes() == b"work of my own"
    assert bob.git("status", "--porcelain") == " M changed.safetensors\n"
    bob.theta("pull", "no-such-file", code=3)


def test_pull_restores_the_manifest_that_lies_there(alice: Person, host: Path) -> None:
    old = alice.save(0)
    alice.save(1)
    alice.file.write_text(alice.git("cat-file", "blob", f"HEAD~1:{NAME}"))
    alice.theta("pull")
    assert alice.file.read_bytes() == old
    assert alice.git("status", "--porcelain") == f" M {NAME}\n"


def test_remotes_are_asked_in_turn(alice: Person, bob: Person, host: Path) -> None:
    data = alice.save(0)
    alice.push("--no-verify", "origin", "HEAD")
    backup = bare(host.parent / "backup.git")
    bob.clone(host)
    assert bob.is_left()
    alice.push(backup, "HEAD")
    bob.git("remote", "add", "backup", backup)
    bob.theta("fetch", "origin", code=4)
    bob.git("config", "theta.remote", "no-such-place")
    bob.theta("pull")
    assert bob.file.read_bytes() == data


def test_a_wrong_size_takes_nothing_away(tmp_path: Path) -> None:
    """A hostile manifest may name a sound object with a size at which something else waits."""
    store = Store.of(tmp_path / "here")
    store.prepare()
    sound = b"sound" * 10
    oid = hashlib.sha256(sound).hexdigest()
    neighbour = tmp_path / "there" / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
    for path, data in ((store.path(oid), sound), (neighbour, b"bait")):
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    lacking = Neighbour.at(tmp_path / "there").lend(store, {oid: 4})
    assert lacking == {oid: 4}
    assert store.path(oid).read_bytes() == sound
    store.release()
