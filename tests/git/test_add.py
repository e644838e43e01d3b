"""`git theta add`: what is staged, how it is stored, and what is refused."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from git_theta.commands.session import Session
from git_theta.commands.staging import add_file, stage, stored_version
from git_theta.core.manifest import parse
from git_theta.repo.gitrepo import Repo
from tests.sandbox import Sandbox, model

pytestmark = pytest.mark.git

SHAPE = (40, 50)


def noise(seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SHAPE).astype("<f4")


def cleans(repo: Sandbox, *words: str, cwd: Path | None = None) -> int:
    """How often Git runs the filter for a command."""
    trace = repo.root / "trace"
    trace.unlink(missing_ok=True)
    repo.git(*words, env={"GIT_TRACE": str(trace)}, cwd=cwd)
    text = trace.read_text() if trace.exists() else ""
    return text.count("filter-process")


def age(path: Path) -> None:
    """Make a file older than any index that is written now."""
    before = time.time() - 10
    os.utime(path, (before, before))


def test_add_stages_what_git_add_would(repo: Sandbox):
    path = repo.work / "m.safetensors"
    model(path)
    age(path)
    done = repo.theta("add", "m.safetensors")
    assert "staged" in done.stderr
    ours = repo.git("ls-files", "-s")
    assert cleans(repo, "status", "--porcelain") == 0
    repo.git("rm", "-q", "--cached", "m.safetensors")
    repo.git("add", "m.safetensors")
    assert repo.git("ls-files", "-s") == ours


def test_force_heals_a_version_whose_objects_are_gone(repo: Sandbox):
    data = model(repo.work / "m.safetensors")
    repo.commit()
    for path in repo.objects():
        path.unlink()
    repo.git("add", "--renormalize", "m.safetensors")
    repo.theta("fsck", code=4)
    repo.theta("add", "--force", "m.safetensors")
    (repo.work / "m.safetensors").unlink()
    repo.git("checkout", "--", "m.safetensors")
    assert (repo.work / "m.safetensors").read_bytes() == data
    assert all(entry["here"] for entry in repo.json("show", "m.safetensors")["objects"])


def test_a_plain_add_later_keeps_what_force_made(repo: Sandbox):
    path = repo.work / "m.safetensors"
    model(path)
    repo.commit()
    model(path, {"layer.0.weight": noise()})
    repo.commit()
    repo.theta("add", "--update", "dense", "m.safetensors")
    forced = repo.git("ls-files", "-s")
    path.write_bytes(path.read_bytes())
    assert cleans(repo, "add", "m.safetensors") == 1
    assert repo.git("ls-files", "-s") == forced
    repo.git("commit", "-q", "--allow-empty", "-m", "forced")
    repo.git("rm", "-q", "--cached", "m.safetensors")
    repo.git("add", "m.safetensors")
    assert repo.git("ls-files", "-s") == forced


def test_a_kind_of_update_is_forced_or_left_out(repo: Sandbox):
    path = repo.work / "m.safetensors"
    model(path)
    repo.commit()
    weight = np.frombuffer(path.read_bytes()[-8000:], "<f4").reshape(SHAPE).copy()
    weight[3, 4] = 2
    model(path, {"layer.3.weight": weight})
    for asked, kind in (("sparse", "sparse"), ("dense", "dense"), ("delta,dense", "delta")):
        repo.theta("add", "m.safetensors", "--update", asked)
        tensors = repo.json("show", "m.safetensors")["tensors"]
        assert tensors[3]["kinds"] == [kind]
    repo.theta("add", "m.safetensors", "--update", "-sparse")
    assert repo.json("show", "m.safetensors")["tensors"][3]["kinds"] != ["sparse"]
    done = repo.theta("add", "m.safetensors", "--update", "nonsense", code=2)
    assert "nonsense" in done.stderr


def test_paths_directories_and_patterns(repo: Sandbox):
    for name in ("a/x", "a/y", "b/z"):
        model(repo.work / f"{name}.safetensors")
    (repo.work / "a" / "readme").write_text("x")
    below = repo.work / "a"
    assert [r["path"] for r in repo.json("add", ".", cwd=below)] == [
        "a/x.safetensors",
        "a/y.safetensors",
    ]
    assert repo.git("diff", "--cached", "--name-only").split() == [
        "a/x.safetensors",
        "a/y.safetensors",
    ]
    reports = repo.json("add", ":(top)b/*.safetensors", "../a/x.safetensors", cwd=below)
    assert [r["path"] for r in reports] == ["b/z.safetensors", "a/x.safetensors"]
    assert reports[0]["size"] == (repo.work / "b/z.safetensors").stat().st_size


def test_what_cannot_be_added(repo: Sandbox):
    (repo.work / "notes.txt").write_text("x")
    model(repo.work / "m.bin")
    model(repo.work / "hidden.safetensors")
    (repo.work / ".gitignore").write_text("hidden*\n")
    (repo.work / "link.safetensors").symlink_to("hidden.safetensors")
    (repo.work / "empty").mkdir()
    for words, code, told in (
        (["notes.txt"], 3, "git theta track '*.txt'"),
        (["m.bin"], 3, "git theta track '*.bin'"),
        (["hidden.safetensors"], 3, "is ignored"),
        (["link.safetensors"], 7, "is not a regular file"),
        (["nothing.safetensors"], 3, "finds no file"),
        (["empty"], 3, "finds no file"),
        (["../outside.safetensors"], 2, "outside"),
        (["notes.txt", "--rank", "3"], 2, "--lossy"),
        (["notes.txt", "--lossy", "--from", "x"], 2, "do not go together"),
        ([], 2, "PATH"),
    ):
        done = repo.theta("add", *words, code=code)
        assert told in done.stderr
        assert "Traceback" not in done.stderr
    assert repo.git("ls-files") == ""


def test_a_file_of_a_repository_within_is_not_called_ignored(repo: Sandbox):
    repo.git("init", "-q", "sub")
    repo.theta("track", "*.safetensors", cwd=repo.work / "sub")
    model(repo.work / "sub" / "in.safetensors")
    repo.git("add", "-A", cwd=repo.work / "sub")
    repo.git("commit", "-q", "-m", "within", cwd=repo.work / "sub")
    repo.git("-c", "advice.addEmbeddedRepo=false", "add", "sub")
    said = repo.theta("add", "sub/in.safetensors", code=3).stderr
    assert "is in another repository, or in a submodule" in said
    hint = said.split("hint: ")[1].split()
    repo.run(*hint)


def test_modes_and_conflicts(repo: Sandbox):
    path = repo.work / "m.safetensors"
    model(path)
    path.chmod(0o755)
    repo.theta("add", "m.safetensors")
    assert repo.git("ls-files", "-s").startswith("100755")
    repo.git("config", "core.fileMode", "false")
    path.chmod(0o644)
    repo.theta("add", "m.safetensors")
    assert repo.git("ls-files", "-s").startswith("100755")
    oid = repo.git("ls-files", "-s").split()[1]
    lines = "".join(f"100644 {oid} {stage}\tm.safetensors\n" for stage in (1, 2, 3))
    repo.git("rm", "-q", "--cached", "m.safetensors")
    subprocess.run(
        ["git", "update-index", "--index-info"], cwd=repo.work, env=repo.env, check=True,
        input=lines, text=True,
    )  # fmt: skip
    assert len(repo.git("ls-files", "-u").splitlines()) == 3
    repo.theta("add", "m.safetensors")
    assert repo.git("ls-files", "-u") == ""


def test_another_index_and_another_worktree(repo: Sandbox):
    model(repo.work / "m.safetensors")
    repo.commit()
    data = model(repo.work / "m.safetensors", {"layer.0.weight": noise()})
    other = {"GIT_INDEX_FILE": str(repo.root / "other")}
    repo.git("read-tree", "HEAD", env=other)
    repo.theta("add", "m.safetensors", env=other)
    assert repo.git("diff", "--cached", "--name-only", env=other) == "m.safetensors\n"
    assert repo.git("diff", "--cached", "--name-only") == ""
    tree = repo.root / "tree"
    repo.git("worktree", "add", "-q", tree)
    (tree / "m.safetensors").write_bytes(data)
    age(tree / "m.safetensors")
    repo.theta("add", "--force", "m.safetensors", cwd=tree)
    assert repo.git("status", "--porcelain", cwd=tree) == "M  m.safetensors\n"
    assert cleans(repo, "status", "--porcelain", cwd=tree) == 0


def test_one_session_sees_what_it_staged(repo: Sandbox, monkeypatch: pytest.MonkeyPatch):
    """What reads Git's objects in the long run reads the index once."""
    for name, value in repo.env.items():
        monkeypatch.setenv(name, value)
    session = Session(Repo.find(repo.work))
    for number in range(3):
        model(repo.work / "m.safetensors", {"layer.0.weight": noise(number)})
        (report,) = made = [add_file(session, "m.safetensors", lambda _: None)]
        stage(session.repo, made)
        found = session.repo.objects.read(":0:m.safetensors")
        assert found is not None
        assert found[0] == report.blob
        assert stored_version(session, "m.safetensors") == parse(found[1])
    session.close()


def test_quiet_and_json(repo: Sandbox):
    model(repo.work / "m.safetensors")
    done = repo.theta("add", "-q", "m.safetensors")
    assert done.stdout == ""
    assert "staged" not in done.stderr
    (report,) = repo.json("add", "--force", "m.safetensors")
    assert set(report) == {"path", "blob", "size", "stored", "kinds", "tensors"}
    assert report["stored"] == sum(report["kinds"].values())
    assert report["blob"] == repo.git("ls-files", "-s").split()[1]
