"""Merges of every kind that Git has."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflows.scene import SAFE, TORCH, Scene, content

pytestmark = pytest.mark.git

UNMERGED = f"UU {TORCH}\nUU {SAFE}\n"
STAGED = f"M  {TORCH}\nM  {SAFE}\n"


def fork(person: Scene, *branches: dict[str, int]) -> list[dict[str, bytes]]:
    """A base on main, and a branch b0, b1, ... from it for each version; main is checked out."""
    person.grow("main", message="base")
    made = []
    for n, seeds in enumerate(branches):
        made.append(person.grow(f"b{n}", "main", **seeds))  # type: ignore[arg-type]
    person.git("reset", "-q", "--hard")
    return made


def test_fast_forward_ort_recursive_squash(alice: Scene, stranger: Scene, host: Path):
    """Each kind of merge gives the same bytes."""
    first, second = fork(alice, {"a": 1}, {"b": 1})
    alice.git("merge", "-q", "--ff-only", "b0")
    alice.at(first)
    both = content(a=1, b=1)
    for strategy in ("ort", "recursive"):
        alice.git("merge", "-q", "--no-edit", "-s", strategy, "b1")
        alice.at(both)
        alice.git("reset", "-q", "--hard", "b0")
    alice.git("merge", "-q", "--squash", "b1")
    alice.at(both, status=STAGED)
    alice.git("commit", "-q", "-m", "squashed")
    alice.git("checkout", "-q", "-b", "no-ff", "b1")
    alice.git("-c", "merge.renormalize=true", "merge", "-q", "--no-ff", "--no-edit", "b0")
    alice.at(both)
    alice.git("merge", "-q", "--no-edit", "-s", "ours", "main")
    alice.at(both)
    alice.push("--all", "origin")
    wanted = {"origin/main": both, "origin/no-ff": both, "origin/b1": second}
    stranger.sees(host, wanted)
    alice.git("config", "merge.renormalize", "true")
    assert "merge.renormalize" in alice.theta("doctor", code=None).stdout


def test_crossed_merges(alice: Scene):
    """Criss-cross: two merge bases; what both sides took over is no conflict."""
    alice.grow("main", message="base")
    alice.grow("b0", "main", a=1)
    alice.grow("b1", "main", b=1)
    alice.grow("one", "b0", "b1", a=1, b=1)
    alice.grow("one", a=1, b=1, c=1)
    alice.grow("other", "b1", "b0", a=1, b=1)
    alice.grow("other", a=1, b=1, d=1)
    alice.git("checkout", "-q", "-f", "other")
    assert len(alice.git("merge-base", "--all", "one", "other").split()) == 2
    for strategy in ("ort", "recursive"):
        alice.git("merge", "-q", "--no-edit", "-s", strategy, "one")
        alice.at(content(a=1, b=1, c=1, d=1))
        alice.git("reset", "-q", "--hard", "HEAD~1")


def test_octopus(alice: Scene, stranger: Scene, host: Path):
    """Git's own is refused, with advice, and nothing is lost; git theta merge does it."""
    _, _, last = fork(alice, {"a": 1}, {"b": 1}, {"c": 1})
    alice.git("checkout", "-q", "b2")
    done = alice.run("git", "merge", "b0", "b1", code=None)
    assert done.returncode != 0
    assert "git theta merge" in done.stderr
    alice.git("reset", "-q", "--merge")
    alice.at(last)
    alice.theta("merge", "b0", "b1")
    alice.at(content(a=1, b=1, c=1))
    assert len(alice.git("log", "-1", "--format=%P").split()) == 3
    alice.push()
    stranger.sees(host, {"origin/b2": content(a=1, b=1, c=1)})


def test_an_octopus_that_touches_one_branchs_models(alice: Scene):
    """Where one branch alone changed the models, Git's octopus needs no merge of them."""
    (first,) = fork(alice, {"a": 1})
    for name in ("x", "y"):
        alice.git("checkout", "-q", "-b", name, "main")
        (alice.work / f"{name}.txt").write_text(name)
        alice.commit(name)
    alice.git("merge", "-q", "--no-edit", "x", "b0")
    alice.at(first)
    assert len(alice.git("log", "-1", "--format=%P").split()) == 3


def test_unrelated_histories(alice: Scene, stranger: Scene, host: Path):
    """Both have a model at the same path and no ancestor: a conflict, unless they are equal."""
    ours = alice.grow("main", a=1)
    theirs = alice.grow("other", a=2)
    root = alice.git("commit-tree", "other^{tree}", "-m", "no parents").strip()
    alice.git("update-ref", "refs/heads/other", root)
    alice.git("reset", "-q", "--hard")
    assert "unrelated" in alice.run("git", "merge", "other", code=128).stderr
    alice.at(ours)
    merge = ("merge", "-q", "--no-edit", "--allow-unrelated-histories", "other")
    alice.git(*merge, code=1)
    alice.at(ours, status=UNMERGED.replace("UU", "AA"))
    for name in (SAFE, TORCH):
        alice.theta("resolve", name, "--strategy", "theirs")
    alice.git("commit", "-q", "--no-edit")
    alice.at(theirs)
    alice.push()
    stranger.sees(host, {"origin/main": theirs, "origin/main~1": ours})
