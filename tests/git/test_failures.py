"""Exit codes and messages, through real processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from git_theta.commands.menu import COMMANDS
from tests.sandbox import Sandbox, model

pytestmark = pytest.mark.git

VISIBLE = [name for name, entry in COMMANDS.items() if entry.section]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--version"], 0),
        (["-h"], 0),
        (["ls-files"], 0),
        (["doctor"], 0),
        ([], 2),
        (["nonsense"], 2),
        (["show"], 2),
        (["show", "--nonsense", "x"], 2),
        (["track", "../x"], 2),
        (["filter-process", "x"], 2),
        (["filter-process"], 128),
        (["completion", "tcsh"], 2),
        (["show", "nothing"], 3),
        (["export", "nothing", "-o", "x"], 3),
        (["untrack", "*.nothing"], 3),
        (["export", "HEAD:m.safetensors", "-o", ".", "--force"], 2),
    ],
)
def test_exit_codes(repo: Sandbox, words: list[str], code: int):
    model(repo.work / "m.safetensors")
    repo.commit()
    done = repo.theta(*words, code=code)
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr


@pytest.mark.parametrize("name", ["ls-files", "show x", "du", "fsck", "track", "export x -o y"])
def test_outside_a_repository(sandbox: Sandbox, name: str):
    done = sandbox.theta(*name.split(), code=3)
    assert done.stderr.startswith("git theta: this is not a Git repository\nhint: ")


@pytest.mark.parametrize("words", ["track *.x", "untrack *.x", "pull", "add x", "merge x"])
def test_in_a_bare_repository(sandbox: Sandbox, words: str):
    bare = sandbox.root / "bare.git"
    sandbox.git("init", "-q", "--bare", bare, cwd=sandbox.root)
    done = sandbox.theta(*words.split(), cwd=bare, code=3)
    assert "fatal" not in done.stderr
    assert not (bare / ".gitattributes").exists()


def test_a_repository_that_is_named_from_elsewhere(repo: Sandbox):
    """As `git --git-dir=... --work-tree=...` has it: paths are those of the work tree."""
    data = model(repo.work / "m.safetensors")
    repo.commit()
    name = repo.work.name
    env = {**repo.env, "GIT_DIR": f"{name}/.git", "GIT_WORK_TREE": name}
    where = repo.work.parent
    assert "m.safetensors" in repo.theta("ls-files", cwd=where, env=env).stdout
    assert "m.safetensors" in repo.theta("show", "m.safetensors", cwd=where, env=env).stdout
    (repo.work / "m.safetensors").unlink()
    repo.theta("restore", "m.safetensors", cwd=where, env=env)
    assert (repo.work / "m.safetensors").read_bytes() == data
    repo.theta("track", "*.elsewhere", cwd=where, env=env)
    assert "*.elsewhere" in (repo.work / ".gitattributes").read_text()
    assert not (where / ".gitattributes").exists()


@pytest.mark.parametrize("name", ["u\u2028n\u0085i", "new\nline"])
def test_a_repository_in_a_directory_of_an_odd_name(repo: Sandbox, name: str):
    """What else counts as the end of a line somewhere is none in what Git says."""
    data = model(repo.work / "m.safetensors")
    repo.commit()
    where = repo.work.rename(repo.root / name)
    assert [row["path"] for row in repo.json("ls-files", cwd=where)] == ["m.safetensors"]
    (where / "m.safetensors").unlink()
    repo.git("checkout", "--", ".", cwd=where)
    assert (where / "m.safetensors").read_bytes() == data
    repo.git("worktree", "add", "-q", "--detach", where / "w\ntree", cwd=where)
    assert (where / "w\ntree" / "m.safetensors").read_bytes() == data
    assert not repo.git("status", "--porcelain", cwd=where / "w\ntree")


def test_names_that_could_be_taken_for_two_lines_are_pushed(repo: Sandbox):
    repo.git("init", "-q", "--bare", repo.root / "r.git")
    branch = "u\u2028n\u0085i"
    repo.git("remote", "add", "origin", repo.root / "r.git")
    repo.git("checkout", "-q", "-b", branch)
    model(repo.work / "a\rHEAD:.gitattributes b.safetensors")
    repo.commit()
    repo.git("push", "-q", "origin", branch)
    stored = {path.name for path in (repo.root / "r.git" / "lfs" / "objects").rglob("*")}
    assert stored >= {path.name for path in repo.objects()}
    told = repo.json("migrate", "import", "*.nothing", "--dry-run")  # lists the branches
    assert told["refs"] == [] or f"refs/heads/{branch}" in told["refs"]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(sandbox: Sandbox, name: str):
    done = sandbox.theta(name, "-h")
    assert "Usage: git theta " in done.stdout
    assert "-h, --help" in done.stdout
    assert len(done.stdout.splitlines()) > 5


def test_the_menu_is_grouped_and_complete(sandbox: Sandbox):
    text = sandbox.theta("-h").stdout
    assert all(re.search(rf"^  {name} ", text, re.MULTILINE) for name in VISIBLE)
    places = [text.index(f"\n{title}:") for title in ("Everyday", "Transfer", "Inspect")]
    assert places == sorted(places)
    assert "filter-process" not in text


def test_a_typo_is_met_with_a_suggestion(sandbox: Sandbox):
    assert "Did you mean 'doctor'?" in sandbox.theta("docter", code=2).stderr


def break_something(repo: Sandbox) -> dict[str, str]:
    """An environment in which a command meets a failure that nobody foresaw."""
    startup = repo.root / "startup"
    startup.mkdir()
    (startup / "sitecustomize.py").write_text(
        "import git_theta.repo.tracked as tracked\n"
        "def broken(*_): raise ZeroDivisionError('unforeseen \\x1b[2J')\n"
        "tracked.staged_blobs = broken\n"
    )
    return {"PYTHONPATH": str(startup), "TMPDIR": str(startup)}


def test_a_bug_is_called_one_and_its_traceback_is_kept(repo: Sandbox):
    env = break_something(repo)
    done = repo.theta("ls-files", code=128, env=env)
    assert "this is a bug in git-theta" in done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr
    saved = re.search(r"traceback in (\S+)", done.stderr)
    assert saved is not None
    assert "ZeroDivisionError: unforeseen" in Path(saved[1]).read_text()


@pytest.mark.parametrize("how", ["-v", "GIT_THETA_DEBUG"])
def test_a_traceback_is_shown_when_asked_for(repo: Sandbox, how: str):
    env = break_something(repo)
    words = ["ls-files", "-v"] if how == "-v" else ["ls-files"]
    done = repo.theta(*words, code=128, env=env | ({} if how == "-v" else {how: "1"}))
    assert "Traceback" in done.stderr


def test_interrupting_is_quiet(repo: Sandbox):
    startup = repo.root / "startup"
    startup.mkdir()
    (startup / "sitecustomize.py").write_text(
        "import git_theta.repo.tracked as tracked, os, time\n"
        "def slow(*_):\n    open(os.environ['READY'], 'w').close(); time.sleep(60)\n"
        "tracked.staged_blobs = slow\n"
    )
    ready = repo.root / "ready"
    env = repo.env | {"PYTHONPATH": str(startup), "READY": str(ready)}
    with subprocess.Popen(
        ["git-theta", "ls-files"], cwd=repo.work, env=env, stderr=subprocess.PIPE, text=True
    ) as process:
        for _ in range(3000):
            if ready.exists():
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (130, "")


def test_a_place_that_cannot_be_written_is_no_bug(repo: Sandbox):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    repo.work.chmod(0o555)
    try:
        done = repo.theta("track", "*.pt", code=128)
    finally:
        repo.work.chmod(0o755)
    assert "Permission denied" in done.stderr
    assert "bug" not in done.stderr


def test_quiet_leaves_only_what_was_asked_for(repo: Sandbox):
    model(repo.work / "m.safetensors")
    repo.commit()
    assert repo.theta("fsck", "-q").stderr == ""
    assert repo.theta("-q", "fsck").stderr == ""
    assert repo.theta("fsck").stderr != ""


def test_completion_in_bash(sandbox: Sandbox):
    script = """
eval "$(git theta completion bash)"
words=(git -c a=b theta "sho"); cword=4; __git_cmd_idx=3
_git_theta; printf '%s\\n' "${COMPREPLY[@]}"
words=(git theta ls-files --); cword=3; __git_cmd_idx=1
_git_theta; printf '%s\\n' "${COMPREPLY[@]}"
COMP_WORDS=(git-theta doc); COMP_CWORD=1
_git_theta_completion git-theta; printf '%s\\n' "${COMPREPLY[@]}"
"""
    found = sandbox.run("bash", "-c", script).stdout.split()
    assert found[0] == "show"
    assert {"--json", "--long", "--help"} <= set(found)
    assert found[-1] == "doctor"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(sandbox: Sandbox, shell: str):
    script = sandbox.theta("completion", shell).stdout
    assert f"_GIT_THETA_COMPLETE={shell}_complete" in script
