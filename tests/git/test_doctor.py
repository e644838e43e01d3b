"""`git theta doctor`: each fault is found, and its remedy mends it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox import Sandbox, model, without_program

pytestmark = pytest.mark.git


def faults(sandbox: Sandbox, status: str = "fault", **options: Any) -> dict[str, str]:
    """What doctor finds, by check: its message and remedy in one text."""
    found = sandbox.json("doctor", code=None, **options)["findings"]
    bad = [finding for finding in found if finding["status"] == status]
    assert all(finding["remedy"] for finding in bad)
    return {finding["check"]: f"{finding['message']} -> {finding['remedy']}" for finding in bad}


def test_a_good_set_up_has_no_faults(repo: Sandbox):
    model(repo.work / "m.safetensors")
    repo.commit()
    done = repo.theta("doctor")
    assert "No faults found." in done.stderr
    assert repo.json("doctor")["faults"] == 0


def test_outside_a_repository_the_machine_is_checked(sandbox: Sandbox):
    assert "git theta install" in faults(sandbox)["configuration"]
    sandbox.theta("doctor", code=1)
    sandbox.theta("install")
    sandbox.theta("doctor")


def test_missing_programs(repo: Sandbox, tmp_path: Path):
    program = shutil.which("git-theta", path=repo.env["PATH"])
    env = without_program(repo.env, "git-theta", tmp_path / "bin")
    done = repo.run(str(program), "doctor", env=env, code=1)
    assert "git-theta is not on PATH" in done.stdout
    env = without_program(repo.env, "git-lfs", tmp_path / "bin2")
    assert "git-lfs is not installed" in faults(repo, "warning", env=env)["git-lfs"]
    repo.git("remote", "add", "origin", "file:///nowhere")
    assert "git-lfs is not installed" in faults(repo, env=env)["git-lfs"]


def test_another_version_on_path(repo: Sandbox, tmp_path: Path):
    program = shutil.which("git-theta", path=repo.env["PATH"])
    other = tmp_path / "bin" / "git-theta"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\necho git-theta 0.0.9\n")
    other.chmod(0o755)
    env = {"PATH": f"{other.parent}:{repo.env['PATH']}"}
    done = repo.run(str(program), "doctor", env=env, code=1)
    assert "git-theta 0.0.9" in done.stdout


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("filter.theta.required", "false"),
        ("filter.theta.process", "something else"),
        ("merge.theta.driver", "true"),
    ],
)
def test_configuration_that_is_shadowed(repo: Sandbox, key: str, value: str):
    repo.git("config", "--local", key, value)
    told = faults(repo)["configuration"]
    assert key in told
    assert ".git/config" in told
    assert "overrides the right value" in told
    remedy = told.partition(" -> ")[2]
    assert remedy.startswith("git config --local --unset-all")
    repo.run(*remedy.split())
    assert "configuration" not in faults(repo)


def test_a_full_path_to_the_program_is_right(repo: Sandbox):
    program = shutil.which("git-theta", path=repo.env["PATH"])
    repo.git("config", "--global", "filter.theta.process", f"{program} filter-process")
    assert "configuration" not in faults(repo)


def test_hooks_that_are_gone(repo: Sandbox):
    (repo.work / ".git" / "hooks" / "pre-push").unlink()
    assert "pre-push" in faults(repo)["hooks"]
    repo.theta("install")
    assert "hooks" not in faults(repo)


def test_hooks_path_is_honoured(repo: Sandbox):
    repo.git("config", "core.hooksPath", ".husky")
    assert ".husky" in faults(repo)["hooks"]
    repo.theta("install")
    assert "hooks" not in faults(repo)
    assert (repo.work / ".husky" / "pre-push").exists()


def test_raw_files_and_manifests_in_the_work_tree(repo: Sandbox):
    model(repo.work / "raw.bin")
    model(repo.work / "m.safetensors")
    repo.commit()
    repo.theta("track", "*.bin", "-q")
    assert "raw.bin" in faults(repo)["files"]
    repo.git("add", "--renormalize", "--", "raw.bin")
    assert "files" not in faults(repo)
    (repo.work / "m.safetensors").unlink()
    repo.git("checkout", "--", "m.safetensors", env={"GIT_THETA_SKIP_SMUDGE": "1"})
    assert "still a manifest in the work tree: m.safetensors" in faults(repo)["files"]


def test_attributes_that_are_overridden(repo: Sandbox):
    model(repo.work / "m.safetensors")
    repo.commit()
    attributes = repo.work / ".gitattributes"
    ours = attributes.read_text()
    attributes.write_text(ours + "*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
    found = repo.json("doctor", code=1)["findings"]
    told = "\n".join(finding["message"] for finding in found)
    assert "*.safetensors is overridden: filter is lfs" in told
    assert "m.safetensors is a manifest, but its filter is lfs" in told
    attributes.write_text("*.safetensors -filter\n")
    assert "attributes" not in faults(repo)  # somebody keeps the text, and says so
    attributes.write_text("*.safetensors text\n")
    assert "its filter is unset" in faults(repo)["attributes"]
    attributes.write_text(ours + "*.safetensors text\n")
    assert "text=set" in faults(repo, "warning")["attributes"]


def test_settings_that_hurt(repo: Sandbox):
    repo.git("config", "merge.renormalize", "true")
    assert "merge.renormalize" in faults(repo, "warning")["settings"]
    repo.git("config", "theta.smudgeLimit", "a lot")
    assert "theta.smudgelimit is 'a lot'" in faults(repo)["settings"]


def test_objects_that_are_missing_or_borrowed(repo: Sandbox):
    model(repo.work / "m.safetensors")
    repo.commit()
    borrower = repo.root / "borrower"
    repo.git("clone", "-q", "--shared", repo.work, borrower)
    told = faults(repo, "warning", cwd=borrower)["alternates"]
    assert str(repo.work) in told
    for path in repo.objects():
        path.unlink()
    assert "git theta fetch" in faults(repo)["store"]


def test_plugins_that_are_missing(repo: Sandbox):
    model(repo.work / "m.safetensors")
    repo.commit()
    text = repo.git("cat-file", "blob", ":m.safetensors")
    needed = '"plugins": {"git_theta.formats:marvel":"theta-marvel 2.0"},'
    (repo.work / "x.safetensors").write_text(text.replace('"plugins": {},', needed))
    repo.git("add", "x.safetensors")
    assert "pip install theta-marvel" in faults(repo)["plug-ins"]


def test_a_damaged_manifest(repo: Sandbox):
    model(repo.work / "m.safetensors")
    repo.commit()
    text = repo.git("cat-file", "blob", ":m.safetensors").replace(
        '"git-theta": 1', '"git-theta": 9'
    )
    (repo.root / "newer").write_text(text)
    oid = repo.git("hash-object", "-w", "--no-filters", repo.root / "newer").strip()
    repo.git("update-index", "--cacheinfo", f"100644,{oid},m.safetensors")
    assert "pip install --upgrade git-theta" in faults(repo)["files"]
