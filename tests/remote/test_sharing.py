"""People share a model through a remote; whoever clones has every byte."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.remote.conftest import bare
from tests.remote.lfs_server import LfsServer
from tests.remote.people import NAME, Person, lfs_objects

pytestmark = pytest.mark.git


@pytest.fixture(params=["directory", "url", "server"])
def lfs_url(request: pytest.FixtureRequest, host: Path, tmp_path: Path) -> str:
    """Where the objects go: with Git's own, or to an LFS server."""
    if request.param == "server":
        server: LfsServer = request.getfixturevalue("lfs_server")
        return f"{server.url}/team/{tmp_path.name}"
    return ""


@pytest.fixture
def address(request: pytest.FixtureRequest, host: Path) -> str:
    """How the host is named by those who clone."""
    return host.as_uri() if "url" in request.node.name else str(host)


def use(person: Person, lfs_url: str) -> None:
    """Say where the objects go, for all repositories of a person."""
    if lfs_url:
        person.git("config", "--global", "lfs.url", lfs_url, cwd=person.root)


def test_clone_edit_push_clone(alice: Person, bob: Person, lfs_url: str, address: str) -> None:
    use(alice, lfs_url)
    use(bob, lfs_url)
    first = alice.save(0)
    alice.push()

    said = bob.clone(address).stderr
    assert bob.file.read_bytes() == first
    assert said.count("added the pre-push hook") == 1
    second = bob.save(1)
    assert "pre-push hook" not in bob.push().stderr

    carol = Person(bob.root.parent / "carol")
    carol.theta("install")
    use(carol, lfs_url)
    carol.clone(address)
    assert carol.file.read_bytes() == second
    carol.theta("fetch", "--all")
    assert carol.history() == [first, second]
    assert carol.git("status", "--porcelain") == ""


def test_a_push_uploads_before_the_commits_are_there(alice: Person, host: Path) -> None:
    alice.save(0)
    alice.push("--dry-run", "origin", "HEAD")
    assert [path.name for path in lfs_objects(host)] == [path.name for path in alice.objects()]


def test_all_kinds_of_pushes(alice: Person, bob: Person, host: Path) -> None:
    one = alice.save(0)
    alice.push("origin", "HEAD:refs/heads/a branch".replace(" ", "-"))
    two = alice.save(1)
    alice.git("tag", "-a", "v1", "-m", "annotated")
    alice.push("origin", "v1")
    alice.git("reset", "-q", "--hard", "HEAD~1")
    three = alice.save(2)
    alice.push("origin", "main~1:refs/heads/main", "main:refs/heads/next")
    alice.push("--force", "origin", "main:a-branch")
    alice.push("--delete", "origin", "next")
    assert "Everything up-to-date" in alice.push("origin", "main:a-branch").stderr

    bob.clone(host)
    for rev, data in {"v1": two, "origin/main": one, "origin/a-branch": three}.items():
        bob.git("checkout", "-q", rev)
        assert bob.file.read_bytes() == data


def test_pushing_to_a_url_and_to_several(alice: Person, bob: Person, host: Path) -> None:
    second = bare(host.parent / "second.git")
    third = bare(host.parent / "third.git")
    alice.git("config", "--add", "remote.origin.pushurl", str(host))
    alice.git("config", "--add", "remote.origin.pushurl", str(second))
    data = alice.save(0)
    alice.push()
    alice.push(third.as_uri(), "HEAD")
    for repository in (host, second, third):
        shutil.rmtree(bob.work, ignore_errors=True)
        bob.clone(repository)
        assert bob.file.read_bytes() == data


def test_clone_then_push_to_a_fork(alice: Person, bob: Person, host: Path) -> None:
    versions = [alice.save(number) for number in range(3)]
    alice.push()
    fork = bare(host.parent / "fork.git")
    bob.clone(host)
    assert len(bob.objects()) < len(alice.objects())
    bob.git("remote", "add", "fork", fork)
    bob.push("fork", "HEAD")

    shutil.rmtree(host)
    carol = Person(bob.root.parent / "carol")
    carol.theta("install")
    carol.clone(fork)
    carol.theta("fetch", "--all")
    assert carol.history() == versions


def test_mirror_then_push_to_a_new_host(
    alice: Person, bob: Person, host: Path, lfs_server: LfsServer
) -> None:
    versions = [alice.save(number) for number in range(2)]
    alice.push()
    new = bare(host.parent / "new.git")
    mirror = bob.root / "mirror.git"
    bob.run("git", "clone", "-q", "--mirror", host, mirror, cwd=bob.root)
    bob.git("remote", "add", "new", new, cwd=mirror)
    lfs_url = f"{lfs_server.url}/team/{host.parent.name}-new"
    bob.git("config", "remote.new.lfsurl", lfs_url, cwd=mirror)
    bob.theta("install", "--local", cwd=mirror)
    bob.git("push", "-q", "--mirror", "new", cwd=mirror)

    shutil.rmtree(host)
    carol = Person(bob.root.parent / "carol")
    carol.theta("install")
    use(carol, lfs_url)
    carol.clone(new)
    carol.theta("fetch", "--all")
    assert carol.history() == versions


def test_repair_after_no_verify(alice: Person, bob: Person, host: Path) -> None:
    versions = [alice.save(0), alice.save(1)]
    alice.push("--no-verify", "origin", "HEAD")
    said = bob.clone(host).stderr
    assert bob.is_left()
    assert "git theta pull" in said
    assert "no remote has" in said

    alice.theta("push", "--all")
    report = bob.json("pull")
    assert [entry["path"] for entry in report["written"]] == [NAME]
    assert bob.file.read_bytes() == versions[1]
    assert bob.git("status", "--porcelain") == ""
    bob.theta("fetch", "--all")
    assert bob.history() == versions


def test_a_colleague_without_the_tool_commits_on_top(
    alice: Person, bob: Person, host: Path
) -> None:
    first = alice.save(0)
    alice.push("--no-verify", "origin", "HEAD")
    dave = Person(alice.root.parent / "dave")
    dave.clone(host)
    assert dave.is_left()
    (dave.work / "notes").write_text("a file beside it")
    dave.commit("on top")
    dave.push()

    alice.git("pull", "-q", "--ff-only", "origin", "main")
    second = alice.save(1)
    alice.push()
    bob.clone(host)
    assert bob.file.read_bytes() == second
    alice.theta("push", "--all")
    bob.theta("fetch", "--all")
    assert bob.history() == [first, second]


def test_commits_however_they_came_about_are_pushed(
    alice: Person, bob: Person, carol: Person, host: Path
) -> None:
    """A pull that merges, a patch that is applied, a model that is removed."""
    alice.save(0)
    alice.push()
    bob.clone(host)
    alice.save(1)
    mail = alice.root / "mail"
    mail.write_text(alice.git("format-patch", "--stdout", "-1"))
    alice.save(2)
    alice.push()
    bob.save(3)
    bob.git("pull", "-q", "--no-rebase", "--no-edit", "origin", "main")
    merged = bob.file.read_bytes()
    assert len(bob.git("log", "-1", "--format=%P").split()) == 2
    bob.git("checkout", "-q", "-b", "mailed", "main~1")
    bob.git("am", "-q", "--3way", mail)
    mailed = bob.file.read_bytes()
    bob.git("checkout", "-q", "-b", "gone")
    bob.git("rm", "-q", NAME)
    bob.git("commit", "-q", "-m", "no model any more")
    bob.push("origin", "main", "mailed", "gone")

    carol.clone(host)
    assert carol.file.read_bytes() == merged
    carol.git("checkout", "-q", "mailed")
    assert carol.file.read_bytes() == mailed
    assert len({merged, mailed}) == 2
    assert NAME not in carol.git("ls-tree", "--name-only", "origin/gone")


def test_a_clone_that_lost_its_store_goes_on(
    alice: Person, bob: Person, carol: Person, host: Path
) -> None:
    """New branches of old commits, a new version, a branch that is deleted."""
    first, second = alice.save(0), alice.save(1)
    alice.push("origin", "HEAD", "HEAD:refs/heads/stale")
    bob.clone(host)
    shutil.rmtree(bob.work / ".git" / "theta")
    bob.push("origin", "HEAD~1:refs/heads/old", ":stale")
    third = bob.save(2)
    bob.push("origin", "HEAD:refs/heads/new")

    carol.clone(host)
    for rev, data in {"old": first, "main": second, "new": third}.items():
        carol.git("checkout", "-q", rev)
        assert carol.file.read_bytes() == data
    assert "stale" not in carol.git("branch", "-r")


def test_cloning_a_working_repository_links_its_objects(alice: Person, bob: Person) -> None:
    data = alice.save(0)
    bob.clone(alice.work)
    assert bob.file.read_bytes() == data
    assert [path.stat().st_ino for path in bob.objects()] == [
        path.stat().st_ino for path in alice.objects()
    ]


def test_a_push_into_a_working_repository(alice: Person, bob: Person) -> None:
    alice.save(0)
    bob.clone(alice.work)
    data = bob.save(1)
    bob.push("origin", "HEAD:refs/heads/from-bob")
    shutil.rmtree(bob.root)
    alice.git("checkout", "-q", "from-bob")
    assert alice.file.read_bytes() == data


def test_a_relative_remote(alice: Person, bob: Person, host: Path) -> None:
    alice.git("remote", "set-url", "origin", os.path.relpath(host, alice.work))
    data = alice.save(0)
    (alice.work / "deep").mkdir()
    alice.push(cwd=alice.work / "deep")
    assert lfs_objects(host)
    alice.git("rm", "-q", "--cached", NAME)
    shutil.rmtree(alice.store())
    alice.git("reset", "-q", "--hard")
    assert alice.file.read_bytes() == data


def test_what_is_not_pushed_is_not_uploaded(alice: Person, host: Path) -> None:
    alice.save(0)
    alice.git("checkout", "-q", "-b", "secret")
    before = {path.name for path in alice.objects()}
    alice.save(1)
    alice.git("checkout", "-q", "main")
    alice.push("origin", "main")
    assert {path.name for path in lfs_objects(host)} == before


def test_one_batch_for_all_files_of_a_clone(
    alice: Person, bob: Person, host: Path, lfs_server: LfsServer
) -> None:
    lfs_url = f"{lfs_server.url}/team/{host.parent.name}"
    use(alice, lfs_url)
    use(bob, lfs_url)
    data = {f"part-{number}.safetensors": alice.write(number, f"part-{number}.safetensors")
            for number in range(5)}  # fmt: skip
    alice.commit()
    alice.push()
    before = len(lfs_server.requests())
    bob.clone(host)
    assert {name: (bob.work / name).read_bytes() for name in data} == data
    asked = [line for line in lfs_server.requests()[before:] if line.endswith("/objects/batch")]
    assert len(asked) == 1
