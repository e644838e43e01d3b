"""The power goes right after Git was answered: what was not synced by then is gone.

Nothing here needs a special disk. Inside the process that stores, a recorder notes at each fsync
what is on the disk from then on: the bytes of a file, the entries of a directory. It stops at the
first byte of the answer, and the store is then made anew from what it noted.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.checkpoints import torch_zip, weights
from tests.sandbox import Sandbox, encode, model

pytestmark = pytest.mark.git

NAME = "m.safetensors"
RECORDER = """
import json, os, pathlib, stat

disk = pathlib.Path(os.environ["DISK"])
fsync, write, writev = os.fsync, os.write, os.writev
answered = False

def note(handle):
    fsync(handle)
    if answered:
        return
    what = os.fstat(handle)
    if stat.S_ISDIR(what.st_mode):
        below = {n: os.stat(n, dir_fd=handle) for n in os.listdir(handle)}
        names = {n: [s.st_ino, stat.S_ISDIR(s.st_mode)] for n, s in below.items()}
        (disk / f"{what.st_ino}.json").write_text(json.dumps(names))
    else:
        (disk / str(what.st_ino)).write_bytes(os.pread(handle, what.st_size, 0))

def seen(handle, data):
    global answered
    answered = answered or (handle == 1 and b'{"git-theta"' in data)

def watched(handle, data):
    seen(handle, bytes(data))
    return write(handle, data)

def watched_all(handle, views):
    seen(handle, b"".join(views))
    return writev(handle, views)

os.fsync, os.write, os.writev = note, watched, watched_all
"""


def cut_power(repo: Sandbox, *words: str) -> None:
    """Run a command, and leave in the store only what was on the disk when Git was answered."""
    disk, startup = repo.root / "disk", repo.root / "startup"
    for folder in (disk, startup):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    (startup / "sitecustomize.py").write_text(RECORDER)
    repo.run(*words, env={"PYTHONPATH": str(startup), "DISK": str(disk)})
    git_dir = repo.work / ".git"
    synced = disk / f"{git_dir.stat().st_ino}.json"
    names = json.loads(synced.read_text()) if synced.exists() else {}
    shutil.rmtree(git_dir / "theta")
    if "theta" in names:
        recover(disk, names["theta"], git_dir / "theta")


def recover(disk: Path, entry: tuple[int, bool], target: Path) -> None:
    """What a disk has of a file or a directory; what was never synced is empty."""
    inode, is_directory = entry
    if is_directory:
        target.mkdir(exist_ok=True)
        entries = disk / f"{inode}.json"
        for name, below in (json.loads(entries.read_text()) if entries.exists() else {}).items():
            recover(disk, below, target / name)
    elif target.name != "catalog.db":  # a cache, which is not synced and may be damaged
        content = disk / str(inode)
        target.write_bytes(content.read_bytes() if content.exists() else b"")


@pytest.mark.parametrize("program", [["git"], ["git", "theta"]], ids=" ".join)
def test_what_was_added_survives(repo: Sandbox, program: list[str]):
    repo.git("config", "core.fsync", "all")
    for number in range(2):
        data = model(repo.work / NAME, {"layer.1.weight": weights(40, 50, seed=number)})
        kept = repo.root / f"kept-{number}"
        if repo.store().exists():
            shutil.copytree(repo.store(), kept)
        cut_power(repo, *program, "add", NAME)
        if kept.exists():  # what is older was on the disk before, which this recorder did not see
            shutil.copytree(kept, repo.store(), dirs_exist_ok=True)
        repo.theta("fsck")
        repo.git("commit", "-qm", f"version {number}")
        (repo.work / NAME).unlink()
        repo.git("checkout", "--", NAME)
        assert (repo.work / NAME).read_bytes() == data


def test_several_objects_and_formats(repo: Sandbox):
    repo.git("config", "core.fsync", "loose-object")
    repo.theta("track", "*.pt", "-q")
    data = {NAME: encode({"x": weights(3000, 3000)}), "m.pt": torch_zip({"w": weights(64, 64)})}
    for name, content in data.items():
        (repo.work / name).write_bytes(content)
        cut_power(repo, "git", "add", name)
        (repo.work / name).unlink()
        repo.git("checkout", "--", name)
        assert (repo.work / name).read_bytes() == content


def test_without_the_setting_nothing_is_promised(repo: Sandbox):
    """As for Git's own loose objects; and the version can be stored again over what is left."""
    data = model(repo.work / NAME)
    cut_power(repo, "git", "add", NAME)
    assert repo.objects() == []
    for wanted in repo.json("fsck", code=4)["losses"]:
        path = repo.store() / wanted["object"][:2] / wanted["object"][2:4] / wanted["object"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    repo.theta("add", "--force", NAME)
    repo.theta("fsck")
    (repo.work / NAME).unlink()
    repo.git("checkout", "--", NAME)
    assert (repo.work / NAME).read_bytes() == data
