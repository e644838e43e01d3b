"""`git theta migrate`: every version keeps its bytes, every ref moves or none does."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints import torch_zip, weights
from tests.git.test_kills import FEW, MANY, Victim, times
from tests.sandbox import Sandbox, model

pytestmark = pytest.mark.git

Files = dict[str, tuple[int, bytes]]
NAME = "m.safetensors"


@pytest.fixture
def plain(sandbox: Sandbox) -> Sandbox:
    """A repository with git-theta and Git LFS installed, and nothing tracked by either."""
    sandbox.init(track="")
    sandbox.git("lfs", "install", "--skip-repo")
    return sandbox


@pytest.fixture
def lfs(plain: Sandbox) -> Sandbox:
    """Five versions of a model in Git LFS, the last with a tag."""
    plain.git("lfs", "track", "*.safetensors")
    for number in range(5):
        model(plain.work / NAME, {f"layer.{number % 4}.weight": weights(40, 50, seed=number)})
        plain.commit(f"version {number}")
    plain.git("tag", "-a", "v1", "-m", "the first")
    return plain


def refs(repo: Sandbox) -> dict[str, str]:
    """Branches and tags."""
    told = repo.git("for-each-ref", "--format=%(refname) %(objectname)", "refs/heads", "refs/tags")
    return dict(line.split(" ") for line in told.splitlines())


def clean(repo: Sandbox) -> bool:
    return repo.git("status", "--porcelain") == ""


def files(repo: Sandbox) -> Files:
    """What the work tree holds, without attribute files: path -> (executable, bytes)."""
    listed = repo.git("ls-files", "-z").split("\0")[:-1]
    found: Files = {}
    for name in listed:
        path = repo.work / name
        if path.name != ".gitattributes":
            data = bytes(path.readlink()) if path.is_symlink() else path.read_bytes()
            found[name] = (path.lstat().st_mode & 0o100, data)
    return found


def checkouts(repo: Sandbox, *revisions: str) -> dict[str, Files]:
    """The files of every commit that all branches and tags reach, by what the commit says."""
    told = repo.git("log", "--branches", "--tags", "--format=%H %at %ae %ct %s", *revisions)
    found: dict[str, Files] = {}
    here = repo.git("rev-parse", "--abbrev-ref", "HEAD").strip()
    for line in told.splitlines():
        oid, _, about = line.partition(" ")
        repo.git("checkout", "-q", "--detach", oid)
        assert repo.git("status", "--porcelain") == "", about
        found[about] = files(repo)
    repo.git("checkout", "-q", here)
    return found


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def mixed(plain: Sandbox) -> Sandbox:
    """A history with a bit of everything: plain Git first, then Git LFS, branches, renames."""
    repo, top = plain, plain.work
    write(top / "README", b"nothing to see\n")
    repo.commit("before any model")
    model(top / NAME)
    write(top / "empty.safetensors", b"")
    repo.commit("plain model")
    write(
        top / ".gitattributes",
        b"# ours\n*.txt text\n*.safetensors filter=lfs diff=lfs merge=lfs -text lockable\n",
    )
    write(top / "deep/er/.gitattributes", b"*.pt filter=lfs diff=lfs merge=lfs -text")
    write(top / "deep/er/m\u00f6 del.pt", torch_zip({"w": weights(30, 40)}))
    write(top / "other.bin", b"\0raw\0" * 100)
    repo.git("add", "--renormalize", ".")
    repo.commit("into Git LFS")
    repo.git("switch", "-qc", "side")
    model(top / NAME, {"layer.1.weight": weights(40, 50, seed=3)})
    (top / NAME).chmod(0o755)
    (top / "link.safetensors").symlink_to(NAME)
    repo.commit("side")
    repo.git("switch", "-q", "main")
    (top / "models").mkdir()
    repo.git("mv", NAME, "models/base.safetensors")
    model(top / "models/base.safetensors", {"layer.0.weight": weights(40, 50, seed=4)})
    repo.commit("renamed")
    repo.git("tag", "light")
    repo.git("merge", "-q", "-m", "merge", "-s", "ours", "side")
    repo.git("tag", "-a", "inner", "-m", "inner")
    repo.git("tag", "-a", "outer", "-m", "outer", "inner")
    latin = {"GIT_AUTHOR_NAME": "A. Nother", "GIT_AUTHOR_DATE": "1700000000 +0530",
             "GIT_AUTHOR_EMAIL": "other@example.org"}  # fmt: skip
    write(repo.root / "message", "Gr\u00fc\u00dfe\n\nfrom afar\n".encode("latin-1"))
    model(top / "models/base.safetensors", {"layer.3.weight": weights(40, 50, seed=5)})
    repo.git("add", "-A")
    repo.git(
        "-c", "i18n.commitEncoding=latin-1", "commit", "-q", "-F", repo.root / "message", env=latin
    )
    return repo


def is_manifest(repo: Sandbox, place: str) -> bool:
    return repo.git("cat-file", "blob", place).startswith('{"git-theta"')


def test_every_commit_keeps_its_files_there_and_back(mixed: Sandbox):
    before, versions = refs(mixed), checkouts(mixed)
    first = mixed.git("rev-list", "--max-parents=0", "HEAD")
    report = mixed.json("migrate", "import", "--include=*.safetensors, *.pt")
    assert clean(mixed)
    assert (report["rewritten"], report["commits"]) == (6, 7)
    assert set(report["refs"]) == set(before)
    assert mixed.git("rev-list", "--max-parents=0", "HEAD") == first
    assert checkouts(mixed) == versions
    for name in ("models/base.safetensors", "empty.safetensors", "deep/er/m\u00f6 del.pt"):
        assert is_manifest(mixed, f"HEAD:{name}")
    assert mixed.git("cat-file", "-t", "outer^{tag}").strip() == "tag"
    assert mixed.git("rev-parse", "outer^{}") == mixed.git("rev-parse", "inner^{}")
    assert b"encoding latin-1" in raw_commit(mixed, "HEAD")
    assert "Gr\xfc\xdfe".encode("latin-1") in raw_commit(mixed, "HEAD")
    attributes = mixed.git("show", "HEAD:.gitattributes").splitlines()
    assert attributes[:2] == ["# ours", "*.txt text"]
    assert attributes[2] == "*.safetensors filter=theta diff=theta merge=theta -text lockable"
    assert attributes[3] == "*.pt filter=theta diff=theta merge=theta -text"
    assert "filter=lfs" not in mixed.git("show", "light:deep/er/.gitattributes")
    mixed.theta("fsck")
    for words in (["export"], ["import", "*.safetensors", "*.pt"], ["export", "--to", "git"]):
        mixed.theta("migrate", *words)
        assert clean(mixed)
    assert checkouts(mixed) == versions
    for _ in range(4):
        mixed.theta("migrate", "undo")
        assert clean(mixed)
    assert refs(mixed) == before
    mixed.theta("migrate", "undo", code=3)
    assert "refs/theta" not in mixed.git("for-each-ref")


def raw_commit(repo: Sandbox, name: str) -> bytes:
    told = repo.run("git", "cat-file", "commit", name)
    return told.stdout.encode(errors="surrogateescape")


def test_out_of_git_lfs_and_back_gives_the_same_commits(lfs: Sandbox):
    before = refs(lfs)
    lfs.theta("migrate", "import", "*.safetensors")
    assert not set(before.values()) & set(refs(lfs).values())
    shutil.rmtree(lfs.work / ".git" / "lfs" / "objects")
    lfs.theta("migrate", "export")
    assert refs(lfs) == before
    lfs.git("lfs", "fsck")
    assert clean(lfs)


def test_what_did_not_change_is_not_stored_again(lfs: Sandbox):
    data = model(lfs.work / NAME, layers=60)
    lfs.commit("large")
    for number in range(8):
        model(lfs.work / NAME, {"layer.9.weight": weights(40, 50, seed=number)}, layers=60)
        lfs.commit(f"tuned {number}")
    report = lfs.json("migrate", "import", "*.safetensors")
    assert report["bytes"] > 9 * len(data)
    assert report["stored"] < 1.3 * len(data)
    stored = sum(path.stat().st_size for path in lfs.objects())
    assert stored == report["stored"]


def test_a_dry_run_tells_and_changes_nothing(lfs: Sandbox):
    before = refs(lfs)
    told = lfs.json("migrate", "import", "*.safetensors", "--dry-run")
    assert (told["commits"], told["rewritten"], told["versions"]) == (5, 5, 5)
    assert told["paths"] == [{"path": NAME, "versions": 5, "bytes": told["bytes"]}]
    assert sorted(told["refs"]) == sorted(before)
    assert refs(lfs) == before
    assert lfs.objects() == []
    assert "5 versions" in lfs.theta("migrate", "import", "*.safetensors", "-n").stdout


def test_a_second_time_there_is_nothing_to_do(lfs: Sandbox):
    lfs.theta("migrate", "import", "*.safetensors")
    before = refs(lfs)
    assert "nothing" in lfs.theta("migrate", "import", "*.safetensors").stdout
    assert refs(lfs) == before
    model(lfs.work / NAME, {"layer.1.weight": np.ones((40, 50))})
    lfs.commit("new work")
    done = lfs.theta("migrate", "undo", code=7)
    assert "refs/heads/main" in done.stderr
    assert refs(lfs)["refs/tags/v1"] == before["refs/tags/v1"]


def lose(repo: Sandbox) -> str:
    """Lose one file of Git LFS; its sha256."""
    text = repo.git("cat-file", "blob", f"HEAD~2:{NAME}")
    oid = text.partition("sha256:")[2][:64]
    (repo.work / ".git/lfs/objects" / oid[:2] / oid[2:4] / oid).unlink()
    return oid


def test_a_lost_file_is_named_and_nothing_is_changed(lfs: Sandbox):
    before, commit = refs(lfs), lfs.git("rev-parse", "--short=12", "HEAD~2").strip()
    lose(lfs)
    done = lfs.theta("migrate", "import", "*.safetensors", code=4)
    assert f"{NAME} in commit {commit}" in done.stderr
    assert refs(lfs) == before
    done = lfs.theta("migrate", "import", "*.safetensors", "--leave-missing")
    assert "1 file" in done.stderr
    assert clean(lfs)
    assert lfs.git("cat-file", "blob", f"HEAD~2:{NAME}").startswith("version https://git-lfs")
    told = lfs.git("show", "HEAD~2:.gitattributes")
    assert told.splitlines()[-1] == f"/{NAME} filter=lfs diff=lfs merge=lfs -text"
    assert is_manifest(lfs, f"HEAD~1:{NAME}")
    assert f"/{NAME}" not in lfs.git("show", "HEAD~1:.gitattributes")


def test_a_damaged_file_is_named_and_nothing_is_changed(lfs: Sandbox):
    before = refs(lfs)
    oid = lose(lfs)
    path = lfs.work / ".git/lfs/objects" / oid[:2] / oid[2:4] / oid
    size = int(lfs.git("cat-file", "blob", f"HEAD~2:{NAME}").split()[-1])
    path.write_bytes(bytes(size))
    done = lfs.theta("migrate", "import", "*.safetensors", code=5)
    assert f"{NAME} in commit" in done.stderr
    assert oid in done.stderr
    assert refs(lfs) == before


def test_what_is_not_here_is_fetched_and_what_is_new_is_pushed(lfs: Sandbox):
    origin = lfs.root / "origin.git"
    lfs.git("init", "-q", "--bare", origin)
    lfs.git("remote", "add", "origin", f"file://{origin}")
    lfs.git("push", "-q", "-u", "origin", "main", "v1")
    versions = checkouts(lfs)
    shutil.rmtree(lfs.work / ".git" / "lfs" / "objects")
    assert lfs.json("migrate", "import", "*.safetensors", "-n")["to_fetch"] >= 4
    lfs.theta("migrate", "import", "*.safetensors")
    lfs.git("push", "-q", "--force", "--all")
    lfs.git("push", "-q", "--force", "--tags")
    other = Sandbox(lfs.root / "other")
    other.theta("install", cwd=other.root)
    other.git("clone", "-q", f"file://{origin}", other.work)
    assert checkouts(other) == versions
    shutil.rmtree(other.store())
    done = other.theta("migrate", "export")
    assert "git lfs install" in done.stderr
    other.git("lfs", "install", "--skip-repo")
    assert clean(other)


def test_refused_where_it_would_hurt(lfs: Sandbox):
    words = ["migrate", "import", "*.safetensors"]
    lfs.theta("migrate", "import", code=2)
    lfs.theta(*words, "--include-ref", "nowhere", code=3)
    lfs.theta(*words, "--exclude-ref", "nowhere", code=3)
    lfs.theta(*words, "main", "--everything", code=2)
    before = refs(lfs)
    model(lfs.work / NAME, {"layer.1.weight": np.ones((40, 50))})
    assert "not committed" in lfs.theta(*words, code=7).stderr
    lfs.git("checkout", "-q", "--", NAME)
    lfs.git("revert", "--no-commit", "HEAD")
    assert "revert" in lfs.theta(*words, code=7).stderr
    lfs.git("revert", "--abort")
    lfs.git("worktree", "add", "-q", lfs.root / "second", "-b", "second")
    assert "refs/heads/second" in lfs.theta(*words, code=7).stderr
    lfs.git("worktree", "remove", lfs.root / "second")
    lfs.git("clone", "-q", "--depth=1", f"file://{lfs.work}", lfs.root / "shallow")
    assert "shallow" in lfs.theta(*words, code=7, cwd=lfs.root / "shallow").stderr
    assert {k: v for k, v in refs(lfs).items() if "second" not in k} == before


def test_only_the_refs_that_are_named(lfs: Sandbox):
    lfs.git("branch", "old", "HEAD~3")
    before = refs(lfs)
    lfs.theta("migrate", "import", "--include=*.safetensors", "--exclude-ref=old", "main")
    after = refs(lfs)
    assert {name for name in before if before[name] != after[name]} == {"refs/heads/main"}
    assert lfs.git("rev-parse", "main~3", "old").split() == [before["refs/heads/old"]] * 2
    assert clean(lfs)
    lfs.theta("migrate", "import", "*.safetensors", "old", "v1")
    assert refs(lfs)["refs/heads/old"] != before["refs/heads/old"]
    assert lfs.git("rev-parse", "v1^{}") != lfs.git("rev-parse", "main")


def test_files_that_are_left_out_stay_with_git_lfs(lfs: Sandbox):
    write(lfs.work / "old" / NAME, (lfs.work / NAME).read_bytes())
    lfs.commit("a copy")
    versions = checkouts(lfs)
    lfs.theta("migrate", "import", "*.safetensors", "--exclude=old/*.safetensors")
    assert clean(lfs)
    assert lfs.git("cat-file", "blob", f"HEAD:old/{NAME}").startswith("version https://git-lfs")
    told = lfs.git("check-attr", "filter", "--", f"old/{NAME}", NAME)
    assert [line.split()[-1] for line in told.splitlines()] == ["lfs", "theta"]
    assert checkouts(lfs) == versions


def test_signatures_are_dropped_with_a_warning_and_other_headers_stay(lfs: Sandbox):
    raw = lfs.git("cat-file", "commit", "HEAD")
    head, blank, message = raw.partition("\n\n")
    signature = "gpgsig -----BEGIN PGP SIGNATURE-----\n \n abcd\n -----END PGP SIGNATURE-----"
    write(lfs.root / "commit", f"{head}\n{signature}\nx-other kept{blank}{message}".encode())
    oid = lfs.git("hash-object", "-t", "commit", "-w", lfs.root / "commit").strip()
    lfs.git("reset", "-q", "--hard", oid)
    tag = lfs.git("cat-file", "tag", "v1") + "-----BEGIN PGP SIGNATURE-----\n\nabcd\n"
    write(lfs.root / "tag", tag.encode())
    lfs.git(
        "update-ref",
        "refs/tags/v1",
        lfs.git("hash-object", "-t", "tag", "-w", lfs.root / "tag").strip(),
    )
    done = lfs.theta("migrate", "import", "*.safetensors")
    assert "1 commit lost" in done.stderr
    assert "1 tag lost" in done.stderr
    assert b"gpgsig" not in raw_commit(lfs, "HEAD")
    assert b"x-other kept" in raw_commit(lfs, "HEAD")
    assert "PGP" not in lfs.git("cat-file", "tag", "v1")


def test_notes_can_be_taken_along(lfs: Sandbox):
    lfs.git("notes", "add", "-m", "a good one", "HEAD")
    report = lfs.json("migrate", "import", "*.safetensors")
    assert any("notes" in line for line in report["warnings"])
    lfs.run("sh", "-c", f"git notes copy --stdin < '{report['map']}'")
    assert lfs.git("notes", "show", "HEAD") == "a good one\n"


@pytest.mark.parametrize("kind", ["bare", "sha256", "detached", "split", "partial"])
def test_other_repositories(plain: Sandbox, kind: str):
    repo = plain
    if kind == "sha256":
        shutil.rmtree(repo.work)
        repo.work.mkdir()
        repo.git("init", "-q", "--object-format=sha256")
    for number in range(3):
        model(repo.work / NAME, {"layer.0.weight": weights(40, 50, seed=number)})
        repo.commit(f"version {number}")
    versions = checkouts(repo)
    if kind == "bare":
        bare = repo.root / "bare.git"
        repo.git("clone", "-q", "--bare", f"file://{repo.work}", bare)
        repo.theta("migrate", "import", "*.safetensors", cwd=bare)
        repo.git("remote", "add", "bare", f"file://{bare}")
        repo.git("fetch", "-q", "bare")
        repo.theta("fetch", "bare", "bare/main", "bare/main~2")
        repo.git("reset", "-q", "--hard", "bare/main")
    else:
        if kind == "detached":
            repo.git("checkout", "-q", "--detach")
        elif kind == "split":
            repo.git("config", "core.splitIndex", "true")
            repo.git("update-index", "--split-index")
        elif kind == "partial":
            repo.git("config", "uploadpack.allowFilter", "true")
            repo.work.rename(repo.root / "whole")
            whole = f"file://{repo.root / 'whole'}"
            repo.git("clone", "-q", "--filter=blob:none", whole, repo.work, cwd=repo.root)
        repo.theta("migrate", "import", "*.safetensors")
        if kind == "detached":
            assert repo.git("rev-parse", "HEAD") == repo.git("rev-parse", "main")
    assert clean(repo)
    assert is_manifest(repo, f"HEAD:{NAME}")
    if kind == "detached":
        repo.git("switch", "-q", "main")
    assert checkouts(repo, "HEAD") == versions


def test_a_file_that_changes_meanwhile_is_not_taken_for_clean(lfs: Sandbox):
    """What was texts becomes files; what is not what the index says shows."""
    env: Mapping[str, str] = {"GIT_LFS_SKIP_SMUDGE": "1"}
    data = (lfs.work / NAME).read_bytes()
    (lfs.work / NAME).unlink()
    lfs.git("checkout", "--", NAME, env=env)
    assert (lfs.work / NAME).stat().st_size < 200
    assert clean(lfs)
    lfs.theta("migrate", "import", "*.safetensors")
    assert (lfs.work / NAME).read_bytes() == data
    assert clean(lfs)


def test_a_run_that_was_killed_late_is_finished_and_writes_over_nothing(lfs: Sandbox):
    old = lfs.git("rev-parse", "HEAD").strip()
    lfs.theta("migrate", "import", "*.safetensors")
    after = refs(lfs)
    records = lfs.work / ".git" / "theta" / "migrate"
    (records / "1.json").rename(records / "pending.json")
    lfs.git("read-tree", old)
    write(lfs.work / ".gitattributes", lfs.git("show", f"{old}:.gitattributes").encode())
    data = model(lfs.work / NAME, layers=5)
    lfs.theta("migrate", "import", "*.safetensors", "-n", code=7)
    lfs.theta("migrate", "import", "*.safetensors", code=7)
    assert refs(lfs) == after
    assert lfs.git("status", "--porcelain") == f" M {NAME}\n"
    assert (lfs.work / NAME).read_bytes() == data
    lfs.git("commit", "-qam", "more")
    assert is_manifest(lfs, f"HEAD:{NAME}")


def test_an_undo_that_cannot_be_done_leaves_nothing_behind(lfs: Sandbox):
    lfs.theta("migrate", "import", "*.safetensors")
    listed = lfs.git("for-each-ref", "--format=%(refname)", "refs/theta/original").split()
    for name in listed:
        lfs.git("update-ref", "-d", name)
    lfs.git("reflog", "expire", "--expire=now", "--all")
    lfs.git("gc", "-q", "--prune=now")
    lfs.theta("migrate", "undo", code=7)
    assert clean(lfs)
    write(lfs.work / "sub" / ".gitattributes", b"*.txt text\n")
    assert "sub/.gitattributes" in lfs.theta("migrate", "export", code=7).stderr
    lfs.commit("attributes")
    lfs.theta("migrate", "export")
    assert clean(lfs)


@times(FEW)
def test_killed_at_any_moment(lfs: Sandbox, kills: int, tally: Counter[str]):
    """Refs are all old or all new, and the same command again finishes."""
    victim = Victim(lfs, random.Random("migrate"), tally)
    lfs.git("config", "theta.gracePeriod", "0")
    words = ["git", "theta", "migrate", "import", "*.safetensors"]
    versions, before = checkouts(lfs), refs(lfs)
    store = lfs.work / ".git" / "theta"
    victim.run(*words)
    after = refs(lfs)
    lfs.theta("migrate", "undo")
    for number, by_clock in enumerate(victim.attempts(kills)):
        if number % 4:  # else what was converted before is found again
            lfs.git("prune", "--expire=now")
            shutil.rmtree(store)
        victim.kill(*words, by_clock=by_clock)
        assert all(value in (before[name], after[name]) for name, value in refs(lfs).items())
        pending = store / "migrate" / "pending.json"
        if kills == MANY or pending.exists() or refs(lfs) != before or number == kills // 2:
            lfs.run(*words)
            assert refs(lfs) == after
            assert clean(lfs)
            if kills == MANY:
                victim.kill("git", "theta", "migrate", "undo", by_clock=by_clock)
            if pending.exists() or refs(lfs) == after:
                lfs.theta("migrate", "undo")
        assert refs(lfs) == before
        assert clean(lfs)
    lfs.run(*words)
    assert checkouts(lfs) == versions
    lfs.theta("fsck")
    lfs.theta("prune")
    assert list((store / "tmp").iterdir()) == []
