"""checkout, switch, tags, bisect, and files that are in conflict."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflows.scene import SAFE, TORCH, Scene, content

pytestmark = pytest.mark.git

BOTH = f" M {TORCH}\n M {SAFE}\n"
STAGED = f"M  {TORCH}\nM  {SAFE}\n"
UNMERGED = f"UU {TORCH}\nUU {SAFE}\n"


def test_branches_and_tags(alice: Scene, stranger: Scene, host: Path):
    """checkout BRANCH, -b, -, --detach, -- path; switch, -c; a tag; `git theta` doing the same."""
    first = alice.grow("main")
    alice.git("tag", "-a", "v1", "-m", "first", "main")
    second = alice.grow("side", "main", a=1)
    alice.git("checkout", "-q", "-f", "-b", "new", "side")
    alice.git("checkout", "-q", "main")
    alice.at(first)
    alice.git("checkout", "-q", "-")
    alice.files(second)
    alice.git("checkout", "-q", "--detach", "v1")
    alice.at(first)
    alice.git("checkout", "-q", "side", "--", SAFE)
    mixed = {SAFE: second[SAFE], TORCH: first[TORCH]}
    alice.at(mixed, status=f"M  {SAFE}\n")
    alice.git("switch", "-q", "-c", "third")
    alice.git("commit", "-q", "-m", "one of them")
    alice.at(mixed)
    alice.git("switch", "-q", "side")
    (alice.work / TORCH).unlink()
    alice.git("checkout", "--", TORCH)
    alice.at(second)
    alice.theta("switch", "main")
    alice.at(first)
    alice.theta("checkout", "third")
    alice.at(mixed)
    alice.theta("restore", "--source=side", "--staged", "--worktree", TORCH)
    alice.at(second, status=f"M  {TORCH}\n")
    alice.git("checkout", "-q", "-f", "main")
    alice.push("origin", "--all")
    alice.push("origin", "v1")
    stranger.sees(host, {"v1": first, "origin/side": second, "origin/third": mixed})


def test_uncommitted_changes_and_another_branch(alice: Scene):
    """checkout refuses to lose them; with --merge it merges them tensor by tensor."""
    base = alice.grow("main")
    alice.grow("side", "main", b=1)
    alice.git("reset", "-q", "--hard")
    mine = alice.put(a=1)
    said = alice.run("git", "checkout", "side", code=1).stderr
    assert "would be overwritten" in said
    alice.at(mine, status=BOTH)
    alice.git("checkout", "-q", "--merge", "side")
    alice.at(content(a=1, b=1), status=BOTH)
    alice.git("checkout", "-q", "--force", "main")
    alice.at(base)
    mine = alice.put(b=2)
    alice.git("checkout", "-q", "--merge", "side")
    alice.at(content(b=1), status=UNMERGED)
    alice.git("checkout", "--theirs", "--", ".")
    alice.git("add", ".")
    alice.at(mine, status=STAGED)


def test_sides_of_a_conflict(alice: Scene, stranger: Scene, host: Path):
    """checkout --ours, --theirs, --merge of files in conflict, and restore by the same names."""
    alice.grow("main")
    theirs = alice.grow("side", "main", a=1, b=1)
    ours = alice.grow("main", a=2, c=1)
    alice.git("reset", "-q", "--hard")
    alice.git("merge", "-q", "side", code=1)
    alice.at(ours, status=UNMERGED)
    alice.git("checkout", "--theirs", "--", SAFE, TORCH)
    alice.at(theirs, status=UNMERGED)
    alice.git("checkout", "--merge", "--", SAFE, TORCH)
    alice.at(ours, status=UNMERGED)
    alice.git("restore", "--theirs", TORCH)
    alice.git("restore", "--ours", SAFE)
    alice.at({SAFE: ours[SAFE], TORCH: theirs[TORCH]}, status=UNMERGED)
    alice.git("add", TORCH)
    alice.git("checkout", "--merge", "--", TORCH)
    alice.at(ours, status=UNMERGED)
    alice.git("merge", "--abort")
    alice.at(ours)
    alice.git("merge", "-q", "side", code=1)
    for name in (SAFE, TORCH):
        alice.theta("resolve", name, "--strategy", "theirs")
    both = content(a=1, b=1, c=1)
    alice.at(both, status=STAGED)
    alice.git("commit", "-q", "--no-edit")
    alice.at(both)
    alice.push()
    stranger.sees(host, {"origin/main": both, "origin/main^2": theirs})


def test_bisect(alice: Scene):
    """bisect run with a program that looks at the files."""
    versions = [alice.grow("main", message=f"number {n}", a=n) for n in range(6)]
    alice.git("reset", "-q", "--hard")
    good = alice.root / "good"
    good.mkdir()
    for number, version in enumerate(versions[:3]):
        (good / str(number)).write_bytes(version[TORCH] + version[SAFE])
    test = alice.root / "test"
    compare = f'cat {TORCH} {SAFE} | cmp -s - "$f" && exit 0;'
    test.write_text(f'#!/bin/sh\nfor f in "{good}"/*; do {compare} done\nexit 1\n')
    test.chmod(0o755)
    alice.git("bisect", "start", "HEAD", "HEAD~5")
    told = alice.git("bisect", "run", test)
    assert "is the first bad commit" in told
    assert alice.git("log", "-1", "--format=%s", "refs/bisect/bad").strip() == "number 3"
    alice.git("bisect", "reset")
    alice.at(versions[-1])
