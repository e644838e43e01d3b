"""`git theta install` and `uninstall`, in each scope."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from git_theta.repo.configuration import WANTED
from tests.sandbox import Sandbox, model, without_program

pytestmark = pytest.mark.git


def configured(sandbox: Sandbox, scope: str) -> dict[str, str]:
    told = sandbox.git("config", f"--{scope}", "-z", "--list", code=None)
    pairs = (item.partition("\n") for item in told.split("\0") if item)
    return {key: value for key, _, value in pairs if key in WANTED or key == "theta.autohooks"}


def test_install_writes_the_users_configuration_once(sandbox: Sandbox):
    first = sandbox.theta("install").stdout
    before = (sandbox.home / ".gitconfig").read_bytes()
    second = sandbox.theta("install").stdout
    assert "now set up" in first
    assert "already set up" in second
    assert (sandbox.home / ".gitconfig").read_bytes() == before
    assert configured(sandbox, "global") == WANTED


def test_install_mends_what_is_wrong(sandbox: Sandbox):
    sandbox.git("config", "--global", "filter.theta.required", "false")
    sandbox.git("config", "--global", "--add", "filter.theta.process", "old one")
    sandbox.git("config", "--global", "--add", "filter.theta.process", "old two")
    sandbox.theta("install")
    assert configured(sandbox, "global") == WANTED


def test_local_needs_a_repository(sandbox: Sandbox):
    done = sandbox.theta("install", "--local", code=3)
    assert "not a Git repository" in done.stderr


def test_local_writes_only_the_repository(sandbox: Sandbox):
    sandbox.init(install=False, track="")
    sandbox.theta("install", "--local")
    assert configured(sandbox, "local") == WANTED
    assert configured(sandbox, "global") == {}
    sandbox.theta("uninstall", "--local")
    assert configured(sandbox, "local") == {}


def test_system_writes_the_machines_file(sandbox: Sandbox, tmp_path: Path):
    env = {"GIT_CONFIG_SYSTEM": str(tmp_path / "system"), "GIT_CONFIG_NOSYSTEM": "0"}
    sandbox.theta("install", "--system", env=env)
    assert "git-theta filter-process" in (tmp_path / "system").read_text()


def test_no_hooks_is_remembered_and_taken_back(sandbox: Sandbox):
    sandbox.init(install=False, track="")
    sandbox.theta("install", "--no-hooks")
    assert configured(sandbox, "global")["theta.autohooks"] == "false"
    assert not (sandbox.work / ".git" / "hooks" / "pre-push").exists()
    sandbox.theta("install")
    assert "theta.autohooks" not in configured(sandbox, "global")
    assert (sandbox.work / ".git" / "hooks" / "pre-push").exists()


def test_uninstall_leaves_other_settings(sandbox: Sandbox):
    sandbox.theta("install")
    sandbox.git("config", "--global", "diff.theta.cachetextconv", "true")
    sandbox.git("config", "--global", "filter.other.clean", "cat")
    sandbox.theta("uninstall")
    assert configured(sandbox, "global") == {}
    assert sandbox.git("config", "--global", "filter.other.clean").strip() == "cat"
    assert sandbox.git("config", "--global", "diff.theta.cachetextconv").strip() == "true"
    assert "nothing of git-theta" in sandbox.theta("uninstall").stdout


def test_uninstall_local_restores_the_former_hook(sandbox: Sandbox):
    sandbox.init(install=False, track="")
    hook = sandbox.work / ".git" / "hooks" / "pre-push"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho mine\n")
    hook.chmod(0o755)
    sandbox.theta("install", "--local")
    assert hook.read_text() != "#!/bin/sh\necho mine\n"
    sandbox.theta("uninstall", "--local")
    assert hook.read_text() == "#!/bin/sh\necho mine\n"
    assert os.access(hook, os.X_OK)


def test_a_file_that_cannot_be_written_is_named(sandbox: Sandbox):
    target = sandbox.home / "nowhere" / "config"
    done = sandbox.theta("install", code=128, env={"GIT_CONFIG_GLOBAL": str(target)})
    assert "cannot be written" in done.stderr
    assert "hint: " in done.stderr
    assert "bug" not in done.stderr


def test_install_says_when_git_will_not_find_it(sandbox: Sandbox, tmp_path: Path):
    program = shutil.which("git-theta", path=sandbox.env["PATH"])
    env = without_program(sandbox.env, "git-theta", tmp_path / "bin")
    done = sandbox.run(str(program), "install", env=env)
    assert "not on your PATH" in done.stderr
    assert str(Path(str(program)).parent) in done.stderr


def test_without_git_theta_nothing_raw_is_committed(repo: Sandbox, tmp_path: Path):
    model(repo.work / "m.safetensors")
    env = without_program(repo.env, "git-theta", tmp_path / "bin")
    done = repo.run("git", "add", "m.safetensors", env=env, code=None)
    assert done.returncode != 0
    assert repo.git("ls-files").split() == []


def test_paths_reach_the_filter_and_the_driver_unharmed(repo: Sandbox):
    name = "we ird'$(touch pwned)\"; -h é.safetensors"
    for number, branch in enumerate(("main", "other")):
        repo.git("checkout", "-q", "--orphan", branch)
        data = model(repo.work / name, {"layer.0.weight": np.full((40, 50), number)})
        repo.commit()
        assert (repo.work / name).read_bytes() == data
    repo.git("merge", "--allow-unrelated-histories", "main", code=1)
    assert not (repo.work / "pwned").exists()
    assert repo.git("diff", "--name-only", "--diff-filter=U", "-z") == f"{name}\0"


def test_single_shot_filters_work_too(repo: Sandbox):
    data = model(repo.work / "m.safetensors")
    repo.commit()
    repo.git("config", "--unset-all", "filter.theta.process", code=None)
    env = {"GIT_CONFIG_COUNT": "0"}
    repo.git("config", "--global", "--unset-all", "filter.theta.process")
    repo.run("git", "checkout-index", "-f", "m.safetensors", env=env)
    (repo.work / "m.safetensors").unlink()
    repo.git("checkout", "--", "m.safetensors")
    assert (repo.work / "m.safetensors").read_bytes() == data
    (repo.work / "m.safetensors").touch()
    assert repo.git("status", "--short") == ""


def test_tensors_stand_in_hunk_headers(repo: Sandbox):
    model(repo.work / "m.safetensors", layers=12)
    repo.commit()
    model(repo.work / "m.safetensors", {"layer.9.weight": np.ones((40, 50))}, layers=12)
    for words, told in ((["diff"], "layer.5.weight"), (["diff", "-U0"], "objects")):
        lines = repo.git(*words, "--no-ext-diff").splitlines()
        heads = [line.rpartition("@@")[2].strip() for line in lines if line.startswith("@@")]
        assert told in heads
        assert all("digest" not in head for head in heads)
    repo.commit()
    assert "layer.5.weight" in repo.git("log", "-p", "-1")
