"""Somebody who never heard of git-theta works in the same repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflows.scene import SAFE, TORCH, Scene, content

pytestmark = pytest.mark.git


@pytest.fixture
def dave(tmp_path: Path) -> Scene:
    """Plain Git: no filter is configured."""
    return Scene(tmp_path / "dave")


def test_what_they_see_and_do(alice: Scene, dave: Scene, stranger: Scene, host: Path):
    """The manifest's first lines tell them what to do; nothing of what they do loses a model."""
    first = alice.grow("main")
    alice.push()
    dave.clone(host)
    for name in (SAFE, TORCH):
        head = "".join((dave.work / name).read_text().splitlines(keepends=True)[:2])
        assert "pip install git-theta" in head
        assert "git theta install" in head
        assert "git theta pull" in head
    assert dave.git("status", "--porcelain") == ""
    # They work on other things, rename a model, and copy one; all of that is fine.
    (dave.work / "notes").write_text("read me")
    dave.git("mv", TORCH, "renamed.pt")
    (dave.work / "copy.safetensors").write_text((dave.work / SAFE).read_text())
    dave.commit("beside the models")
    dave.push()
    alice.git("pull", "-q", "--ff-only", "origin", "main")
    told = {SAFE: first[SAFE], "copy.safetensors": first[SAFE], "renamed.pt": first[TORCH]}
    alice.at(told)
    stranger.sees(host, {"origin/main": told})


def test_they_commit_a_model(alice: Scene, dave: Scene, stranger: Scene, host: Path):
    """It is in Git raw. We check it out as it is, are told, and store it properly from there on."""
    alice.grow("main")
    alice.push()
    alice.git("reset", "-q", "--hard")
    dave.clone(host)
    second = content(a=1)
    for name, data in second.items():
        (dave.work / name).write_bytes(data)
    dave.commit("raw")
    dave.push()
    alice.git("pull", "-q", "--ff-only", "origin", "main")
    alice.files(second)
    assert "committed raw" in alice.theta("doctor", code=1).stdout
    alice.git("add", "--renormalize", ".")
    alice.git("commit", "-q", "-m", "stored by git-theta")
    alice.holds_manifests()
    alice.at(second)
    alice.push()
    stranger.sees(host, {"origin/main": second})
    stranger.git("checkout", "-q", "HEAD~1")
    stranger.files(second)


def test_they_merge(alice: Scene, dave: Scene, stranger: Scene, host: Path):
    """Texts are merged by lines: a conflict, which they leave to somebody who can settle it."""
    alice.grow("main")
    theirs = alice.grow("side", "main", b=1)
    alice.grow("main", a=1)
    alice.push("--all", "origin")
    dave.clone(host)
    dave.git("merge", "-q", "origin/side", code=1)
    assert "CONFLICT" in dave.run("git", "status", code=0).stdout or dave.git("ls-files", "-u")
    # They install the tool after all, and do what its documents say.
    dave.theta("install")
    dave.git("merge", "--abort")
    dave.theta("pull")
    dave.at(content(a=1))
    dave.git("merge", "-q", "--no-edit", "origin/side")
    dave.at(content(a=1, b=1))
    dave.push()
    stranger.sees(host, {"origin/main": content(a=1, b=1), "origin/side": theirs})


def test_they_committed_the_markers(alice: Scene, dave: Scene, host: Path):
    """A manifest with conflict markers in a commit: told at checkout, and the way out works."""
    alice.grow("main")
    alice.grow("side", "main", b=1)
    mine = alice.grow("main", a=1)
    alice.git("reset", "-q", "--hard")
    alice.push("--all", "origin")
    dave.clone(host)
    dave.git("merge", "-q", "origin/side", code=1)
    dave.git("add", "-A")
    dave.git("commit", "-q", "-m", "merged, I think")
    dave.push()
    alice.git("fetch", "-q")
    said = alice.run("git", "merge", "--ff-only", "origin/main", code=None).stderr
    assert "conflict markers" in said
    alice.git("reset", "-q", "--hard", "main")
    alice.at(mine)
    alice.git("reset", "-q", "--soft", "origin/main")
    alice.git("checkout", "-q", "HEAD^1", "--", SAFE, TORCH)
    alice.git("commit", "-q", "-m", "models as they were on main")
    alice.at(mine)
