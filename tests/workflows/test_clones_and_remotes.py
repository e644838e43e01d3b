"""Clones of every kind, and what pushes leave behind at the other side."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.remote.people import lfs_objects
from tests.workflows.conftest import newcomer
from tests.workflows.scene import SAFE, TORCH, Scene

pytestmark = pytest.mark.git

BOTH = f" M {TORCH}\n M {SAFE}\n"


def grown(person: Scene, count: int = 3) -> list[dict[str, bytes]]:
    """A few versions on main, pushed."""
    versions = [person.grow("main", message=f"number {n}", a=n) for n in range(count)]
    person.git("reset", "-q", "--hard")
    person.push()
    return versions


@pytest.mark.parametrize("wanted", ["blob:none", "blob:limit=1k"])
def test_partial_clone(alice: Scene, stranger: Scene, host: Path, wanted: str):
    """Manifests come when they are needed, also those of old commits; and a push from there."""
    versions = grown(alice)
    alice.git("config", "uploadpack.allowFilter", "true", cwd=host)
    bob = newcomer(alice.root.parent / "bob")
    bob.run("git", "clone", "-q", f"--filter={wanted}", host.as_uri(), bob.work, cwd=bob.root)
    bob.at(versions[-1])
    missing = bob.git("rev-list", "--objects", "--all", "--missing=print")
    assert missing.count("\n?") >= 2
    mine = bob.keep("from a partial clone", b=1)
    bob.push()
    still = bob.git("rev-list", "--objects", "--all", "--missing=print")
    assert still.count("\n?") == missing.count("\n?"), "neither add nor push asks for old ones"
    bob.git("checkout", "-q", "HEAD~2")
    bob.at(versions[1])
    stranger.sees(host, {"origin/main": mine, "origin/main~3": versions[0]})


def test_shallow_clone(alice: Scene, stranger: Scene, host: Path):
    """--depth 1 needs no more than the tip; a push from it; deepen; unshallow."""
    versions = grown(alice)
    bob = newcomer(alice.root.parent / "bob")
    bob.run("git", "clone", "-q", "--depth=1", host.as_uri(), bob.work, cwd=bob.root)
    bob.at(versions[2])
    mine = bob.keep("from a shallow clone", b=1)
    bob.push()
    bob.git("fetch", "-q", "--deepen=1")
    bob.git("checkout", "-q", "main~2")
    bob.at(versions[1])
    bob.git("fetch", "-q", "--unshallow")
    bob.git("checkout", "-q", "main~3")
    bob.at(versions[0])
    bob.theta("fsck")
    stranger.sees(host, {"origin/main": mine, "origin/main~3": versions[0]})


def test_bundle_and_archive(alice: Scene, stranger: Scene, host: Path):
    """A bundle has the manifests; the weights come from a remote. An archive has the files."""
    versions = grown(alice)
    bundle = alice.root / "all.bundle"
    alice.git("bundle", "create", "-q", bundle, "--all")
    alice.git("bundle", "verify", "-q", bundle)
    told = stranger.run(
        "git", "clone", "-q", "-b", "main", bundle, stranger.work, cwd=stranger.root
    )
    assert stranger.is_left(SAFE)
    assert stranger.is_left(TORCH)
    assert "git theta pull" in told.stderr
    assert stranger.git("status", "--porcelain") == ""
    stranger.git("remote", "set-url", "origin", host)
    stranger.theta("pull")
    stranger.at(versions[-1])
    stranger.git("checkout", "-q", "HEAD~1")
    stranger.at(versions[1])
    attributes = alice.work / ".gitattributes"
    attributes.write_text(attributes.read_text() + "notes.txt export-ignore\n")
    alice.commit("attributes")
    for form in ("tar", "zip"):
        file = alice.root / f"all.{form}"
        alice.git("archive", f"--format={form}", "--prefix=v1/", "-o", file, "HEAD~1")
        shutil.unpack_archive(file, alice.root / form)
        alice.files(versions[-1], at=alice.root / form / "v1")
    there = stranger.root / "remote.tar"
    stranger.git("archive", f"--remote={host}", "-o", there, "main", cwd=stranger.root)
    shutil.unpack_archive(there, stranger.root / "there")
    stranger.files(versions[-1], at=stranger.root / "there")


def test_alternates(alice: Scene, host: Path):
    """--reference, --reference --dissociate, --shared: what is borrowed, and from whom."""
    versions = grown(alice)
    for number, words in enumerate((
        ("--reference", alice.work, host),
        ("--shared", alice.work),
        ("--reference", alice.work, "--dissociate", host),
    )):  # fmt: skip
        bob = newcomer(alice.root.parent / f"bob{number}")
        bob.run("git", "clone", "-q", *words, bob.work, cwd=bob.root)
        bob.at(versions[-1])
        borrows = "--dissociate" not in words
        assert bool(bob.objects()) != borrows
        mine = bob.keep("a borrower's", b=number + 1)
        bob.git("checkout", "-q", "HEAD~2")
        bob.at(versions[1])
        bob.push("origin", f"main:refs/heads/borrower-{number}")
        alice.git("gc", "-q", "--prune=now")
        alice.git("-c", "theta.gracePeriod=0", "theta", "prune")
        bob.git("checkout", "-q", "main")
        bob.at(mine)
    alice.at(versions[-1])


def test_mirror_and_maintenance(alice: Scene, stranger: Scene, host: Path):
    """A bare mirror, filled with objects, serves clones; gc and repack change nothing."""
    versions = grown(alice)
    alice.git("repack", "-q", "-a", "-d", "-f")
    alice.git("gc", "-q", "--aggressive", "--prune=now")
    alice.git("-c", "theta.gracePeriod=0", "theta", "prune")
    alice.git("fsck", "--strict")
    alice.theta("fsck")
    alice.git("checkout", "-q", "HEAD~2")
    alice.at(versions[0])
    mirror = alice.root / "mirror.git"
    alice.git("clone", "-q", "--mirror", host, mirror)
    alice.git("theta", "fetch", "--all", cwd=mirror)
    shutil.rmtree(host)
    stranger.sees(mirror, {"origin/main": versions[2], "origin/main~1": versions[1]})


def test_an_atomic_push_whose_upload_fails(alice: Scene, stranger: Scene, host: Path):
    """Nothing arrives, not even the branch that is whole; repaired, all of it does."""
    (first, *_) = grown(alice, 1)
    side = alice.grow("side", "main", b=1)
    before = set(alice.objects())
    broken = alice.keep("main", a=9)
    for path in set(alice.objects()) - before:
        path.unlink()
    refs = alice.git("ls-remote", "origin")
    alice.push("--atomic", "origin", "main", "side", code=1)
    assert alice.git("ls-remote", "origin") == refs
    stranger.sees(host, {"origin/main": first})
    alice.theta("add", "--force", SAFE, TORCH)
    alice.git("commit", "-q", "--amend", "--no-edit")
    alice.at(broken)
    alice.push("--atomic", "origin", "main", "side")
    stranger.sees(host, {"origin/main": broken, "origin/side": side})


def test_past_the_hook_and_repaired(alice: Scene, stranger: Scene, host: Path):
    """--no-verify, by a tag; fsck there and here, `git theta push --all`, everything is there."""
    (first, *_) = grown(alice, 1)
    second = alice.keep("second", a=7)
    alice.git("tag", "v2")
    alice.git("reset", "-q", "--hard", "HEAD~1")
    before = len(lfs_objects(host))
    alice.push("--no-verify", "origin", "v2")
    assert len(lfs_objects(host)) == before
    stranger.sees(host, {"origin/main": first})
    said = stranger.run("git", "checkout", "-q", "v2").stderr
    assert "no remote has" in said
    assert stranger.is_left(TORCH)
    assert stranger.git("status", "--porcelain") == ""
    alice.theta("push", "--all")
    stranger.theta("pull")
    stranger.at(second)
    alice.push("--delete", "origin", "v2")
    alice.push("--force", "origin", "v2:main", "HEAD:refs/heads/old")
    stranger.sees(host, {"origin/main": second, "origin/old": first})


def test_two_remotes_of_a_fork(alice: Scene, stranger: Scene, host: Path):
    """A fork that has but the tip's objects; a pull request's branch fetched from there."""
    versions = grown(alice, 2)
    fork = host.parent / "fork.git"
    subprocess.run(["git", "init", "-q", "--bare", fork], env=alice.env, check=True)
    bob = newcomer(alice.root.parent / "bob")
    bob.clone(host)
    bob.git("remote", "add", "fork", fork)
    bob.git("checkout", "-q", "-b", "better")
    mine = bob.keep("better", a=1, d=1)
    bob.push("fork", "better")
    alice.git("fetch", "-q", str(fork), "better")
    alice.git("merge", "-q", "--ff-only", "FETCH_HEAD")
    assert alice.is_left(SAFE) or alice.file.read_bytes() == mine[SAFE]
    alice.git("remote", "add", "bob", fork)
    alice.theta("pull")
    alice.at(mine)
    alice.push()
    stranger.sees(host, {"origin/main": mine, "origin/main~1": versions[-1]})
