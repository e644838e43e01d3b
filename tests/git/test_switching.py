"""`git theta switch` and its like: Git's commands, with new versions made out of old files."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import benchmarks.reflinks
import benchmarks.sandbox
from git_theta.commands.patch import foresee, make_ahead
from git_theta.commands.session import Session
from git_theta.core.manifest import is_manifest
from git_theta.repo import keeping
from git_theta.repo.gitrepo import Repo
from git_theta.settings import KEPT
from tests.sandbox import Sandbox, model

pytestmark = pytest.mark.git
NAME = "m.safetensors"


@pytest.fixture
def two(repo: Sandbox) -> tuple[Sandbox, list[bytes]]:
    """Two commits of a file that counts as large here, and a branch at each."""
    repo.git("config", "--global", "theta.directFrom", "1k")
    versions = [model(repo.work / NAME, layers=12)]
    repo.commit("one")
    repo.git("branch", "one")
    versions.append(model(repo.work / NAME, {"layer.3.weight": np.ones((40, 50))}, layers=12))
    # Git compares what was written in the second of its index, and would not trust this one.
    os.utime(repo.work / NAME, (time.time() - 60, time.time() - 60))
    repo.commit("two")
    return repo, versions


def cleans(repo: Sandbox, *words: str) -> int:
    """How often Git runs the clean filter during a command."""
    trace = repo.root / "trace"
    trace.unlink(missing_ok=True)
    repo.git(*words, env={"GIT_TRACE_PACKET": str(trace)})
    return trace.read_text().count("command=clean") if trace.exists() else 0


def leftovers(repo: Sandbox) -> list[str]:
    """What lies in the scratch directory, but for notes to the diff driver, which stay there."""
    names = [path.name for path in (repo.work / ".git/theta/tmp").iterdir()]
    return [name for name in names if not name.startswith("diff-")]


@pytest.mark.parametrize(
    "words",
    [
        ["switch", "-q", "one"],
        ["switch", "-q", "--detach", "HEAD~1"],
        ["checkout", "-q", "one"],
        ["checkout", "-q", "-b", "new", "HEAD~1"],
        ["checkout", "one", "--", NAME],
        ["restore", "--source=one", "--staged", "--worktree", NAME],
        ["restore", "-s", "HEAD~1", "--staged", "--worktree", "."],
    ],
    ids=" ".join,
)
def test_the_old_file_becomes_the_new_one(two, words):
    repo, versions = two
    inode = (repo.work / NAME).stat().st_ino
    repo.theta(*words)
    assert (repo.work / NAME).read_bytes() == versions[0]
    assert (repo.work / NAME).stat().st_ino == inode
    assert (repo.work / NAME).stat().st_nlink == 1
    assert cleans(repo, "status", "--porcelain") == 0
    assert repo.git("diff", "--name-only") == ""
    assert leftovers(repo) == []


def test_forth_and_back_with_other_lengths(two):
    repo, versions = two
    versions.append(model(repo.work / NAME, layers=3))
    repo.commit("three")
    versions.append(model(repo.work / NAME, layers=14))
    repo.commit("four")
    for number in (0, 3, 1, 2, 0, 2, 3):
        repo.theta("checkout", "-q", "--detach", f"main~{3 - number}")
        assert (repo.work / NAME).read_bytes() == versions[number]
        assert repo.git("status", "--porcelain") == ""


def test_a_program_that_has_the_old_model_mapped_keeps_it(two):
    repo, versions = two
    with (repo.work / NAME).open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    repo.theta("switch", "-q", "one")
    assert mapped[:] == versions[1]
    assert (repo.work / NAME).read_bytes() == versions[0]
    mapped.close()


def test_another_name_of_the_old_file_keeps_its_content(two):
    repo, versions = two
    os.link(repo.work / NAME, repo.root / "deployed")
    repo.git("update-index", "--refresh")
    repo.theta("switch", "-q", "one")
    assert (repo.root / "deployed").read_bytes() == versions[1]
    assert (repo.work / NAME).read_bytes() == versions[0]


def test_an_old_file_that_was_altered_unseen_is_not_built_on(two):
    repo, versions = two
    path = repo.work / NAME
    seen = path.stat()
    data = bytearray(versions[1])
    data[-5] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    repo.git("config", "core.trustctime", "false")
    repo.theta("switch", "-q", "one")
    assert path.read_bytes() == versions[0]


@pytest.mark.parametrize("altered", [False, True])
def test_what_was_foreseen_is_for_the_file_that_was_read(two, altered, monkeypatch):
    repo, versions = two
    path, kept = repo.work / NAME, repo.root / "kept"
    kept.mkdir()
    monkeypatch.setenv(KEPT, str(kept))
    text = repo.git("cat-file", "blob", f"one:{NAME}").encode()
    keeping.describe(kept, NAME, repo.git("cat-file", "blob", f"main:{NAME}").encode())
    old = keeping.place_for(kept, NAME)
    old.hardlink_to(path)
    session = Session(Repo.find(repo.work))
    make_ahead(session, NAME, text)
    assert not session.ahead  # Git still has the file
    foresee(session, NAME, text, lambda _: None)
    assert session.foreseen
    path.unlink()
    if altered:
        with old.open("r+b") as file:
            file.seek(-5, os.SEEK_END)
            file.write(b"12345")
    else:  # all that is needed was read
        (repo.work / ".git/theta/lfs.git").rename(repo.root / "away")
    make_ahead(session, NAME, text)
    session.close()
    assert not session.foreseen
    if altered:
        assert not session.ahead
    else:
        assert session.ahead[NAME, text].read_bytes() == versions[0]


def test_what_git_refuses_stays_as_it_is_and_known(two):
    repo, versions = two
    (repo.work / "other.txt").write_text("1")
    repo.commit("with another file")
    repo.git("switch", "-qc", "third", "one")
    (repo.work / "other.txt").write_text("in the way")
    repo.theta("switch", "main", code=1)
    assert (repo.work / NAME).read_bytes() == versions[0]
    assert cleans(repo, "diff", "--name-only") == 0
    assert leftovers(repo) == []


def test_a_modified_file_is_gits_business(two):
    repo, versions = two
    model(repo.work / NAME, {"layer.1.weight": np.zeros((40, 50))}, layers=12)
    done = repo.theta("switch", "one", code=1)
    assert "would be overwritten" in done.stderr
    repo.theta("checkout", "-q", "-f", "one")
    assert (repo.work / NAME).read_bytes() == versions[0]


def test_from_a_directory_below_and_to_the_branch_before(two):
    repo, versions = two
    below = repo.work / "below"
    below.mkdir()
    repo.theta("switch", "-q", "one", cwd=below)
    repo.theta("switch", "-q", "-", cwd=below)
    assert (repo.work / NAME).read_bytes() == versions[1]


def test_a_hook_sees_the_file(two):
    repo, versions = two
    seen = repo.root / "seen"
    hook = repo.work / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ncp {NAME} {seen}\n")
    hook.chmod(0o755)
    repo.theta("switch", "-q", "one")
    assert seen.read_bytes() == versions[0]


def test_killed_at_any_moment_the_file_can_be_had_again(two):
    repo, versions = two
    for delay in (0.05, 0.2, 0.3, 0.4, 0.5, 0.6):
        words = ["git", "theta", "switch", "-q", "--detach", "one"]
        process = subprocess.Popen(
            words, cwd=repo.work, env=repo.env, start_new_session=True, stderr=subprocess.DEVNULL
        )
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        (repo.work / ".git" / "index.lock").unlink(missing_ok=True)
        (repo.work / ".git" / "HEAD.lock").unlink(missing_ok=True)
        path = repo.work / NAME
        if path.exists():
            data = path.read_bytes()
            assert data in versions or is_manifest(data)
        repo.git("checkout", "-q", "-f", "main")
        assert path.read_bytes() == versions[1]
    repo.theta("switch", "-q", "one")
    assert leftovers(repo) == []


def test_messages_and_codes_are_gits(two):
    repo, _ = two
    done = repo.theta("switch", "nowhere", code=128)
    assert "invalid reference" in done.stderr
    assert "git theta switch" in repo.theta("switch", "--help").stdout


def test_in_a_worktree_of_its_own(two, tmp_path: Path):
    repo, versions = two
    tree = tmp_path / "tree"
    repo.git("worktree", "add", "-q", "--detach", tree, "main")
    repo.theta("checkout", "-q", "--detach", "one", cwd=tree)
    assert (tree / NAME).read_bytes() == versions[0]
    assert repo.git("status", "--porcelain", cwd=tree) == ""


def test_a_file_that_was_not_there_is_written_beside_git(two):
    repo, versions = two
    repo.git("checkout", "-q", "--orphan", "empty")
    repo.git("rm", "-rqf", "--", NAME)
    repo.commit("no model")
    repo.theta("checkout", "-q", "main")
    assert (repo.work / NAME).read_bytes() == versions[1]
    assert (repo.work / NAME).stat().st_mode & 0o777 == 0o644
    assert cleans(repo, "status", "--porcelain") == 0
    repo.git("checkout", "-q", "empty")
    (repo.work / NAME).write_text("in the way")
    assert "would be overwritten" in repo.theta("checkout", "main", code=1).stderr
    assert (repo.work / NAME).read_text() == "in the way"
    assert leftovers(repo) == []


def test_a_submodules_files_are_the_filters_business(two):
    """Git runs other Gits in submodules, whose files nobody writes later."""
    repo, versions = two
    outer = repo.root / "outer"
    repo.git("init", "-q", outer)
    always = ("-c", "protocol.file.allow=always")
    repo.git(*always, "submodule", "add", "-q", repo.work, "sub", cwd=outer)
    repo.git("-C", "sub", "checkout", "-q", "one", cwd=outer)
    repo.git("add", "-A", cwd=outer)
    repo.git("commit", "-qm", "one", cwd=outer)
    repo.git("-C", "sub", "checkout", "-q", "main", cwd=outer)
    repo.git("commit", "-qam", "two", cwd=outer)
    repo.theta("checkout", "-q", "--recurse-submodules", "HEAD~1", cwd=outer)
    assert (outer / "sub" / NAME).read_bytes() == versions[0]


@pytest.mark.soak
def test_where_files_can_share_blocks(two, tmp_path: Path):
    """A copy is made new while Git works, and whoever has the old file open keeps it."""
    repo, versions = two
    place = benchmarks.sandbox.Sandbox(tmp_path / "box")
    try:
        with benchmarks.reflinks.mounted(place, 1 << 30) as where:
            clone = place.root / where.folder / "clone"
            repo.git("clone", "-q", repo.work, clone)
            with (clone / NAME).open("rb") as file:
                repo.theta("checkout", "-q", "--detach", "main~1", cwd=clone)
                assert file.read() == versions[1]
            assert (clone / NAME).read_bytes() == versions[0]
            assert repo.git("status", "--porcelain", cwd=clone) == ""
            repo.theta("fsck", cwd=clone)
    except benchmarks.sandbox.RunError as error:
        pytest.skip(str(error))
