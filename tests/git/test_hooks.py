"""The pre-push hook: added where it is missing, beside what is there, and taken away again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.sandbox import Sandbox, model, without_program

pytestmark = pytest.mark.git

FOREIGN = """\
#!/bin/sh
# somebody's own
printf '%s\\n' "$@" >"$HOME/arguments"
cat >"$HOME/input"
exit "${FOREIGN_CODE:-0}"
"""


@pytest.fixture
def origin(repo: Sandbox) -> Path:
    """A remote for the repository, and a model to be pushed there, committed but for the hook."""
    path = repo.root / "origin.git"
    repo.git("init", "-q", "--bare", path)
    repo.git("remote", "add", "origin", path)
    model(repo.work / "m.safetensors")
    return path


def hook(repo: Sandbox, folder: str = ".git/hooks") -> Path:
    return repo.work / folder / "pre-push"


def write_hook(path: Path, text: str = FOREIGN) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return text


def is_ours(path: Path) -> bool:
    return "# git-theta hook, version 2" in path.read_text() and os.access(path, os.X_OK)


def has_objects(origin: Path) -> bool:
    return (origin / "lfs" / "objects").is_dir()


@pytest.mark.parametrize("program", ["cksum", "cat"])
def test_no_push_without_objects_where_a_program_is_missing(
    repo: Sandbox, origin: Path, tmp_path: Path, program: str
) -> None:
    repo.commit()
    env = without_program(repo.env, program, tmp_path / "bin")
    done = repo.run("git", "push", "-q", "origin", "main", env=env, code=None)
    assert has_objects(origin) == (done.returncode == 0)
    assert repo.git("ls-remote", origin).count("refs/heads") == (done.returncode == 0)


def test_the_filter_adds_it_once(repo: Sandbox, origin: Path) -> None:
    hook(repo).unlink(missing_ok=True)
    said = repo.run("git", "add", "-A").stderr
    assert said.count("added the pre-push hook") == 1
    assert is_ours(hook(repo))
    model(repo.work / "n.safetensors", layers=2)
    assert "hook" not in repo.run("git", "add", "-A").stderr
    repo.commit()
    repo.git("push", "-q", "origin", "main")
    assert has_objects(origin)


def test_a_foreign_hook_runs_first_with_the_same_input(repo: Sandbox, origin: Path) -> None:
    hook(repo).unlink(missing_ok=True)
    write_hook(hook(repo))
    head = repo.commit()
    repo.git("tag", "v1")
    repo.git("push", "-q", "origin", "main", "v1", env={"FOREIGN_CODE": "3"}, code=1)
    assert not has_objects(origin)
    repo.git("push", "-q", "origin", "main", "v1")
    assert has_objects(origin)
    zero = "0" * 40
    assert (repo.home / "input").read_text() == (
        f"refs/heads/main {head} refs/heads/main {zero}\nrefs/tags/v1 {head} refs/tags/v1 {zero}\n"
    )
    assert (repo.home / "arguments").read_text() == f"origin\n{origin}\n"
    repo.git("push", "-q", "origin", "main")
    assert (repo.home / "input").read_text() == ""


def test_uninstall_puts_it_back(repo: Sandbox, origin: Path) -> None:
    hook(repo).unlink(missing_ok=True)
    text = write_hook(hook(repo))
    repo.theta("install", "--local")
    assert is_ours(hook(repo))
    repo.theta("install", "--local")
    assert [path.name for path in sorted(hook(repo).parent.glob("pre-push*"))] == [
        "pre-push",
        "pre-push.before-theta",
        "pre-push.sample",
    ]
    repo.theta("uninstall", "--local")
    assert hook(repo).read_text() == text
    assert os.access(hook(repo), os.X_OK)
    assert not list(hook(repo).parent.glob("*before-theta*"))
    hook(repo).unlink()
    repo.theta("install", "--local")
    repo.theta("uninstall", "--local")
    assert not hook(repo).exists()


def test_a_hook_that_is_switched_off_stays_off(repo: Sandbox, origin: Path) -> None:
    hook(repo).unlink(missing_ok=True)
    write_hook(hook(repo))
    hook(repo).chmod(0o644)
    repo.commit()
    repo.git("push", "-q", "origin", "main")
    assert has_objects(origin)
    assert not (repo.home / "input").exists()


def test_an_older_hook_of_ours_is_renewed(repo: Sandbox, origin: Path) -> None:
    repo.theta("install", "--local")
    now = hook(repo).read_text()
    write_hook(hook(repo), now.replace("version 2", "version 1"))
    repo.theta("install", "--local")
    newer = now.replace("version 2", "version 3")
    assert hook(repo).read_text() == now
    write_hook(hook(repo), newer)
    repo.theta("install", "--local")
    assert hook(repo).read_text() == newer


@pytest.mark.parametrize("where", ["relative", "absolute"])
def test_hooks_path_inside_the_work_tree(repo: Sandbox, origin: Path, where: str) -> None:
    folder = repo.work / "tools" / "hooks"
    repo.git("config", "core.hooksPath", "tools/hooks" if where == "relative" else str(folder))
    write_hook(folder / "pre-push")
    repo.git("config", "core.excludesFile", str(repo.root / "ignored"))
    (repo.root / "ignored").write_text("/tools/\n")
    (repo.work / "deep").mkdir()
    repo.git("add", "..", cwd=repo.work / "deep")
    repo.commit()
    assert is_ours(folder / "pre-push")
    repo.git("push", "-q", "origin", "main", cwd=repo.work / "deep")
    assert has_objects(origin)
    assert (repo.home / "input").read_text()


def test_a_hook_that_git_tracks_is_not_changed_unasked(repo: Sandbox, origin: Path) -> None:
    repo.git("config", "core.hooksPath", "tools")
    text = write_hook(repo.work / "tools" / "pre-push")
    repo.git("add", "tools")
    said = repo.run("git", "add", "-A").stderr
    assert said.count("does not call us") == 1
    assert (repo.work / "tools" / "pre-push").read_text() == text
    write_hook(repo.work / "tools" / "pre-push", '#!/bin/sh\nexec git theta pre-push "$@"\n')
    repo.commit()
    repo.git("push", "-q", "origin", "main")
    assert has_objects(origin)


def test_shared_hooks_are_left_alone_until_asked(repo: Sandbox, origin: Path) -> None:
    shared = repo.root / "shared"
    write_hook(shared / "pre-push")
    repo.git("config", "--global", "core.hooksPath", str(shared))
    said = repo.run("git", "add", "-A").stderr
    assert said.count("git theta install --local") == 1
    model(repo.work / "n.safetensors", layers=2)
    assert "hook" not in repo.run("git", "add", "-A").stderr
    assert (shared / "pre-push").read_text() == FOREIGN
    repo.theta("install", "--local")
    assert is_ours(shared / "pre-push")
    repo.commit()
    repo.git("push", "-q", "origin", "main")
    assert has_objects(origin)
    assert (repo.home / "input").read_text()


def test_a_hook_that_goes_by_its_own_name_is_refused(repo: Sandbox, origin: Path) -> None:
    hook(repo).unlink(missing_ok=True)
    text = write_hook(hook(repo), '#!/bin/sh\nexec "$HOME/dispatch/$(basename "$0")" "$@"\n')
    said = repo.theta("install", "--local", code=7).stderr
    assert 'git-theta pre-push "$@"' in said
    assert "pre-push hook is missing" in repo.run("git", "add", "-A").stderr
    assert hook(repo).read_text() == text


def test_without_leave_nothing_is_stored(repo: Sandbox, origin: Path) -> None:
    repo.theta("install", "--local", "--no-hooks")
    hook(repo).unlink(missing_ok=True)
    said = repo.run("git", "add", "-A", code=128).stderr
    assert "pushed whole" in said
    with (repo.work / "m.safetensors").open("rb") as file:
        done = subprocess.run(
            ["git-theta", "clean", "m.safetensors"],
            cwd=repo.work,
            env=repo.env,
            stdin=file,
            capture_output=True,
        )
    assert done.returncode == 7
    repo.git("config", "theta.autoHooks", "true")
    repo.git("add", "-A")
    assert is_ours(hook(repo))


def test_a_push_without_the_program_fails(repo: Sandbox, origin: Path, tmp_path: Path) -> None:
    repo.commit()
    env = without_program(repo.env, "git-theta", tmp_path / "bin")
    said = repo.run("git", "push", "origin", "main", env=env, code=1).stderr
    assert "git-theta is not on your PATH" in said
    assert str(Path(".git/hooks/pre-push")) in said
    assert repo.git("ls-remote", "origin") == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_hooks_directory_that_cannot_be_written(repo: Sandbox, origin: Path) -> None:
    hook(repo).unlink(missing_ok=True)
    hook(repo).parent.chmod(0o555)
    try:
        assert "cannot be written" in repo.theta("install", "--local", code=128).stderr
    finally:
        hook(repo).parent.chmod(0o755)


def test_a_hooks_directory_that_is_none(repo: Sandbox, origin: Path) -> None:
    """Some switch hooks off like this."""
    repo.git("config", "core.hooksPath", "/dev/null")
    said = repo.theta("install", "--local", code=128).stderr
    assert "/dev/null cannot be written" in said
    assert "Traceback" not in said
    assert "git theta install --local" in repo.run("git", "add", "-A").stderr


def test_hooks_that_call_each_other_end(repo: Sandbox, origin: Path) -> None:
    hook(repo).unlink(missing_ok=True)
    write_hook(hook(repo), '#!/bin/sh\necho ran >>"$HOME/ran"\nexec .git/hooks/pre-push "$@"\n')
    repo.commit()
    repo.git("push", "-q", "origin", "main")
    assert (repo.home / "ran").read_text() == "ran\n"
    assert has_objects(origin)


def test_other_hooks_of_the_user_stay_and_run(repo: Sandbox, origin: Path) -> None:
    names = ("pre-commit", "commit-msg", "post-commit", "post-checkout", "post-merge")
    text = '#!/bin/sh\necho "$(basename "$0")" >>"$HOME/ran"\n'
    for name in names:
        write_hook(hook(repo).with_name(name), text)
    repo.theta("install", "--local")
    repo.commit()
    repo.git("checkout", "-q", "-b", "side")
    repo.git("commit", "-q", "--allow-empty", "-m", "more")
    repo.git("checkout", "-q", "main")
    repo.git("merge", "-q", "side")
    repo.git("push", "-q", "origin", "main")
    assert has_objects(origin)
    assert set((repo.home / "ran").read_text().split()) == {*names}
    assert all(hook(repo).with_name(name).read_text() == text for name in names)


# --- beside Git LFS ------------------------------------------------------------------------------


def add_lfs_file(repo: Sandbox) -> bytes:
    repo.git("lfs", "track", "*.bin")
    data = os.urandom(2000)
    (repo.work / "a.bin").write_bytes(data)
    return data


@pytest.mark.parametrize("first", ["lfs", "theta"])
def test_beside_git_lfs(repo: Sandbox, origin: Path, first: str) -> None:
    hook(repo).unlink(missing_ok=True)
    if first == "theta":
        repo.theta("install", "--local")
        repo.run("git", "lfs", "install", code=None)
        assert is_ours(hook(repo))
    else:
        repo.git("lfs", "install")
    data = add_lfs_file(repo)
    repo.commit()
    repo.run("git", "lfs", "update", code=None)
    assert is_ours(hook(repo))
    repo.git("push", "-q", "origin", "main")

    other = Sandbox(repo.root / "other")
    other.git("lfs", "install")
    other.theta("install")
    other.run("git", "clone", "-q", origin, other.work)
    for name in ("a.bin", "m.safetensors"):
        assert (other.work / name).read_bytes() == (repo.work / name).read_bytes()
    assert (other.work / "a.bin").read_bytes() == data


def test_git_lfs_replaces_hooks_by_force(repo: Sandbox, origin: Path) -> None:
    hook(repo).unlink(missing_ok=True)
    own = write_hook(hook(repo))
    repo.theta("install", "--local")
    repo.git("lfs", "install", "--force")
    assert not is_ours(hook(repo))
    data = add_lfs_file(repo)
    repo.commit()
    assert is_ours(hook(repo))
    repo.git("push", "-q", "origin", "main")
    assert (repo.home / "input").read_text()
    assert len(list((origin / "lfs" / "objects").rglob("?" * 64))) == len(repo.objects()) + 1
    assert (repo.work / "a.bin").read_bytes() == data
    repo.theta("uninstall", "--local")
    assert "git lfs pre-push" in hook(repo).read_text()
    assert hook(repo).with_name("pre-push.before-theta").read_text() == own
