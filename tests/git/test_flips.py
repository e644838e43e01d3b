"""One bit flipped, in any object or manifest: `git theta fsck` finds it, every time."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from git_theta.commands.fsck import check_here
from git_theta.commands.losses import Loss
from git_theta.commands.session import Session
from git_theta.errors import CorruptError
from git_theta.repo.gitrepo import Repo
from tests.checkpoints import torch_zip, weights
from tests.sandbox import Sandbox, model

pytestmark = pytest.mark.git
NAME = "m.safetensors"
FEW, MANY = 4, 400

flips = pytest.mark.parametrize(
    "count", [FEW, pytest.param(MANY, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
)


@pytest.fixture
def history(repo: Sandbox) -> Sandbox:
    """Dense records, updates of them, summaries, and a PyTorch file."""
    repo.theta("track", "*.pt", "-q")
    model(repo.work / NAME)
    (repo.work / "m.pt").write_bytes(torch_zip({"w": weights(64, 64)}))
    repo.commit("first")
    rng = np.random.default_rng(7)
    changed = rng.normal(size=(40, 50)).astype("<f4")
    changed[3, :5] += 1
    model(repo.work / NAME, {"layer.0.weight": changed, "layer.3.weight": np.ones((40, 50))})
    repo.commit("second")
    return repo


def found(repo: Sandbox) -> list[Loss]:
    """What fsck finds, in this process; Git may be unable to go on, which is to find it, too."""
    session = Session(Repo.find(repo.work))
    try:
        return check_here(session)[1]
    except CorruptError as error:
        return [Loss(kind="manifest", message=str(error), blob="")]
    finally:
        session.close()


def flip(path: Path, sound: bytes, bit: int) -> None:
    data = bytearray(sound)
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def bits(start: int, end: int, count: int, chance: random.Random) -> list[int]:
    """Some bits of a range of bytes, the first and the last among them."""
    drawn = [chance.randrange(8 * start, 8 * end) for _ in range(count - 2)]
    return [8 * start, 8 * end - 1, *drawn]


@flips
def test_objects(history: Sandbox, count: int, tally: Counter[str]):
    chance = random.Random(1)
    assert found(history) == []
    for path in history.objects():
        sound = path.read_bytes()
        path.chmod(0o644)
        for bit in bits(0, len(sound), count, chance):
            flip(path, sound, bit)
            tally["flips"] += 1
            losses = found(history)
            assert {loss.object for loss in losses} == {path.name}, bit
            assert {loss.kind for loss in losses} == {"corrupt"}
            tally["found"] += 1
        path.write_bytes(sound)
    assert tally["found"] == count * len(history.objects()) >= 4 * count
    assert found(history) == []


def manifests(repo: Sandbox) -> list[str]:
    """The blobs of all manifests."""
    names = {f"{rev}:{name}" for rev in ("HEAD", "HEAD~1") for name in (NAME, "m.pt")}
    return sorted({repo.git("rev-parse", name).strip() for name in names})


@flips
def test_loose_manifests(history: Sandbox, count: int, tally: Counter[str]):
    chance = random.Random(2)
    blobs = manifests(history)
    assert len(blobs) == 3
    for blob in blobs:
        path = history.work / ".git" / "objects" / blob[:2] / blob[2:]
        sound, text = path.read_bytes(), history.git("cat-file", "blob", blob)
        path.chmod(0o644)
        # The second byte's low half and the first are zlib's header; its levels say nothing.
        for bit in bits(2, len(sound), count, chance):
            flip(path, sound, bit)
            tally["flips"] += 1
            if found(history):
                tally["found"] += 1
            else:
                # The last byte of what zlib made has bits that say nothing either.
                assert bit // 8 == len(sound) - 5, (blob, bit)
                assert history.git("cat-file", "blob", blob) == text, (blob, bit)
                tally["harmless"] += 1
        assert history.theta("fsck", code=5).stderr.count("Traceback") == 0
        assert "hint" in history.theta("prune", code=5).stderr
        path.write_bytes(sound)
    assert found(history) == []


@flips
def test_packed_manifests(history: Sandbox, count: int, tally: Counter[str]):
    chance = random.Random(3)
    blobs = manifests(history)
    texts = {blob: history.git("cat-file", "blob", blob) for blob in blobs}
    history.git("gc", "-q", "--prune=now")
    pack = next((history.work / ".git" / "objects" / "pack").glob("*.pack"))
    told = history.git("verify-pack", "-v", pack.with_suffix(".idx")).splitlines()
    fields = {line.split()[0]: line.split() for line in told if line.split()[0] in blobs}
    assert len(fields) == 3
    sound = pack.read_bytes()
    pack.chmod(0o644)
    for blob, (_, _, _, length, offset, *_) in fields.items():
        kind = range(8 * int(offset) + 4, 8 * int(offset) + 7)
        for bit in [*kind, *bits(int(offset), int(offset) + int(length), count, chance)]:
            flip(pack, sound, bit)
            tally["flips"] += 1
            if found(history):
                tally["found"] += 1
            else:
                # A bit that changes nothing of what zlib makes of it; only the pack's sum has it.
                assert history.git("cat-file", "blob", blob) == texts[blob], (blob, bit)
                history.run("git", "verify-pack", pack, code=1)
                tally["found by Git"] += 1
    pack.write_bytes(sound)
    assert found(history) == []


def test_what_git_replace_replaced_is_not_damaged(history: Sandbox):
    history.git("replace", f"HEAD:{NAME}", f"HEAD~1:{NAME}")
    assert found(history) == []


def test_a_catalog_that_says_otherwise(history: Sandbox):
    with sqlite3.connect(history.work / ".git" / "theta" / "catalog.db") as catalog:
        where = "digest = (SELECT min(digest) FROM chunks)"
        catalog.execute(f"UPDATE chunks SET digest = ? WHERE {where}", ("0" * 64,))
    catalog.close()
    assert {loss.kind for loss in found(history)} == {"catalog"}
    assert "fsck --rebuild" in history.theta("fsck", code=5).stdout
    history.theta("fsck", "--rebuild")
    assert found(history) == []


def test_the_set_up_is_looked_at(history: Sandbox):
    assert history.json("fsck")["findings"] == []
    (history.work / ".git" / "hooks" / "pre-push").unlink()
    (finding,) = history.json("fsck")["findings"]
    assert finding["check"] == "hooks"
    assert "warning: hooks: not in place: pre-push" in history.theta("fsck").stderr
