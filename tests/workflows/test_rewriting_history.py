"""revert, cherry-pick, rebase, am, filter-branch, filter-repo, fast-import, replace, notes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.workflows.scene import SAFE, TORCH, Scene, content

pytestmark = pytest.mark.git

UNMERGED = f"UU {TORCH}\nUU {SAFE}\n"


def settle(person: Scene, strategy: str) -> None:
    for name in (SAFE, TORCH):
        person.theta("resolve", name, "--strategy", strategy)


def test_cherry_pick_and_revert(alice: Scene, stranger: Scene, host: Path):
    """A range; a conflict, --abort, --continue, --skip; revert of a pick and of a merge."""
    alice.grow("main")
    alice.grow("side", "main", message="a", a=1)
    alice.grow("side", message="b", a=1, b=1)
    alice.grow("main", message="c", c=1)
    alice.git("reset", "-q", "--hard")
    alice.git("cherry-pick", "main..side")
    both = content(a=1, b=1, c=1)
    alice.at(both)
    alice.git("revert", "--no-edit", "HEAD~1")
    alice.at(content(b=1, c=1))
    ours = alice.keep("another a", a=2, b=1, c=1)
    alice.git("cherry-pick", "side~1", code=1)
    alice.at(ours, status=UNMERGED)
    alice.git("cherry-pick", "--abort")
    alice.at(ours)
    alice.git("cherry-pick", "side~1", "side", code=1)
    settle(alice, "theirs")
    # The second of the two brings nothing new, and Git asks what to do with it.
    alice.git("cherry-pick", "--continue", code=1)
    alice.git("cherry-pick", "--skip")
    alice.at(both)
    alice.git("revert", "--no-edit", "HEAD")
    alice.at(ours)
    alice.grow("third", "HEAD~1", a=1, b=1, c=1, d=1)
    alice.git("merge", "-q", "--no-edit", "third")
    alice.at(content(a=2, b=1, c=1, d=1))
    alice.git("revert", "--no-edit", "-m", "1", "HEAD")
    alice.at(ours)
    alice.push()
    stranger.sees(host, {"origin/main": ours, "origin/main^^2~1": both})


def rebased(person: Scene, start: str, *words: str, code: int = 0, **env: str) -> None:
    person.git("checkout", "-q", "-B", "topic", start)
    person.git("rebase", "-q", *words, code=code, env=env)


def test_rebase(alice: Scene, stranger: Scene, host: Path):
    """Merge and apply backends, --onto, squash, --autosquash; a conflict that is settled."""
    alice.grow("main")
    alice.grow("side", "main", message="a", a=1)
    alice.grow("side", message="b", a=1, b=1)
    alice.grow("main", message="c", c=1)
    alice.git("reset", "-q", "--hard")
    alice.push()
    for backend in ("--merge", "--apply"):
        rebased(alice, "side", backend, "main")
        alice.at(content(a=1, b=1, c=1))
        assert alice.git("log", "--format=%s", "main..").split() == ["b", "a"]
    rebased(alice, "side", "--onto", "main", "side~1")
    alice.at(content(b=1, c=1))
    squash = "sed -i -e 2s/pick/squash/"
    rebased(alice, "side", "-i", "main", GIT_SEQUENCE_EDITOR=squash)
    alice.at(content(a=1, b=1, c=1))
    assert len(alice.git("log", "--format=%h", "main..").split()) == 1
    alice.push("--force", "origin", "topic")
    alice.git("checkout", "-q", "-B", "topic", "side")
    alice.put(a=3, b=1)
    alice.git("commit", "-q", "-a", "--fixup", "HEAD~1")
    alice.git("rebase", "-q", "-i", "--autosquash", "main")
    alice.at(content(a=3, b=1, c=1))
    assert alice.git("log", "--format=%s", "main..").split() == ["b", "a"]
    alice.push("--force", "origin", "topic")
    wanted = {"origin/topic": content(a=3, b=1, c=1), "origin/topic~1": content(a=3, c=1)}
    stranger.sees(host, wanted)


def test_a_conflict_in_a_rebase(alice: Scene):
    """--abort, --skip and --continue, with both backends."""
    alice.grow("main")
    mine = alice.grow("side", "main", message="a", a=1, b=1)
    upstream = alice.grow("main", message="another a", a=2)
    alice.git("reset", "-q", "--hard")
    for backend in ("--merge", "--apply"):
        rebased(alice, "side", backend, "main", code=1)
        alice.at(upstream, status=UNMERGED)
        alice.git("rebase", "--abort")
        alice.at(mine)
        rebased(alice, "side", backend, "main", code=1)
        settle(alice, "theirs")
        alice.git("rebase", "--continue")
        alice.at(mine)
        assert alice.git("rev-parse", "HEAD~1") == alice.git("rev-parse", "main")


def test_patches_by_mail(alice: Scene, stranger: Scene, host: Path):
    """format-patch and am: manifests travel, the weights come from where they were pushed."""
    base = alice.grow("main")
    mine = alice.grow("side", "main", message="a", a=1)
    alice.push("origin", "main", "side")
    patch = alice.git("format-patch", "--stdout", "-1", "side")
    mail = stranger.root / "mail"
    mail.write_text(patch)
    stranger.sees(host, {"origin/main": base})
    stranger.git("checkout", "-q", "main")
    stranger.git("am", "-q", mail)
    stranger.at(mine)
    stranger.git("reset", "-q", "--hard", "origin/main")
    stranger.keep("b", b=1)
    stranger.git("am", "-q", mail, code=128)
    stranger.git("am", "--abort")
    stranger.at(content(b=1))
    stranger.git("am", "-q", "--3way", mail)
    stranger.at(content(a=1, b=1))


def test_history_rewritten_whole(alice: Scene, stranger: Scene, host: Path):
    """filter-branch by index and by tree, filter-repo: models stay byte for byte."""
    (alice.work / "secret").write_text("to be forgotten")
    alice.commit("a secret")
    versions = [alice.grow("main", message=f"number {n}", a=n) for n in range(3)]
    alice.git("reset", "-q", "--hard")
    alice.push()
    quiet = {"FILTER_BRANCH_SQUELCH_WARNING": "1"}
    forget = "git rm -q --cached --ignore-unmatch secret"
    alice.git("filter-branch", "-f", "--index-filter", forget, "--", "--all", env=quiet)
    alice.at(versions[-1])
    assert alice.git("log", "--format=%s", "--", "secret") == ""
    move = f"mkdir -p sub && mv {TORCH} {SAFE} sub/ 2>/dev/null || true"
    alice.git("filter-branch", "-f", "--tree-filter", move, "main", env=quiet)
    moved = [{f"sub/{name}": data for name, data in version.items()} for version in versions]
    alice.at(moved[-1])
    alice.push("--force", "origin", "main")
    wanted = {f"origin/main~{2 - number}": version for number, version in enumerate(moved)}
    stranger.sees(host, wanted)
    alice.git("filter-repo", "--force", "--quiet", "--path-rename", "sub/:")
    alice.at(versions[-1])
    alice.git("remote", "add", "again", host)
    alice.push("--force", "again", "main")
    wanted = {f"origin/main~{2 - number}": version for number, version in enumerate(versions)}
    stranger.sees(host, wanted)
    stranger.theta("fsck")


def test_fast_export_and_import(alice: Scene, stranger: Scene):
    """The manifests of all commits travel; the weights are fetched from the old repository."""
    versions = [alice.grow("main", message=f"number {n}", a=n) for n in range(2)]
    exported = subprocess.run(
        ["git", "fast-export", "--all"],
        cwd=alice.work, env=alice.env, capture_output=True, check=True,
    ).stdout  # fmt: skip
    stranger.work.mkdir()
    stranger.git("init", "-q")
    subprocess.run(
        ["git", "fast-import", "--quiet"],
        cwd=stranger.work, env=stranger.env, input=exported, check=True,
    )  # fmt: skip
    stranger.git("remote", "add", "origin", alice.work)
    stranger.git("reset", "-q", "--hard", "main")
    stranger.at(versions[-1])
    stranger.git("checkout", "-q", "main~1")
    stranger.at(versions[0])


def test_replace_and_notes(alice: Scene, stranger: Scene, host: Path):
    """What `git replace` shows is not what a push brings; notes are Git's own business."""
    first = alice.grow("main", a=1)
    third = alice.grow("other", "main", a=3)
    second = alice.grow("main", a=2)
    alice.git("reset", "-q", "--hard")
    alice.git("replace", "main", "other")
    alice.git("checkout", "-q", "--force", "--detach", "main~1")
    alice.at(first)
    alice.git("checkout", "-q", "main")
    alice.at(third)
    alice.git("notes", "add", "-m", "loss 0.25", "other")
    alice.push("origin", "main", "refs/notes/*:refs/notes/*")
    stranger.sees(host, {"origin/main": second, "origin/main~1": first})
    alice.git("replace", "-d", alice.git("rev-parse", "main").strip())
    blob, instead = alice.git("rev-parse", f"main:{TORCH}", f"other:{TORCH}").split()
    alice.git("replace", blob, instead)
    alice.git("-c", "theta.gracePeriod=0", "theta", "prune")
    alice.git("replace", "-d", blob)
    alice.git("reset", "-q", "--hard")
    alice.at(second)
    alice.push("origin", "other")
    stranger.sees(host, {"origin/other": third})
    stranger.git("fetch", "-q", "origin", "refs/notes/*:refs/notes/*")
    assert "loss 0.25" in stranger.git("log", "-1", "origin/other")
