"""`git theta fsck`: every lost or changed byte is found and named."""

from __future__ import annotations

import numpy as np
import pytest

from tests.sandbox import Sandbox, model

pytestmark = pytest.mark.git


@pytest.fixture
def history(repo: Sandbox) -> tuple[Sandbox, str, str]:
    """Two commits; the second one's new object holds only layer.2.weight."""
    model(repo.work / "m.safetensors")
    first = repo.commit("first")
    model(repo.work / "m.safetensors", {"layer.2.weight": np.ones((40, 50))})
    return repo, first, repo.commit("second")


def test_all_is_well(history: tuple[Sandbox, str, str]):
    repo, _, _ = history
    report = repo.json("fsck")
    assert (report["manifests"], report["losses"]) == (2, [])
    assert report["objects"] == len(repo.objects())
    assert report["bytes"] == sum(path.stat().st_size for path in repo.objects())
    assert "all well" in repo.theta("fsck").stderr


def test_a_missing_object_is_named_by_path_tensor_and_commit(history: tuple[Sandbox, str, str]):
    repo, _, second = history
    report = repo.json("show", "m.safetensors")
    old = {entry["oid"] for entry in repo.json("show", "HEAD~1:m.safetensors")["objects"]}
    new = {entry["oid"] for entry in report["objects"]} - old
    for path in repo.objects():
        if path.name in new:
            path.unlink()
    losses = repo.json("fsck", code=4)["losses"]
    assert {(loss["kind"], loss["path"], loss["commit"]) for loss in losses} == {
        ("missing", "m.safetensors", second)
    }
    assert "layer.2.weight" in {loss["tensor"] for loss in losses}
    assert {loss["object"] for loss in losses} == new
    text = repo.theta("fsck", code=4).stdout
    assert "m.safetensors tensor layer.2.weight" in text
    assert second[:12] in text
    assert "git theta fetch --all" in text


def test_every_flipped_bit_is_found(history: tuple[Sandbox, str, str]):
    repo, _, _ = history
    path = min(repo.objects(), key=lambda path: path.stat().st_size)
    whole = path.read_bytes()
    path.chmod(0o644)
    for place, bit in ((0, 7), (20, 0), (len(whole) // 2, 3), (len(whole) - 1, 0)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        losses = repo.json("fsck", code=5)["losses"]
        assert {loss["object"] for loss in losses} == {path.name}
    path.write_bytes(whole)
    repo.theta("fsck")


def test_a_cut_or_longer_object_is_found(history: tuple[Sandbox, str, str]):
    repo, _, _ = history
    path = repo.objects()[0]
    whole = path.read_bytes()
    path.chmod(0o644)
    for data in (b"", whole[:-1], whole + b"\0"):
        path.write_bytes(data)
        repo.theta("fsck", code=5)


def test_what_is_only_staged_is_checked_too(repo: Sandbox):
    model(repo.work / "m.safetensors")
    repo.git("add", ".")
    for path in repo.objects():
        kept = path.read_bytes()
        path.unlink()
        losses = repo.json("fsck", code=4)["losses"]
        assert {(loss["path"], loss["commit"]) for loss in losses} == {("m.safetensors", None)}
        path.write_bytes(kept)


def test_damaged_manifests_are_named(history: tuple[Sandbox, str, str]):
    repo, _, _ = history
    text = repo.git("cat-file", "blob", "HEAD:m.safetensors")
    damaged = text.replace('"dtype":"F32"', '"dtype":32', 1)
    (repo.work / "bad.txt").write_text(damaged)
    commit = repo.commit("damaged")
    (loss,) = repo.json("fsck", code=5)["losses"]
    assert (loss["kind"], loss["path"], loss["commit"]) == ("manifest", "bad.txt", commit)


def test_a_manifest_with_a_wrong_digest_is_found(history: tuple[Sandbox, str, str]):
    repo, _, _ = history
    text = repo.git("cat-file", "blob", "HEAD:m.safetensors")
    digest = repo.json("show", "m.safetensors")["tensors"][0]["digest"]
    (repo.work / "bad.txt").write_text(text.replace(digest, "0" * 64))
    repo.commit("a digest that its record does not have")
    losses = repo.json("fsck", code=5)["losses"]
    assert {loss["path"] for loss in losses} == {"bad.txt"}


def test_rebuild_makes_the_catalog_anew(history: tuple[Sandbox, str, str]):
    repo, _, _ = history
    catalog = repo.work / ".git" / "theta" / "catalog.db"
    catalog.write_bytes(b"this is no database" * 100)
    repo.theta("fsck", "--rebuild")
    repo.theta("fsck", "--rebuild")
    before = repo.objects()
    (repo.work / "m.safetensors").touch()
    assert repo.git("status", "--short") == ""
    assert repo.objects() == before
    assert catalog.read_bytes().startswith(b"SQLite format 3")
