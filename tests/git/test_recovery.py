"""The ways out of trouble that docs/recovery.md names, followed as they are written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.sandbox import Sandbox, model, without_program

pytestmark = pytest.mark.git

NAME = "model.safetensors"
ONES = np.ones((40, 50))


@pytest.fixture
def shared(repo: Sandbox) -> tuple[Sandbox, bytes, bytes]:
    """Two pushed versions; `origin` is a bare repository beside the work tree."""
    repo.git("init", "-q", "--bare", repo.root / "origin.git")
    repo.git("remote", "add", "origin", f"file://{repo.root / 'origin.git'}")
    first = model(repo.work / NAME)
    repo.commit("first")
    second = model(repo.work / NAME, {"layer.1.weight": ONES})
    repo.commit("second")
    return repo, first, second


def clone(repo: Sandbox, name: str, **options: object) -> Path:
    repo.git("clone", "-q", f"file://{repo.root / 'origin.git'}", repo.root / name, **options)
    return repo.root / name


def test_a_raw_model_in_the_last_commit(sandbox: Sandbox):
    sandbox.init(track="")
    data = model(sandbox.work / NAME)
    sandbox.commit()
    sandbox.theta("track", "*.safetensors")
    assert sandbox.theta("ls-files").stdout == f"! {NAME}\n"
    sandbox.git("add", ".gitattributes")
    sandbox.git("add", "--renormalize", "--", NAME)
    sandbox.git("commit", "--amend", "--no-edit")
    assert sandbox.theta("ls-files").stdout.startswith(f"* {NAME}")
    assert sandbox.git("rev-list", "--count", "HEAD").strip() == "1"
    assert sandbox.git("cat-file", "blob", f"HEAD:{NAME}").startswith('{"git-theta":')
    assert (sandbox.work / NAME).read_bytes() == data
    assert sandbox.git("status", "--short") == ""


def test_old_raw_commits_check_out_as_they_are(sandbox: Sandbox):
    sandbox.init(track="")
    data = model(sandbox.work / NAME)
    sandbox.commit("raw")
    sandbox.theta("track", "*.safetensors")
    sandbox.git("add", "--renormalize", "--", NAME)
    sandbox.commit("kept")
    for rev in ("HEAD~1", "main"):
        sandbox.git("checkout", "-q", rev)
        assert (sandbox.work / NAME).read_bytes() == data


def test_a_clone_before_install(shared: tuple[Sandbox, bytes, bytes]):
    repo, _, second = shared
    repo.git("push", "-q", "origin", "main")
    bare = {"GIT_CONFIG_GLOBAL": str(repo.root / "nobody")}
    (repo.root / "nobody").write_text("")
    there = clone(repo, "there", env=bare)
    assert (there / NAME).read_bytes().startswith(b'{"git-theta":')
    repo.theta("install", cwd=there, env=bare)
    assert repo.theta("ls-files", cwd=there, env=bare).stdout.startswith(f"- {NAME}")
    repo.theta("pull", cwd=there, env=bare)
    assert (there / NAME).read_bytes() == second
    assert repo.git("status", "--short", cwd=there, env=bare) == ""


def test_looking_without_git_theta(shared: tuple[Sandbox, bytes, bytes], tmp_path: Path):
    repo, _, second = shared
    repo.git("branch", "before", "HEAD~1")
    env = without_program(repo.env, "git-theta", tmp_path / "bin")
    repo.run("git", "checkout", "-q", "before", env=env, code=128)
    off = ["-c", "filter.theta.process=", "-c", "filter.theta.smudge="]
    off += ["-c", "filter.theta.required=false"]
    repo.git(*off, "checkout", "-q", "-f", "before", env=env)
    assert (repo.work / NAME).read_bytes().startswith(b'{"git-theta":')
    repo.git("checkout", "-q", "-f", "main")
    assert (repo.work / NAME).read_bytes() == second


def test_missing_objects_come_from_the_remote(shared: tuple[Sandbox, bytes, bytes]):
    repo, first, _ = shared
    repo.git("push", "-q", "origin", "main")
    for path in repo.objects():
        path.unlink()
    repo.theta("fsck", code=4)
    repo.theta("fetch", "--all")
    repo.theta("fsck")
    repo.git("checkout", "-q", "HEAD~1")
    assert (repo.work / NAME).read_bytes() == first


def test_missing_objects_come_from_a_backup(shared: tuple[Sandbox, bytes, bytes]):
    repo, _, second = shared
    for path in repo.objects():
        path.unlink()
    (repo.work / NAME).unlink()
    repo.git("checkout", "--", NAME)
    assert (repo.work / NAME).read_bytes().startswith(b'{"git-theta":')
    (repo.work / NAME).write_bytes(second)
    repo.theta("add", "--force", NAME)
    repo.git("commit", "-q", "-m", "the same model, its objects stored anew")
    (repo.work / NAME).unlink()
    repo.git("checkout", "--", NAME)
    assert (repo.work / NAME).read_bytes() == second
    assert repo.git("status", "--short") == ""


def test_a_push_past_the_hook(shared: tuple[Sandbox, bytes, bytes]):
    repo, first, second = shared
    repo.git("push", "-q", "--no-verify", "origin", "main")
    text = clone(repo, "text")
    assert (text / NAME).read_bytes().startswith(b'{"git-theta":')
    repo.theta("install")
    repo.theta("push", "--all")
    whole = clone(repo, "whole")
    assert (whole / NAME).read_bytes() == second
    repo.git("checkout", "-q", "HEAD~1", cwd=whole)
    assert (whole / NAME).read_bytes() == first
    repo.theta("pull", cwd=text)
    assert (text / NAME).read_bytes() == second


def test_a_damaged_object(shared: tuple[Sandbox, bytes, bytes]):
    repo, _, _ = shared
    repo.git("push", "-q", "origin", "main")
    path = repo.objects()[0]
    damaged = path.read_bytes()[:-1] + b"?"
    path.unlink()  # a file:// remote may share the file itself
    path.write_bytes(damaged)
    told = repo.theta("fsck", code=5).stdout
    assert str(path) in told
    path.unlink()
    repo.theta("fetch", "--all")
    repo.theta("fsck")


def test_a_merge_without_the_driver(shared: tuple[Sandbox, bytes, bytes]):
    repo, _, second = shared
    repo.git("checkout", "-q", "-b", "other", "HEAD~1")
    theirs = model(repo.work / NAME, {"layer.1.weight": ONES * 3})
    repo.commit("third")
    repo.git("checkout", "-q", "main")
    repo.git("config", "--global", "--remove-section", "merge.theta")
    done = repo.run("git", "merge", "other", code=None)
    assert done.returncode != 0
    assert "merge conflict markers" in done.stderr
    repo.theta("install")
    repo.git("checkout", "--", NAME)
    assert (repo.work / NAME).read_bytes() == second
    repo.git("merge", "other", code=1)
    for side, data in (("ours", second), ("theirs", theirs)):
        repo.git("checkout", f"--{side}", "--", NAME)
        assert (repo.work / NAME).read_bytes() == data
    repo.theta("export", f"HEAD:{NAME}", "-o", "ours.bin")
    repo.theta("export", f"MERGE_HEAD:{NAME}", "-o", "theirs.bin")
    assert (repo.work / "ours.bin").read_bytes() == second
    assert (repo.work / "theirs.bin").read_bytes() == theirs


def test_stopping(shared: tuple[Sandbox, bytes, bytes]):
    repo, _, second = shared
    repo.theta("pull")
    repo.theta("untrack", "*.safetensors")
    repo.git("add", "--renormalize", ".")
    repo.git("commit", "-q", "-a", "-m", "whole files again")
    repo.theta("uninstall")
    repo.theta("uninstall", "--local")
    there = repo.root / "there"
    repo.git("clone", "-q", repo.work, there)
    assert (there / NAME).read_bytes() == second


def test_after_a_crash(shared: tuple[Sandbox, bytes, bytes]):
    """Git's lock is there, a file was not reached, a part of an object lies about."""
    repo, first, second = shared
    git_dir = repo.work / ".git"
    (git_dir / "index.lock").write_bytes(b"")
    (git_dir / "theta" / "tmp" / "123-left").write_bytes(b"a part")
    (repo.work / NAME).write_text(repo.git("cat-file", "blob", f"HEAD:{NAME}"))
    assert "index.lock" in repo.run("git", "add", "-A", code=128).stderr
    (git_dir / "index.lock").unlink()
    repo.git("status")
    repo.theta("pull")
    repo.theta("fsck")
    assert (repo.work / NAME).read_bytes() == second
    assert repo.git("status", "--short") == ""
    repo.theta("prune")
    assert list((git_dir / "theta" / "tmp").iterdir()) == []
    assert first != second


def test_an_empty_object_after_a_power_cut(shared: tuple[Sandbox, bytes, bytes]):
    repo, _, second = shared
    for path in repo.objects():
        path.unlink()
        path.write_bytes(b"")
    repo.theta("fsck", code=5)
    repo.theta("add", "--force", NAME)
    (repo.work / NAME).unlink()
    repo.git("checkout", "--", NAME)
    assert (repo.work / NAME).read_bytes() == second


def test_a_damaged_object_of_git(shared: tuple[Sandbox, bytes, bytes]):
    repo, _, _ = shared
    repo.git("push", "-q", "origin", "main")
    blob = repo.git("rev-parse", f"HEAD:{NAME}").strip()
    path = repo.work / ".git" / "objects" / blob[:2] / blob[2:]
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)
    told = repo.theta("fsck", code=5).stdout
    assert f"{NAME} (commit " in told
    assert "Git cannot read this object" in told
    before = repo.objects()
    assert f"Git cannot read object {blob}" in repo.theta("prune", code=5).stderr
    assert repo.objects() == before
    assert blob in repo.run("git", "fsck", "--full", code=None).stderr
    path.rename(repo.root / "damaged")
    repo.git("fetch", "-q", "--refetch", "origin")
    repo.theta("fsck")


def test_a_catalog_in_the_way(shared: tuple[Sandbox, bytes, bytes]):
    repo, _, second = shared
    (repo.work / ".git" / "theta" / "catalog.db").unlink()
    (repo.work / NAME).touch()
    assert repo.git("status", "--short") == ""
    repo.theta("fsck", "--rebuild")
    assert (repo.work / NAME).read_bytes() == second


def test_a_file_written_before_the_index_knew_of_it(repo: Sandbox):
    """Killed between the two, and then `git theta pull`."""
    data = model(repo.work / "m.safetensors")
    repo.commit()
    other = model(repo.work / "other.safetensors", {"layer.1.weight": np.ones((40, 50))})
    repo.commit()
    left = {"GIT_THETA_SKIP_SMUDGE": "1"}
    for name in ("m.safetensors", "other.safetensors"):
        (repo.work / name).unlink()
    repo.git("checkout", "--", ".", env=left)
    (repo.work / "m.safetensors").write_bytes(data)
    changed = other[:-4] + bytes(4)
    (repo.work / "other.safetensors").write_bytes(changed)
    assert repo.git("status", "--porcelain") == " M m.safetensors\n M other.safetensors\n"
    repo.theta("pull")
    assert repo.git("status", "--porcelain") == " M other.safetensors\n"
    assert (repo.work / "m.safetensors").read_bytes() == data
    assert (repo.work / "other.safetensors").read_bytes() == changed
