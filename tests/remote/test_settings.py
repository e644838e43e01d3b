"""Configuration and environment that lead Git LFS astray when it runs for another repository."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.remote.lfs_server import HEADER, PASSWORD, SECRET, USER, LfsServer
from tests.remote.people import NAME, Person, lfs_objects

pytestmark = pytest.mark.git


@pytest.fixture
def server_url(lfs_server: LfsServer, tmp_path: Path) -> str:
    """The address of a repository on the LFS server."""
    return f"{lfs_server.url}/team/{tmp_path.name}"


def names(files: list[Path]) -> list[str]:
    return [path.name for path in files]


@pytest.mark.parametrize("how", ["option", "local", "global"])
def test_lfs_storage_does_not_swallow_objects(
    alice: Person, bob: Person, host: Path, how: str
) -> None:
    """Set like this, and with GIT_DIR, Git LFS says 100 % and uploads nothing."""
    elsewhere = alice.root / "elsewhere"
    data = alice.save(0)
    word = f"lfs.storage={elsewhere}"
    if how != "option":
        alice.git("config", f"--{how}", *word.split("="))
    options = ["-c", word] if how == "option" else []
    where: list[str | Path] = ["--git-dir", alice.work / ".git", "--work-tree", alice.work]
    alice.git(*options, *where, "push", "-q", "origin", "HEAD", cwd=alice.root)
    if how != "global":  # which Git LFS takes for the storage of the host, too, being on this disk
        assert names(lfs_objects(host)) == names(alice.objects())
        bob.clone(host)
        assert bob.file.read_bytes() == data
    assert not list(alice.store().parents[1].glob("elsewhere*"))

    shutil.rmtree(alice.store())
    alice.file.unlink()
    alice.git(*options, "checkout", "--", NAME)
    assert alice.file.read_bytes() == data


@pytest.mark.parametrize("place", ["work", "linked"])
def test_git_dir_in_the_environment_and_linked_worktrees(
    alice: Person, bob: Person, host: Path, place: str
) -> None:
    alice.save(0)
    linked = alice.root / "linked"
    alice.git("worktree", "add", "-q", "-b", "other", linked)
    folder = alice.work if place == "work" else linked
    alice.work = folder
    data = alice.save(1)
    git_dir = alice.git("rev-parse", "--absolute-git-dir").strip()
    env = {"GIT_DIR": git_dir, "GIT_WORK_TREE": str(folder)}
    alice.run("git", "push", "-q", "origin", "HEAD:main", env=env, cwd=alice.root)
    bob.clone(host)
    assert bob.file.read_bytes() == data


@pytest.mark.parametrize("key", ["lfs.fetchexclude", "lfs.fetchinclude"])
def test_filters_of_git_lfs_do_not_empty_a_fetch(
    alice: Person, bob: Person, host: Path, server_url: str, key: str
) -> None:
    alice.git("config", "lfs.url", server_url)
    data = alice.save(0)
    alice.push()
    value = "*" if key.endswith("exclude") else "nothing/like/this"
    bob.git("config", "--global", key, value, cwd=bob.root)
    bob.git("config", "--global", "lfs.url", server_url, cwd=bob.root)
    bob.clone(host)
    assert bob.file.read_bytes() == data


def test_an_extra_header_reaches_the_server(
    alice: Person, bob: Person, host: Path, lfs_server: LfsServer
) -> None:
    url = f"{lfs_server.url}/guarded/{host.parent.name}"
    header = ["-c", f"http.extraHeader={HEADER}: {SECRET}"]
    alice.git("config", "lfs.url", url)
    data = alice.save(0)
    alice.push(code=1)
    assert alice.git("ls-remote", "origin") == ""
    alice.git(*header, "push", "-q", "origin", "HEAD")

    bob.git("config", "--global", "lfs.url", url, cwd=bob.root)
    bob.clone(host, *header)
    assert bob.file.read_bytes() == data
    shutil.rmtree(bob.work)
    said = bob.clone(host).stderr
    assert bob.is_left()
    assert "could not be fetched" in said
    key = {"GIT_CONFIG_KEY_0": "http.extraHeader", "GIT_CONFIG_VALUE_0": f"{HEADER}: {SECRET}"}
    bob.theta("pull", env={"GIT_CONFIG_COUNT": "1", **key})
    assert bob.file.read_bytes() == data


def test_a_password_from_a_credential_helper(
    alice: Person, bob: Person, host: Path, lfs_server: LfsServer
) -> None:
    url = f"{lfs_server.url}/private/{host.parent.name}"
    for person in (alice, bob):
        person.git("config", "--global", "lfs.url", url, cwd=person.root)
    alice.save(0)
    alice.push(code=1)
    login = url.replace("://", f"://{USER}:{PASSWORD}@").rpartition("/private")[0] + "\n"
    for person in (alice, bob):
        (person.home / ".git-credentials").write_text(login)
        person.git("config", "--global", "credential.helper", "store", cwd=person.root)
    alice.save(1)
    data = alice.save(2)
    alice.push()
    bob.clone(host)
    assert bob.file.read_bytes() == data
    here = bob.objects()
    assert bob.json("push", "--all")["objects"] > len(here)
    assert bob.objects() == here


def test_lfsconfig_in_the_work_tree(
    alice: Person, bob: Person, host: Path, server_url: str, lfs_server: LfsServer
) -> None:
    (alice.work / ".lfsconfig").write_text(f"[lfs]\n\turl = {server_url}\n")
    data = alice.save(0)
    alice.push()
    assert not lfs_objects(host)
    stored = names(lfs_server.object_files(f"team/{server_url.rpartition('/')[2]}"))
    assert stored == names(alice.objects())
    bob.clone(host)
    assert bob.file.read_bytes() == data


def test_configuration_of_the_repository_that_must_not_travel(
    alice: Person, bob: Person, host: Path, server_url: str
) -> None:
    """The shadow repository is bare and has no hooks, whatever the user's says."""
    alice.git("config", "core.worktree", str(alice.work))
    alice.git("config", "safe.bareRepository", "explicit")
    alice.git("config", "--global", "safe.bareRepository", "explicit")
    alice.git("config", "extensions.worktreeConfig", "true")
    alice.git("config", "--worktree", "lfs.url", server_url)
    data = alice.save(0)
    alice.push()
    assert not lfs_objects(host)
    bob.git("config", "--global", "lfs.url", server_url, cwd=bob.root)
    bob.clone(host)
    assert bob.file.read_bytes() == data


def test_objects_at_the_target_are_not_downloaded_to_be_pushed(
    alice: Person, bob: Person, host: Path, server_url: str, lfs_server: LfsServer
) -> None:
    alice.git("config", "lfs.url", server_url)
    versions = [alice.save(number) for number in range(3)]
    alice.push()
    bob.git("config", "--global", "lfs.url", server_url, cwd=bob.root)
    bob.clone(host)
    here = bob.objects()
    report = bob.json("push", "--all")
    assert report["objects"] == len(alice.objects())
    assert bob.objects() == here
    bob.theta("fetch", "--all")
    assert bob.history() == versions


def test_partial_and_shallow_clones(alice: Person, bob: Person, host: Path) -> None:
    alice.git("config", "uploadpack.allowFilter", "true", cwd=host)
    alice.save(0)
    alice.save(1)
    data = alice.save(2)
    alice.push()
    for option in ("--filter=blob:none", "--depth=1"):
        shutil.rmtree(bob.work, ignore_errors=True)
        bob.run("git", "clone", "-q", option, host.as_uri(), bob.work, cwd=bob.root)
        assert bob.file.read_bytes() == data
        data = bob.save(3)
        bob.push()
        alice.git("pull", "-q", "--ff-only", "origin", "main")
        assert alice.file.read_bytes() == data
        data = alice.save(len(option))
        alice.push()


def test_several_processes_make_the_shadow_repository_at_once(
    alice: Person, host: Path, server_url: str
) -> None:
    alice.git("config", "lfs.url", server_url)
    data = alice.save(0)
    alice.push()
    shutil.rmtree(alice.work / ".git" / "theta")
    alice.store().mkdir(parents=True)
    command = ["git-theta", "fetch", "-q"]
    running = [subprocess.Popen(command, cwd=alice.work, env=alice.env) for _ in range(4)]
    assert [process.wait(timeout=60) for process in running] == [0] * 4
    alice.file.unlink()
    alice.git("checkout", "--", NAME)
    assert alice.file.read_bytes() == data
    shadow = alice.work / ".git" / "theta" / "lfs.git"
    assert "true" in alice.git("rev-parse", "--is-bare-repository", cwd=shadow)
    assert not list((alice.work / ".git" / "theta" / "tmp").iterdir())
