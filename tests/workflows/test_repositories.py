"""Repositories of every kind: hashes, index formats, worktrees, submodules, sparse trees."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.workflows.conftest import newcomer
from tests.workflows.scene import PATTERNS, SAFE, TORCH, Scene, content

pytestmark = pytest.mark.git

BOTH = f" M {TORCH}\n M {SAFE}\n"


def test_sha256(alice: Scene, stranger: Scene, tmp_path: Path):
    """A repository with SHA-256: stored, switched, merged, pushed, cloned, pruned."""
    host = tmp_path / "host256.git"
    alice.git("init", "-q", "--bare", "--object-format=sha256", host)
    bob = newcomer(tmp_path / "bob")
    bob.work.mkdir()
    bob.git("init", "-q", "--object-format=sha256")
    bob.theta("track", *PATTERNS, "-q")
    first = bob.keep("first")
    bob.git("checkout", "-q", "-b", "side")
    bob.keep("side", a=1)
    bob.git("checkout", "-q", "main")
    bob.keep("main", b=1)
    bob.git("merge", "-q", "--no-edit", "side")
    both = content(a=1, b=1)
    bob.at(both)
    bob.git("config", "theta.directFrom", "1k")
    bob.theta("checkout", "side")
    bob.at(content(a=1))
    bob.theta("switch", "main")
    bob.at(both)
    bob.git("-c", "theta.gracePeriod=0", "theta", "prune")
    bob.theta("fsck")
    bob.git("remote", "add", "origin", host)
    bob.push("origin", "--all")
    stranger.sees(host, {"origin/main": both, "origin/side": content(a=1), "origin/main~2": first})
    assert len(stranger.git("rev-parse", "HEAD").strip()) == 64


INDEX = {
    "version 4, with a cache of what is untracked": [
        ("config", "index.version", "4"),
        ("update-index", "--index-version", "4", "--force-untracked-cache"),
    ],
    "split": [("config", "core.splitIndex", "true"), ("update-index", "--split-index")],
    "many files, without a checksum": [
        ("update-index", "--no-split-index"),
        ("config", "core.splitIndex", "false"),
        ("config", "feature.manyFiles", "true"),
        ("config", "index.skipHash", "true"),
    ],
}


def test_formats_of_the_index(alice: Scene):
    """Version 4, split, with caches: files that Git writes, and files that we write."""
    first = alice.keep()
    alice.git("checkout", "-q", "-b", "side")
    second = alice.keep("second", a=1)
    alice.git("config", "theta.directFrom", "1k")
    for commands in INDEX.values():
        for command in commands:
            alice.git(*command)
        alice.theta("switch", "main")
        alice.at(first)
        alice.git("-c", "theta.directFrom=16m", "checkout", "-q", "side")
        alice.at(second)
    alice.git("fsck")


def test_fsmonitor(alice: Scene):
    """A monitor that tells which files changed, truthfully: nothing is missed or seen twice."""
    first = alice.keep()
    monitor = alice.root / "monitor"
    changed = alice.root / "changed"
    changed.write_bytes(b"/\0")
    monitor.write_text(f'#!/bin/sh\nprintf "token\\0"\ncat "{changed}"\n')
    monitor.chmod(0o755)
    alice.git("config", "core.fsmonitor", monitor)
    alice.git("config", "core.fsmonitorHookVersion", "2")
    alice.at(first)
    second = alice.put(a=1)
    alice.at(second, status=BOTH)
    alice.git("commit", "-q", "-a", "-m", "second")
    alice.at(second)
    changed.write_bytes(b"")  # from here on nothing but Git and we write
    alice.at(second)
    alice.git("config", "theta.directFrom", "1k")
    alice.theta("checkout", "HEAD~1")
    alice.at(first)
    alice.git("checkout", "-q", "main")
    alice.at(second)


def test_worktrees(alice: Scene, stranger: Scene, host: Path):
    """add, move, remove; work in each, and a push from a linked one."""
    first = alice.keep()
    other = alice.root / "other"
    alice.git("worktree", "add", "-q", "-b", "side", other)
    alice.at(first, at=other)
    second = content(a=1)
    for name, data in second.items():
        (other / name).write_bytes(data)
    alice.git("commit", "-q", "-a", "-m", "in the other", cwd=other)
    alice.at(second, at=other)
    alice.at(first)
    alice.git("push", "-q", "origin", "side", "main", cwd=other)
    stranger.sees(host, {"origin/side": second, "origin/main": first})
    moved = alice.root / "moved"
    alice.git("worktree", "move", other, moved)
    alice.at(second, at=moved)
    alice.git("merge", "-q", "--ff-only", "side")
    alice.at(second)
    alice.theta("checkout", "--detach", "HEAD~1", cwd=moved)
    alice.at(first, at=moved)
    alice.git("-c", "theta.gracePeriod=0", "theta", "prune")
    alice.git("worktree", "remove", moved)
    alice.theta("fsck")
    alice.at(second)


def test_submodules(alice: Scene, stranger: Scene, host: Path, tmp_path: Path):
    """A repository of models inside another one: add, update, work in it, push both."""
    first = alice.keep()
    alice.push()
    allow = ("-c", "protocol.file.allow=always")
    outer, outer_host = tmp_path / "outer", tmp_path / "outer.git"
    alice.git("init", "-q", outer)
    alice.git("init", "-q", "--bare", outer_host)
    alice.git(*allow, "submodule", "add", "-q", host, "models", cwd=outer)
    alice.git("commit", "-q", "-m", "with models", cwd=outer)
    inner = outer / "models"
    alice.at(first, at=inner)
    second = content(a=1)
    for name, data in second.items():
        (inner / name).write_bytes(data)
    alice.git("commit", "-q", "-a", "-m", "second", cwd=inner)
    alice.git("commit", "-q", "-a", "-m", "newer models", cwd=outer)
    alice.at(second, at=inner)
    alice.git("remote", "add", "origin", outer_host, cwd=outer)
    push = ("push", "-q", "--recurse-submodules=on-demand", "origin", "HEAD")
    alice.git(*allow, *push, cwd=outer)
    assert alice.git("status", "--porcelain", cwd=outer) == ""
    alice.git(*allow, "checkout", "-q", "--recurse-submodules", "HEAD~1", cwd=outer)
    alice.at(first, at=inner)
    clone = stranger.root / "outer"
    stranger.run(
        "git", *allow, "clone", "-q", "--recurse-submodules", outer_host, clone, cwd=stranger.root
    )
    stranger.at(second, at=clone / "models")
    stranger.git("checkout", "-q", "HEAD~1", cwd=clone)
    stranger.git(*allow, "submodule", "--quiet", "update", cwd=clone)
    stranger.at(first, at=clone / "models")


def placed(person: Scene) -> dict[str, bytes]:
    files = {f"{where}/{n}": d for where in ("in", "out") for n, d in content().items()}
    person.place(files | content(d=1))
    person.commit("in two directories")
    return files | content(d=1)


@pytest.mark.parametrize("sparse_index", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_sparse_checkout(alice: Scene, stranger: Scene, host: Path, sparse_index: bool):
    """Cone, cone with a sparse index, patterns: only what is asked for is restored."""
    files = placed(alice)
    alice.push()
    inside = {name: data for name, data in files.items() if not name.startswith("out/")}
    kind = "--sparse-index" if sparse_index else "--no-sparse-index"
    alice.git("sparse-checkout", "set", "--cone", kind, "in")
    alice.at(inside)
    assert not (alice.work / "out").exists()
    alice.place({"in/m.pt": content(c=7)[TORCH]})
    alice.commit("inside")
    inside["in/m.pt"] = content(c=7)[TORCH]
    alice.at(inside)
    alice.git("config", "theta.directFrom", "1k")
    alice.theta("checkout", "HEAD~1")
    alice.at({**inside, "in/m.pt": files["in/m.pt"]})
    alice.git("checkout", "-q", "main")
    if not sparse_index:
        alice.git("sparse-checkout", "set", "--no-cone", "/*", "!*.pt")
        alice.at({name: data for name, data in files.items() if name.endswith("tensors")})
        assert not (alice.work / TORCH).exists()
        alice.theta("pull")
        assert not (alice.work / TORCH).exists(), "what is not wanted here is not written"
        alice.git("sparse-checkout", "add", "*.pt")
    alice.git("sparse-checkout", "disable")
    alice.at(files | inside)
    alice.push()
    stranger.sees(host, {"origin/main": files | inside})


@pytest.mark.soak
def test_a_file_of_exactly_4_gib(alice: Scene):
    """Its size is 0 in Git's index: it is looked into again and again, and stays itself."""
    path = alice.work / SAFE
    text = b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}'
    size = (1 << 32) - 8 - 128
    header = (text % (size, size)).ljust(128)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(1 << 32)
    alice.commit("four gibibytes")
    assert alice.git("status", "--porcelain") == ""
    alice.git("rm", "-q", "-f", SAFE)  # by its size alone Git takes it for modified
    alice.theta("checkout", "HEAD", "--", SAFE)
    assert path.stat().st_size == 1 << 32
    with path.open("rb") as file:
        assert file.read(136) == len(header).to_bytes(8, "little") + header
        while block := file.read(64 << 20):
            assert not block.strip(b"\0")
    assert alice.git("status", "--porcelain") == ""
    subprocess.run(["git", "fsck"], cwd=alice.work, env=alice.env, check=True)
