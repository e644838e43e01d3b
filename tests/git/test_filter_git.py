"""The filter under Git's other commands: diff, log, stash, worktrees, archives, odd paths."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from git_theta.core.manifest import MAGIC, is_manifest
from tests.checkpoints import noise, torch_zip, weights
from tests.sandbox import Sandbox, encode, model

pytestmark = pytest.mark.git

NAME = "m.safetensors"
# Both show the beginning of what Git hands them.
TEXTCONV = ("-c", "diff.theta.textconv=f() { head -c 13 $1; md5sum <$1; }; f")
DRIVER = ("-c", "diff.theta.command=f() { head -c 13 $2; head -c 13 $5; }; f")


@pytest.fixture
def two(repo: Sandbox) -> tuple[Sandbox, bytes, bytes]:
    """A repository with two versions of a model."""
    old = model(repo.work / NAME)
    repo.commit("first")
    new = model(repo.work / NAME, {"layer.1.weight": weights(40, 50)})
    repo.commit("second")
    return repo, old, new


@pytest.mark.parametrize(
    "words",
    [
        ("diff", "HEAD^", "HEAD"),
        ("diff", "--cached", "HEAD^"),
        ("log", "-p"),
        ("show",),
        ("format-patch", "--stdout", "HEAD^"),
        (*TEXTCONV, "diff", "--no-ext-diff", "HEAD^", "HEAD"),
        (*TEXTCONV, "log", "-p"),
        (*TEXTCONV, "show"),
        (*TEXTCONV, "blame", "HEAD", "--", NAME),
        (*DRIVER, "diff", "HEAD^", "HEAD"),
        (*DRIVER, "log", "-p", "--ext-diff"),
    ],
    ids=" ".join,
)
def test_showing_differences_needs_no_weights(
    two: tuple[Sandbox, bytes, bytes], words: tuple[str, ...]
):
    """Everything works without a single object, and without a word about that."""
    repo, _, _ = two
    shutil.rmtree(repo.store())
    done = repo.run("git", *words)
    assert done.stderr == ""
    shown = MAGIC.decode() if TEXTCONV[1] in words or DRIVER[1] in words else "layer.1.weight"
    assert shown in done.stdout


def test_full_content_where_content_is_asked_for(two: tuple[Sandbox, bytes, bytes]):
    repo, old, new = two
    repo.git("cat-file", "-e", "HEAD")
    found = subprocess.run(
        ["git", "cat-file", "--filters", f"HEAD^:{NAME}"],
        cwd=repo.work, env=repo.env, capture_output=True, check=True,
    )  # fmt: skip
    assert found.stdout == old
    for tree, content in (("HEAD^", old), ("HEAD^{tree}", new)):
        packed = subprocess.run(
            ["git", "archive", tree], cwd=repo.work, env=repo.env, capture_output=True, check=True
        )
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
            file = archive.extractfile(NAME)
            assert file is not None
            assert file.read() == content
    repo.git("checkout-index", "--prefix=out/", NAME)
    assert (repo.work / "out" / NAME).read_bytes() == new


def test_stash_and_pop(two: tuple[Sandbox, bytes, bytes]):
    repo, _, new = two
    mine = model(repo.work / NAME, {"layer.2.weight": weights(40, 50, seed=9)})
    untracked = model(repo.work / "new.safetensors", {"n": weights(4)})
    repo.git("stash", "-q", "--include-untracked")
    assert (repo.work / NAME).read_bytes() == new
    assert not (repo.work / "new.safetensors").exists()
    assert repo.git("status", "--porcelain") == ""
    repo.git("stash", "pop", "-q")
    assert (repo.work / NAME).read_bytes() == mine
    assert (repo.work / "new.safetensors").read_bytes() == untracked


def test_another_worktree(two: tuple[Sandbox, bytes, bytes]):
    repo, old, _ = two
    other = repo.root / "other"
    repo.git("worktree", "add", "-q", other, "HEAD^")
    assert (other / NAME).read_bytes() == old
    stored = len(repo.objects())
    data = model(other / NAME, {"layer.3.weight": weights(40, 50, seed=4)})
    repo.git("add", NAME, cwd=other)
    assert len(repo.objects()) > stored, "worktrees share one store"
    (other / NAME).unlink()
    repo.git("checkout", "--", NAME, cwd=other)
    assert (other / NAME).read_bytes() == data


def test_rebase_cherry_pick_revert_reset(two: tuple[Sandbox, bytes, bytes]):
    repo, old, new = two
    repo.git("checkout", "-q", "-b", "side", "HEAD^")
    side = model(repo.work / "side.safetensors", {"s": weights(5)})
    repo.commit("side")
    repo.git("rebase", "-q", "main")
    assert (repo.work / NAME).read_bytes() == new
    assert (repo.work / "side.safetensors").read_bytes() == side
    repo.git("revert", "--no-edit", "HEAD^")
    assert (repo.work / NAME).read_bytes() == old
    repo.git("cherry-pick", "main")
    assert (repo.work / NAME).read_bytes() == new
    repo.git("reset", "-q", "--hard", "HEAD^")
    assert (repo.work / NAME).read_bytes() == old
    repo.git("commit", "-q", "--amend", "-m", "amended")
    assert repo.git("status", "--porcelain") == ""


PATHS = [
    "sub/deep/m.safetensors",
    "with space.safetensors",
    "-dash.safetensors",
    "quote\"and's.safetensors",
    "schön-模型.safetensors",
    "new\nline.safetensors",
    "back\\slash.safetensors",
    "[glob]*.safetensors",
]


def test_odd_paths(repo: Sandbox):
    content = {
        name: model(repo.work / name, {"n": weights(4, seed=number)})
        for number, name in enumerate(PATHS)
    }
    odd = os.fsdecode(b"\xff\xfe.safetensors")
    content[odd] = model(repo.work / odd, {"o": weights(4)})
    repo.commit()
    listed = repo.git("ls-files", "-z", "--", "*.safetensors").split("\0")[:-1]
    assert sorted(listed) == sorted(content)
    for name in content:
        assert is_manifest(repo.git("cat-file", "blob", f":0:{name}").encode())
        (repo.work / name).unlink()
    repo.git("checkout", "--", "m.safetensors", cwd=repo.work / "sub" / "deep")
    assert (repo.work / PATHS[0]).read_bytes() == content[PATHS[0]]
    repo.git("checkout", "--", ".")
    assert {name: (repo.work / name).read_bytes() for name in content} == content
    for name in content:
        (repo.work / name).touch()
    assert repo.git("status", "--porcelain") == ""


def test_from_a_subdirectory(repo: Sandbox):
    data = model(repo.work / "sub" / NAME)
    repo.git("add", NAME, cwd=repo.work / "sub")
    repo.git("commit", "-qm", "from below", cwd=repo.work / "sub")
    (repo.work / "sub" / NAME).unlink()
    repo.git("checkout", "--", "sub/m.safetensors")
    assert (repo.work / "sub" / NAME).read_bytes() == data
    assert repo.git("status", "--porcelain", cwd=repo.work / "sub").split() == [
        "??",
        ".gitattributes",
    ]


def test_little_memory_in_a_subdirectory(repo: Sandbox):
    """Nothing is left beside the files, whether Git writes them or we do."""
    repo.theta("track", "*.pt", "-q")
    repo.git("config", "theta.memory", "1")
    below = repo.work / "sub" / "deep"
    arrays = {"a": weights(40, 50), "b": weights(7)}
    first = {NAME: encode(arrays), "m.pt": torch_zip(arrays)}
    arrays["b"] = weights(7, seed=2)
    second = {NAME: encode(arrays), "m.pt": torch_zip(arrays)}
    below.mkdir(parents=True)
    for version in (first, second):
        for name, data in version.items():
            (below / name).write_bytes(data)
        repo.git("add", ".", cwd=below)
        repo.git("commit", "-q", "-m", "from below", cwd=below)
    us = "-c theta.directFrom=1 checkout"
    for words, version in (("checkout -q main~1", first), (f"{us} -q main", second)):
        repo.git(*words.split(), cwd=below)
        assert {name: (below / name).read_bytes() for name in version} == version
    assert sorted(path.name for path in below.iterdir()) == sorted(second)
    assert not [path for path in (repo.work / "sub").iterdir() if path != below]


def test_links_and_modes(repo: Sandbox):
    data = model(repo.work / NAME)
    (repo.work / NAME).chmod(0o755)
    (repo.work / "link.safetensors").symlink_to(NAME)
    repo.commit()
    staged = repo.git("ls-files", "-s").split("\n")
    assert [line[:6] for line in staged if "safetensors" in line] == ["120000", "100755"]
    assert repo.git("cat-file", "blob", ":0:link.safetensors") == NAME
    for name in (NAME, "link.safetensors"):
        (repo.work / name).unlink()
    repo.git("checkout", "--", ".")
    assert os.access(repo.work / NAME, os.X_OK)
    assert (repo.work / "link.safetensors").is_symlink()
    assert (repo.work / "link.safetensors").read_bytes() == data
    assert repo.git("status", "--porcelain") == ""


# --- lazy -----------------------------------------------------------------------------------------


def clone(repo: Sandbox, name: str, **env: str) -> tuple[Path, str]:
    """A clone that reads through the first one's store, and what was said while it was made."""
    done = repo.run("git", "clone", "-q", "--shared", repo.work, repo.root / name, env=env)
    return repo.root / name, done.stderr


def stays_clean(repo: Sandbox, where: Path, name: str) -> None:
    assert is_manifest((where / name).read_bytes())
    assert repo.git("status", "--porcelain", cwd=where) == ""
    (where / name).touch()
    assert repo.git("status", "--porcelain", cwd=where) == ""
    assert repo.git("diff", "--stat", cwd=where) == ""


def test_checking_out_nothing_but_manifests(two: tuple[Sandbox, bytes, bytes]):
    repo, _, new = two
    where, said = clone(repo, "lazy", GIT_THETA_SKIP_SMUDGE="1")
    assert "left as" not in said, "it was asked for"
    stays_clean(repo, where, NAME)
    repo.git("checkout", "-q", "HEAD^", cwd=where, env={"GIT_THETA_SKIP_SMUDGE": "1"})
    stays_clean(repo, where, NAME)
    repo.git("checkout", "-q", "main", cwd=where, env={"GIT_THETA_SKIP_SMUDGE": "1"})
    repo.theta("pull", cwd=where)
    assert (where / NAME).read_bytes() == new
    assert repo.git("status", "--porcelain", cwd=where) == ""


def test_large_files_stay_manifests(two: tuple[Sandbox, bytes, bytes]):
    repo, _, new = two
    small = model(repo.work / "small.safetensors", {"x": weights(2)}, layers=0)
    repo.commit()
    repo.git("config", "--global", "theta.smudgeLimit", "10k")
    where, said = clone(repo, "lazy")
    assert f"git theta: {NAME}: left as a manifest, being large" in said
    assert f"hint: run git theta pull -- {NAME}" in said
    assert (where / "small.safetensors").read_bytes() == small
    stays_clean(repo, where, NAME)
    repo.theta("pull", cwd=where)
    assert (where / NAME).read_bytes() == new
    repo.git("config", "--global", "theta.smudgeLimit", "lots")
    done = repo.run("git", "checkout", "-q", "HEAD~2", cwd=where, code=128)
    assert "theta.smudgelimit is 'lots'" in done.stderr


def test_a_large_file_of_no_manifest_is_not_mistaken(sandbox: Sandbox):
    """Committed raw, larger than any limit: it is no manifest, and stays what it is."""
    sandbox.init()
    sandbox.git("config", "theta.smudgeLimit", "1k")
    data = noise(9 << 20)
    (sandbox.work / "raw").write_bytes(data)
    oid = sandbox.git("hash-object", "-w", "raw").strip()
    sandbox.git("update-index", "--add", "--cacheinfo", f"100644,{oid},{NAME}")
    sandbox.git("checkout", "--", NAME)
    assert (sandbox.work / NAME).read_bytes() == data


def test_encode_is_what_safetensors_reads(tmp_path: Path):
    """The files of these tests are real ones."""
    from safetensors.numpy import load

    arrays = {"a": weights(3, 4), "b": weights(5)}
    found = load(encode(arrays))
    assert {name: values.tobytes() for name, values in found.items()} == {
        name: values.tobytes() for name, values in arrays.items()
    }
