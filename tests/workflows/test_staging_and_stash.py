"""add, commit, status, stash, restore, reset."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.checkpoints import weights
from tests.sandbox import encode
from tests.workflows.scene import SAFE, TORCH, Scene, content

pytestmark = pytest.mark.git

BOTH = f" M {TORCH}\n M {SAFE}\n"
STAGED = f"M  {TORCH}\nM  {SAFE}\n"


def test_add_commit_status(alice: Scene, stranger: Scene, host: Path):
    """add of a path, `.` and -u; commit, -a and --amend; status at every stop."""
    first = alice.put()
    alice.at(first, status=f"?? {TORCH}\n?? {SAFE}\n")
    alice.git("add", SAFE)
    alice.at(first, status=f"A  {SAFE}\n?? {TORCH}\n")
    alice.git("add", ".")
    alice.git("commit", "-q", "-m", "first")
    alice.at(first)
    alice.holds_manifests()
    second = alice.put(a=1)
    (alice.work / "new.pt").write_bytes(first[TORCH])
    alice.at(second, status=BOTH + "?? new.pt\n")
    alice.git("add", "-u")
    alice.at(second, status=STAGED + "?? new.pt\n")
    alice.git("commit", "-q", "-m", "second")
    alice.at(second, status="?? new.pt\n")
    (alice.work / "new.pt").unlink()
    third = alice.put(a=1, b=1)
    alice.git("commit", "-q", "-a", "-m", "third")
    alice.at(third)
    fourth = alice.put(a=1, b=2)
    alice.git("commit", "-q", "-a", "--amend", "-m", "third, better")
    alice.at(fourth)
    alice.git("commit", "-q", "--amend", "-m", "another message only")
    alice.at(fourth)
    alice.push()
    stranger.sees(host, {"origin/main": fourth, "origin/main~1": second, "origin/main~2": first})


def test_restore_and_reset(alice: Scene, stranger: Scene, host: Path):
    """restore, --staged, --source; reset --soft, --mixed, --hard, and of a path."""
    first = alice.keep(a=1)
    second = alice.keep(a=2)
    alice.push()
    third = alice.put(a=3)
    alice.git("add", ".")
    alice.git("restore", "--staged", SAFE)
    alice.at(third, status=f"M  {TORCH}\n M {SAFE}\n")
    alice.git("restore", SAFE)
    alice.at({TORCH: third[TORCH], SAFE: second[SAFE]}, status=f"M  {TORCH}\n")
    alice.git("restore", "--staged", "--worktree", "--source=HEAD~1", ".")
    alice.at(first, status=STAGED)
    alice.git("reset", "-q", "--hard")
    alice.at(second)
    alice.git("reset", "-q", "--soft", "HEAD~1")
    alice.at(second, status=STAGED)
    alice.git("reset", "-q", "--mixed")
    alice.at(second, status=BOTH)
    alice.git("reset", "-q", "--hard")
    alice.at(first)
    alice.git("reset", "-q", "--hard", "origin/main")
    alice.at(second)
    alice.git("rm", "-q", "--cached", TORCH)
    alice.at(second, status=f"D  {TORCH}\n?? {TORCH}\n")
    alice.git("reset", "-q", "--", TORCH)
    alice.at(second)
    stranger.sees(host, {"origin/main": second, "origin/main~1": first})


def picking(person: Scene, answers: str, *words: str) -> str:
    """Run a command that asks about hunks, and answer it; what it said to the user."""
    done = subprocess.run(
        ["git", *words], cwd=person.work, env=person.env, input=answers,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "objects" not in done.stdout, "no hunk of a manifest is offered"
    return done.stderr


def test_hunks_of_a_model_cannot_be_chosen(alice: Scene):
    """add -p, stash -p, commit -p, checkout -p: models are passed over, with a line."""
    notes = alice.work / "notes"
    notes.write_text("one\n")
    first = alice.keep()
    second = alice.put(a=1, d=1)
    notes.write_text("one\ntwo\n")
    said = picking(alice, "y\n" * 9, "add", "-p")
    assert said.count("it is taken whole: do so without -p") == 2
    alice.at(second, status=BOTH + "M  notes\n")
    picking(alice, "y\n" * 9, "commit", "-p", "-m", "notes only")
    alice.at(second, status=BOTH)
    notes.write_text("one\ntwo\nthree\n")
    picking(alice, "y\n" * 9, "stash", "-p")
    assert notes.read_text() == "one\ntwo\n"
    alice.at(second, status=BOTH)
    picking(alice, "y\n" * 9, "checkout", "-p")
    alice.at(second, status=BOTH)
    new = alice.work / "new.pt"
    new.write_bytes(first[TORCH])
    alice.git("add", "--intent-to-add", "new.pt")
    alice.git("add", "new.pt")
    alice.git("commit", "-q", "-m", "a new one")
    alice.git("rm", "-q", "new.pt")
    alice.git("checkout", "-q", "HEAD", "--", "new.pt")
    assert new.read_bytes() == first[TORCH]
    assert "is missing" not in alice.theta("fsck").stdout
    alice.at(second, status=BOTH)


def test_hunks_that_git_compares_without_us(alice: Scene):
    """reset -p, and checkout -p of a commit: half a manifest is refused, and nothing is lost."""
    versions = []
    for seed in (0, 100):  # far from the manifest's head: a hunk of its own
        last = {"z": weights(8, 24, seed=seed)}
        versions.append(
            {SAFE: encode({f"t{n:02}": weights(8, 24, seed=n) for n in range(20)} | last)}
        )
        alice.place(versions[-1])
        alice.commit()
    second = versions[1]

    def answer(*words: str) -> str:
        words = ("git", "-c", "interactive.singleKey=false", *words)
        done = subprocess.run(
            words, cwd=alice.work, env=alice.env, input="y\nq\n", capture_output=True, text=True
        )
        return done.stderr

    answer("reset", "-p", "HEAD~1", "--", SAFE)
    assert alice.git("diff", "--cached", "--no-ext-diff", "--name-only") == f"{SAFE}\n"
    alice.files(second)
    alice.git("commit", "-q", "-m", "half of it")
    alice.files(second)
    assert "nobody could check it out" in alice.run("git", "push", "origin", "HEAD", code=1).stderr
    assert SAFE in alice.theta("fsck", code=5).stdout
    (alice.work / SAFE).unlink()
    refused = alice.run("git", "checkout", "--", SAFE, code=128).stderr
    assert f"take it whole from a commit that has it: git checkout COMMIT -- {SAFE}" in refused
    alice.git("checkout", "HEAD~1", "--", SAFE)
    alice.files(second)
    alice.git("commit", "-q", "--amend", "--allow-empty", "-m", "whole")
    alice.at(second)
    alice.git("push", "-q", "origin", "HEAD")
    refused = answer("checkout", "-p", "HEAD~2", "--", SAFE)
    assert "take it whole from a commit that has it" in refused
    alice.git("checkout", "HEAD", "--", SAFE)
    alice.at(second)


def test_a_patch_names_what_is_stored(alice: Scene):
    """A patch of the work tree for `git apply`: the manifest in it can be restored."""
    first = alice.keep()
    second = alice.put(a=1)
    for patch in (("diff", "--no-ext-diff"), ("diff-index", "-p", "HEAD")):
        text = alice.git(*patch)
        alice.git("checkout", "--", ".")
        alice.at(first)
        (alice.root / "patch").write_text(text)
        alice.git("apply", "--cached", alice.root / "patch")
        alice.git("checkout", "--", ".")
        alice.at(second, status=STAGED)
        alice.git("reset", "-q")


def test_stash(alice: Scene, stranger: Scene, host: Path):
    """stash push, pop, apply, branch, --include-untracked, --keep-index, of a path; drop."""
    first = alice.keep()
    second = alice.put(a=1)
    new = {f"new/{name}": data for name, data in content(b=5).items()}
    alice.place(new)
    alice.git("stash", "push", "-q", "--include-untracked", "-m", "both")
    alice.at(first)
    assert not (alice.work / "new").exists()
    alice.git("stash", "apply", "-q")
    alice.at(second | new, status=BOTH + "?? new/\n")
    alice.git("reset", "-q", "--hard")
    alice.git("clean", "-q", "-f", "-d")
    third = alice.keep(c=1)
    alice.git("stash", "branch", "from-stash")
    both = second | new
    alice.at(both, status=BOTH + "?? new/\n")
    alice.commit("what was stashed")
    alice.at(both)
    alice.git("switch", "-q", "main")
    staged = alice.put(c=1, d=1)
    alice.git("add", SAFE)
    alice.git("stash", "push", "-q", "--keep-index")
    alice.at({SAFE: staged[SAFE], TORCH: third[TORCH]}, status=f"M  {SAFE}\n")
    alice.git("reset", "-q", "--hard")
    alice.git("stash", "pop", "-q", "--index")
    alice.at(staged, status=f" M {TORCH}\nM  {SAFE}\n")
    alice.git("stash", "push", "-q", "--", TORCH)
    alice.at({SAFE: staged[SAFE], TORCH: third[TORCH]}, status=f"M  {SAFE}\n")
    alice.git("stash", "drop", "-q")
    alice.git("commit", "-q", "-m", "one of them")
    alice.push("--all", "origin")
    mixed = {SAFE: staged[SAFE], TORCH: third[TORCH]}
    stranger.sees(host, {"origin/main": mixed, "origin/from-stash": both})


def test_a_stash_onto_other_changes(alice: Scene):
    """Popped onto a commit that changed other tensors it merges; onto the same one it conflicts."""
    alice.keep()
    alice.put(a=1)
    alice.git("stash", "-q")
    alice.keep(b=1)
    alice.git("stash", "pop", "-q")
    alice.at(content(a=1, b=1), status=BOTH)
    alice.git("stash", "-q")
    mine = alice.keep(a=2, b=1)
    alice.git("stash", "pop", "-q", code=1)
    alice.at(mine, status=f"UU {TORCH}\nUU {SAFE}\n")
    alice.git("checkout", "--theirs", "--", ".")
    alice.git("add", ".")
    alice.git("stash", "drop", "-q")
    alice.at(content(a=1, b=1), status=STAGED)
