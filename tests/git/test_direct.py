"""Large files are written by the filter itself, at the end of the Git command."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from git_theta.core.manifest import is_manifest
from tests.sandbox import Sandbox, model

pytestmark = pytest.mark.git
NAME = "m.safetensors"


@pytest.fixture
def two(repo: Sandbox) -> tuple[Sandbox, list[bytes]]:
    """Two commits of a file that counts as large here."""
    repo.git("config", "--global", "theta.directFrom", "1k")
    versions = [model(repo.work / NAME)]
    repo.commit("one")
    versions.append(model(repo.work / NAME, layers=5))
    repo.commit("two")
    return repo, versions


def cleans(repo: Sandbox, *words: str) -> int:
    """How often Git runs the clean filter during a command."""
    trace = repo.root / "trace"
    trace.unlink(missing_ok=True)
    repo.git(*words, env={"GIT_TRACE_PACKET": str(trace)})
    return trace.read_text().count("command=clean") if trace.exists() else 0


@pytest.mark.parametrize(
    "words",
    [
        ["checkout", "-q", "HEAD~1"],
        ["switch", "-q", "--detach", "HEAD~1"],
        ["reset", "-q", "--hard", "HEAD~1"],
        ["checkout", "HEAD~1", "--", NAME],
        ["restore", "--source=HEAD~1", "--staged", "--worktree", NAME],
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("version", ["2", "4"])
def test_the_file_is_there_and_the_index_knows_it(two, words, version):
    repo, versions = two
    repo.git("update-index", "--index-version", version)
    repo.git(*words)
    assert (repo.work / NAME).read_bytes() == versions[0]
    assert cleans(repo, "status", "--porcelain") == 0
    assert NAME not in repo.git("diff", "--name-only")
    repo.git("fsck")


def test_a_clone_and_a_worktree(two):
    repo, versions = two
    repo.git("clone", "-q", repo.work, repo.root / "clone", cwd=repo.root)
    repo.git("worktree", "add", "-q", repo.root / "tree", "HEAD~1")
    assert (repo.root / "clone" / NAME).read_bytes() == versions[1]
    assert (repo.root / "tree" / NAME).read_bytes() == versions[0]
    for place in ("clone", "tree"):
        assert repo.git("status", "--porcelain", cwd=repo.root / place) == ""


def test_a_hook_that_git_still_runs_sees_the_file(two):
    repo, versions = two
    seen = repo.root / "seen"
    hook = repo.work / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ncp {NAME} {seen}\n")
    hook.chmod(0o755)
    repo.git("checkout", "-q", "HEAD~1")
    assert seen.read_bytes() == versions[0]


def test_a_program_that_rebase_runs_sees_the_file(two):
    repo, _ = two
    seen = repo.root / "seen"
    repo.git("rebase", "-q", "-f", "--exec", f"head -c 64 {NAME} >> {seen}", "HEAD~1")
    assert not is_manifest(seen.read_bytes())


def test_a_missing_object_leaves_the_manifest_and_says_so(two):
    repo, versions = two
    repo.git("checkout", "-q", "HEAD~1")
    kept = {path: path.read_bytes() for path in repo.objects()}
    for path in kept:
        path.unlink()
    done = repo.run("git", "checkout", "-q", "main")
    assert "left as a manifest" in done.stderr
    assert f"git theta pull -- {NAME}" in done.stderr
    assert is_manifest((repo.work / NAME).read_bytes())
    assert repo.git("status", "--porcelain") == ""
    for path, data in kept.items():
        path.write_bytes(data)
    repo.theta("pull", NAME)
    assert (repo.work / NAME).read_bytes() == versions[1]


def test_a_damaged_object_writes_nothing_wrong(two):
    repo, _ = two
    repo.git("checkout", "-q", "HEAD~1")
    for path in repo.objects():
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.chmod(0o644)
        path.write_bytes(data)
    done = repo.run("git", "checkout", "-q", "main")
    assert "left as a manifest" in done.stderr
    assert is_manifest((repo.work / NAME).read_bytes())


def test_the_executable_bit_stays(two):
    repo, _ = two
    (repo.work / NAME).chmod(0o755)
    repo.commit("executable")
    repo.git("checkout", "-q", "HEAD~1")
    repo.git("checkout", "-q", "main")
    assert (repo.work / NAME).stat().st_mode & 0o111
    assert repo.git("status", "--porcelain") == ""


def test_another_staged_manifest_is_not_passed_off_as_the_file(two):
    """A manifest that lies in the tree while another is staged: the file shows as modified."""
    repo, versions = two
    text = repo.git("cat-file", "blob", f"HEAD~1:{NAME}")
    (repo.work / NAME).write_text(text)
    repo.theta("pull", NAME)
    assert (repo.work / NAME).read_bytes() == versions[0]
    assert repo.git("status", "--porcelain") == f" M {NAME}\n"


@pytest.mark.parametrize("words", [["pull"], ["checkout", "-q", "-"]], ids=" ".join)
def test_what_changed_in_the_second_of_the_index_is_seen(two, words):
    """Git compares such a file, for being no older than the index; ours is younger than both."""
    repo, versions = two
    repo.git("checkout", "-q", "-b", "side")
    repo.git("config", "core.trustctime", "false")  # a change time cannot be set
    texts = {name: repo.work / name for name in ("changed.txt", "same.txt")}
    second = int(time.time()) - 100
    for path in texts.values():
        path.write_text("before")
        os.utime(path, ns=(0, second * 10**9))
    repo.commit("with texts")
    repo.git("branch", "-f", "main")
    (repo.work / NAME).write_text(repo.git("cat-file", "blob", f"HEAD:{NAME}"))
    repo.git("add", NAME)
    os.utime(repo.work / ".git" / "index", (second, second))
    texts["changed.txt"].write_text("behind")
    os.utime(texts["changed.txt"], ns=(0, second * 10**9 + 5))
    repo.theta(*words)
    assert (repo.work / NAME).read_bytes() == versions[1]
    assert repo.git("diff-files", "--name-only") == "changed.txt\n"
    assert cleans(repo, "status", "--porcelain") == 0
    assert repo.git("status", "--porcelain") == " M changed.txt\n"


def test_memory_of_git_is_that_of_the_manifest(repo: Sandbox):
    """A file of 500 MB passes through neither Git's memory nor, whole, through the filter's."""
    repo.git("config", "theta.threads", "2")  # each one more takes its share of memory
    path = repo.work / "big.safetensors"
    header = b'{"w":{"dtype":"F32","shape":[131072000],"data_offsets":[0,524288000]}}'
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 524288000)
    repo.commit()
    path.unlink()
    script = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    words = [sys.executable, "-c", script, "git", "checkout", "-q", "--", path.name]
    done = subprocess.run(words, cwd=repo.work, env=repo.env, capture_output=True, check=True)
    assert path.stat().st_size == 8 + len(header) + 524288000
    assert int(done.stdout) < 400_000
    assert Path(path).read_bytes()[:8] == len(header).to_bytes(8, "little")
