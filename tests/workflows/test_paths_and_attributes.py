"""Names, links, modes, ends of lines, and other tools' attributes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.workflows.scene import SAFE, TORCH, Scene, content

pytestmark = pytest.mark.git

ODD = [
    "with space",
    "-dash",
    "quote\"and's",
    "schön-模型",
    "$(touch pwned);`id`",
    "a\\b",
    "tab\there",
]


def test_renames(alice: Scene, stranger: Scene, host: Path):
    """git mv, a move by hand, a change of case, into a directory that takes a file's place."""
    first = alice.keep()
    stored = len(alice.objects())
    alice.git("mv", TORCH, "M.pt")
    alice.git("mv", SAFE, "deep.safetensors")
    (alice.work / "dir").mkdir()
    alice.commit("renamed")
    alice.at({"M.pt": first[TORCH], "deep.safetensors": first[SAFE]})
    (alice.work / "M.pt").rename(alice.work / "dir" / "m.pt")
    (alice.work / "deep.safetensors").rename(alice.work / "x")
    (alice.work / "deep.safetensors").mkdir()
    (alice.work / "x").rename(alice.work / "deep.safetensors" / "in.safetensors")
    alice.commit("moved")
    moved = {"dir/m.pt": first[TORCH], "deep.safetensors/in.safetensors": first[SAFE]}
    alice.at(moved)
    assert len(alice.objects()) == stored, "a new name costs nothing"
    assert len(alice.git("log", "--follow", "--format=%h", "--", "dir/m.pt").split()) == 3
    alice.git("checkout", "-q", "HEAD~1")
    alice.at({"M.pt": first[TORCH], "deep.safetensors": first[SAFE]})
    alice.git("checkout", "-q", "HEAD~1")
    alice.at(first)
    alice.git("checkout", "-q", "main")
    alice.at(moved)
    alice.push()
    stranger.sees(host, {"origin/main": moved, "origin/main~2": first})


def test_paths_that_break_things(alice: Scene, stranger: Scene, host: Path):
    """Spaces, quotes, Unicode, leading dashes, shell words: through add, merge, push, clone."""
    files: dict[str, bytes] = {}
    for number, name in enumerate(ODD):
        data = content(a=number)
        files |= {f"{name}.pt": data[TORCH], f"-{name}/{name}.safetensors": data[SAFE]}

    alice.place(files)
    alice.commit("odd names")
    alice.at(files)
    alice.git("checkout", "-q", "-b", "side")
    theirs = {name: content(b=1)[SAFE if "safetensors" in name else TORCH] for name in files}
    alice.place(theirs)
    alice.commit("theirs")
    alice.git("checkout", "-q", "main")
    alice.at(files)
    name = f"{ODD[4]}.pt"
    (alice.work / name).write_bytes(content(a=4, c=1)[TORCH])
    alice.commit("ours")
    alice.git("merge", "-q", "--no-edit", "-X", "theirs", "side")
    merged = theirs | {name: content(b=1, c=1)[TORCH]}
    alice.at(merged)
    (alice.work / "-dash.pt").unlink()
    alice.theta("restore", "--", "-dash.pt")
    alice.theta("show", "--", "-dash.pt")
    alice.at(merged)
    assert not list(alice.work.rglob("pwned"))
    alice.push("--all", "origin")
    stranger.sees(host, {"origin/main": merged, "origin/side~1": files})


def test_links_and_modes(alice: Scene, stranger: Scene, host: Path):
    """A link to a model stays a link, one that dangles too; the executable bit goes along."""
    first = alice.put()
    (alice.work / TORCH).chmod(0o755)
    (alice.work / "latest.pt").symlink_to(TORCH)
    (alice.work / "gone.safetensors").symlink_to("nowhere.safetensors")
    (alice.work / "models").mkdir()
    (alice.work / "dir.pt").symlink_to("models")
    alice.commit("links")
    alice.at(first)
    (alice.work / TORCH).chmod(0o644)
    (alice.work / SAFE).chmod(0o755)
    alice.at(first, status=BOTH)
    alice.commit("modes only")
    second = alice.keep("content", a=1)
    alice.git("checkout", "-q", "HEAD~2")
    alice.at(first)
    assert os.access(alice.work / TORCH, os.X_OK)
    assert not os.access(alice.work / SAFE, os.X_OK)
    # A link where a model was, and a model where a link was.
    alice.git("switch", "-q", "main")
    (alice.work / "latest.pt").unlink()
    (alice.work / TORCH).rename(alice.work / "latest.pt")
    (alice.work / TORCH).symlink_to("latest.pt")
    alice.commit("exchanged")
    exchanged = {"latest.pt": second[TORCH], **second}
    alice.at(exchanged)
    alice.git("checkout", "-q", "HEAD~1")
    alice.at(second)
    alice.push("origin", "main")
    stranger.sees(host, {"origin/main~3": first, "origin/main": exchanged})
    assert (stranger.work / TORCH).is_symlink()
    assert (stranger.work / "gone.safetensors").readlink() == Path("nowhere.safetensors")
    assert os.access(stranger.work / SAFE, os.X_OK)


BOTH = f" M {TORCH}\n M {SAFE}\n"


def test_ends_of_lines(alice: Scene, stranger: Scene, host: Path):
    """core.autocrlf, core.eol and core.safecrlf: a model is no text, and its manifest stays LF."""
    for key, value in (("autocrlf", "true"), ("safecrlf", "warn")):
        alice.git("config", "--global", f"core.{key}", value)
    (alice.work / "notes.txt").write_bytes(b"one\r\ntwo\r\n")
    first = alice.keep()
    alice.at(first)
    assert "\r" not in alice.git("cat-file", "blob", f"HEAD:{TORCH}")
    second = alice.keep("other", a=1)
    alice.git("checkout", "-q", "HEAD~1")
    alice.at(first)
    alice.push("origin", "main")
    stranger.git("config", "--global", "core.autocrlf", "true", cwd=stranger.root)
    stranger.git("config", "--global", "core.eol", "crlf", cwd=stranger.root)
    stranger.sees(host, {"origin/main": second, "origin/main~1": first})
    assert (stranger.work / "notes.txt").read_bytes() == b"one\r\ntwo\r\n"


def test_git_lfs_in_the_same_repository(alice: Scene, stranger: Scene, host: Path):
    """*.bin goes to Git LFS, models to us; both are pushed, cloned, pruned and checked."""
    for person in (alice, stranger):
        person.run("git", "lfs", "install", "--skip-repo", cwd=person.root)
    alice.git("lfs", "track", "*.bin")
    first = alice.put()
    first["other.bin"] = first[TORCH]
    (alice.work / "other.bin").write_bytes(first["other.bin"])
    alice.commit("both")
    assert alice.git("cat-file", "blob", "HEAD:other.bin").startswith("version https://git-lfs")
    alice.holds_manifests()
    alice.at(first)
    alice.push()
    second = alice.put(a=1)
    (alice.work / "other.bin").write_bytes(second[SAFE])
    second["other.bin"] = second[SAFE]
    alice.commit("both changed")
    alice.push()
    alice.git("lfs", "prune")
    alice.git("lfs", "fsck")
    alice.theta("fsck")
    alice.git("checkout", "-q", "HEAD~1")
    alice.at(first)
    stranger.sees(host, {"origin/main": second, "origin/main~1": first})


def test_git_lfs_migrate_is_told_of(alice: Scene):
    """It replaces manifests by pointers to them: doctor says so, and there is a way back."""
    first = alice.keep()
    second = alice.keep("second", a=1)
    alice.run("git", "lfs", "install", "--skip-repo")
    before = alice.git("rev-parse", "HEAD").strip()
    alice.git("lfs", "migrate", "import", "--yes", "--include=*.pt", "--everything")
    said = alice.theta("doctor", code=1).stdout
    assert "is overridden: filter is lfs" in said
    assert "*.pt" in said
    alice.git("reset", "-q", "--hard", before)
    alice.at(second)
    alice.git("checkout", "-q", "HEAD~1")
    alice.at(first)
