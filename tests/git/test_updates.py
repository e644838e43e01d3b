"""Updates through real Git: found, small, exact, and never the cause of a dirty tree."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from git_theta.core.manifest import Manifest, parse
from tests.checkpoints import torch_zip
from tests.sandbox import Sandbox, encode
from tests.unit.formats.headers import raw_file

pytestmark = pytest.mark.git

NAME = "m.safetensors"
Arrays = dict[str, npt.NDArray[Any]]


def weights(*shape: int, seed: int = 1) -> npt.NDArray[Any]:
    return np.random.default_rng(seed).normal(size=shape, scale=0.02).astype("<f4")


def layers(count: int = 3, prefix: str = "") -> Arrays:
    return {f"{prefix}layer.{n}": weights(80, 100, seed=n) for n in range(count)}


def tuned(arrays: Mapping[str, npt.NDArray[Any]], *, seed: int = 9) -> Arrays:
    rng = np.random.default_rng(seed)
    return {
        name: (values + rng.normal(size=values.shape, scale=1e-5)).astype("<f4")
        for name, values in arrays.items()
    }


def half(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """The file with its numbers rounded to bf16."""
    import json

    header, body = {}, b""
    for name, values in arrays.items():
        words = values.view("<u4").astype(np.uint64)
        data = ((words + 0x7FFF + ((words >> 16) & 1)) >> 16).astype("<u2").tobytes()
        ends = [len(body), len(body) + len(data)]
        header[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": ends}
        body += data
    return raw_file(json.dumps(header).encode(), body)


def put(repo: Sandbox, data: bytes | Mapping[str, npt.NDArray[Any]], name: str = NAME) -> bytes:
    """Write a version and commit it; prove that a checkout gives it again."""
    plain = encode(data) if isinstance(data, Mapping) else data
    file = repo.work / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(plain)
    repo.commit(f"another {name}")
    file.unlink()
    repo.git("checkout", "--", name)
    assert file.read_bytes() == plain
    return plain


def manifest(repo: Sandbox, name: str = NAME, rev: str = "") -> Manifest:
    return parse(repo.git("cat-file", "blob", f"{rev}:{name}").encode())


def stored(repo: Sandbox, name: str = NAME) -> float:
    """Bytes of the tensors' own records for each of their bytes."""
    tensors = repo.json("show", name)["tensors"]
    return float(sum(t["stored"] for t in tensors) / sum(t["bytes"] for t in tensors))


def kinds(repo: Sandbox, name: str = NAME) -> set[str]:
    return {kind for t in repo.json("show", name)["tensors"] for kind in t["kinds"]}


def attribute(repo: Sandbox, value: str) -> None:
    with (repo.work / ".gitattributes").open("a") as file:
        file.write(f"*.safetensors theta-update={value}\n")


# --- found ---------------------------------------------------------------------------------------


def test_a_fine_tune_a_sparse_change_and_what_is_told_of_them(repo: Sandbox):
    first = layers()
    put(repo, first)
    second = tuned(first)
    put(repo, second)
    assert kinds(repo) == {"delta"}
    assert stored(repo) < 0.6
    third = {name: values.copy() for name, values in second.items()}
    third["layer.1"].ravel()[::200] += weights(40)
    put(repo, third)
    report = {t["name"]: t for t in repo.json("show", NAME)["tensors"]}
    assert report["layer.1"]["kinds"] == ["sparse"]
    assert [report[f"layer.{n}"]["links"] for n in range(3)] == [1, 2, 1]
    assert report["layer.1"]["stored"] < 4000
    text = repo.theta("show", NAME).stdout
    assert "LINKS" in text
    assert "sparse" in text

    (row,) = repo.json("du")["files"]
    assert set(row["kinds"]) == {"delta", "dense", "sparse"}
    told = repo.json("du", "--commits")["commits"]
    assert [set(one["kinds"]) - {"dense"} for one in told] == [set(), {"delta"}, {"sparse"}]
    assert told[2]["stored"] < 5000 < told[1]["stored"] < told[0]["stored"]
    assert told[0]["commit"] == repo.git("rev-list", "--max-parents=0", "HEAD").strip()
    assert told[0]["files"] == 1
    assert "3 commits" in repo.theta("du", "--commits").stdout
    assert repo.json("fsck")["losses"] == []


def test_other_names_other_files_other_rows_and_casts(repo: Sandbox):
    first = layers()
    put(repo, first)
    put(
        repo,
        {f"model.{name}": values for name, values in tuned(first).items()},
        "prefixed.safetensors",
    )
    assert kinds(repo, "prefixed.safetensors") == {"delta"}
    put(repo, tuned(first, seed=3), "deep/copy.safetensors")
    assert kinds(repo, "deep/copy.safetensors") == {"delta"}
    put(repo, half(first), "half.safetensors")
    assert stored(repo, "half.safetensors") < 0.02
    grown = {name: np.concatenate([values, weights(2, 100)]) for name, values in first.items()}
    put(repo, grown)
    assert stored(repo) < 0.05
    inserted = {name: np.concatenate([weights(2, 100), values]) for name, values in grown.items()}
    put(repo, inserted)
    assert stored(repo) < 0.06
    assert repo.json("fsck")["losses"] == []


def test_another_format(repo: Sandbox):
    repo.theta("track", "*.pt", "-q")
    first = layers()
    put(repo, first)
    put(repo, torch_zip(tuned(first)), "m.pt")
    assert kinds(repo, "m.pt") == {"delta"}


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_the_nearer_parent_of_a_merge(repo: Sandbox, side: str):
    put(repo, layers())
    repo.git("switch", "-qc", "other")
    theirs = {name: values * np.float32(1.7) for name, values in layers().items()}
    put(repo, theirs)
    repo.git("switch", "-q", "main")
    ours = {name: values + np.float32(0.1) for name, values in layers().items()}
    put(repo, ours)
    repo.git("merge", "other", code=1)
    merged = encode(tuned(ours if side == "ours" else theirs))
    (repo.work / NAME).write_bytes(merged)
    repo.commit("merged")
    rev = "HEAD^1" if side == "ours" else "HEAD^2"
    parents = {c.digest for t in manifest(repo, rev=rev).tensors.values() for c in t.segment.chunks}
    found = {c.base for t in manifest(repo).tensors.values() for c in t.segment.chunks}
    assert found == parents
    (repo.work / NAME).unlink()
    repo.git("checkout", "--", NAME)
    assert (repo.work / NAME).read_bytes() == merged


def test_other_branches_are_no_bases_unless_that_is_wanted(repo: Sandbox):
    put(repo, {"bias": weights(2000)})
    repo.git("switch", "-qc", "secret")
    put(repo, layers())
    repo.git("switch", "-q", "main")
    put(repo, tuned(layers()))
    assert kinds(repo) == {"dense"}
    repo.git("config", "theta.reuse", "repository")
    put(repo, tuned(layers(), seed=4) | {"more": weights(3)}, "m2.safetensors")
    repo.git("rm", "-q", "--cached", NAME)
    assert kinds(repo, "m2.safetensors") >= {"delta"}


# --- stable --------------------------------------------------------------------------------------


def test_no_update_makes_a_tree_dirty(repo: Sandbox, tmp_path: Path):
    first = layers()
    put(repo, first)
    changed = tuned(first)
    changed["layer.1"] = first["layer.1"].copy()
    changed["layer.1"].ravel()[::100] += 1
    u, v = weights(80, 4, seed=5), weights(4, 100, seed=6)
    changed["layer.2"] = (first["layer.2"].astype("f8") + u @ v).astype("<f4")
    data = put(repo, changed)
    text = repo.git("rev-parse", f":{NAME}")
    file = repo.work / NAME
    for _ in range(2):
        later = time.time() + 5
        os.utime(file, (later, later))
        assert repo.git("status", "--porcelain") == ""
        repo.git("add", "--renormalize", ".")
        assert repo.git("rev-parse", f":{NAME}") == text
        (repo.work / ".git" / "theta" / "catalog.db").unlink()
    repo.git("config", "theta.update", "dense")
    repo.git("add", "--renormalize", ".")
    assert repo.git("rev-parse", f":{NAME}") == text

    clone = tmp_path / "clone"
    repo.git("clone", "-q", repo.work.as_uri(), clone)
    assert (clone / NAME).read_bytes() == data
    os.utime(clone / NAME, (1, 1))
    assert repo.git("status", "--porcelain", cwd=clone) == ""
    repo.git("rm", "-q", "--cached", NAME, cwd=clone)
    repo.git("add", NAME, cwd=clone)
    assert repo.git("rev-parse", f":{NAME}", cwd=clone) == text


def test_a_chain_comes_over_from_an_unrelated_clone(repo: Sandbox, tmp_path: Path):
    """The clone pushes a link above bases that only it and the first host have."""
    hosts = [tmp_path / "one.git", tmp_path / "two.git"]
    for host in hosts:
        repo.git("init", "-q", "--bare", host)
    arrays = layers()
    put(repo, arrays)
    put(repo, arrays := tuned(arrays))
    repo.git("push", "-q", hosts[0].as_uri(), "HEAD:main")
    other = Sandbox(tmp_path / "other")
    other.theta("install")
    other.git("clone", "-q", "--depth=1", hosts[0].as_uri(), other.work)
    arrays = {name: values.copy() for name, values in arrays.items()}
    arrays["layer.0"].ravel()[::90] += 1
    data = put(other, arrays)
    assert "sparse" in kinds(other)
    other.git("push", "-q", hosts[0].as_uri(), "HEAD:main")
    other.git("fetch", "-q", "--unshallow")
    other.git("push", "-q", hosts[1].as_uri(), "HEAD:main")
    shutil.rmtree(hosts[0])
    last = Sandbox(tmp_path / "last")
    last.theta("install")
    last.git("clone", "-q", hosts[1].as_uri(), last.work)
    assert (last.work / NAME).read_bytes() == data
    last.theta("fetch", "--all")
    assert last.json("fsck")["losses"] == []


def test_a_base_is_kept_by_collection_and_prune(repo: Sandbox):
    arrays = layers()
    put(repo, arrays)
    data = put(repo, tuned(arrays))
    tree = repo.git("write-tree").strip()
    commit = repo.git("commit-tree", "-m", "alone", tree).strip()
    repo.git("reset", "-q", "--hard", commit)
    repo.git("reflog", "expire", "--expire=all", "--all")
    repo.git("gc", "-q", "--prune=now")
    repo.git("config", "theta.gracePeriod", "0")
    repo.theta("prune")
    (repo.work / NAME).write_bytes(encode(layers(1)))
    repo.git("status")
    (repo.work / NAME).unlink()
    repo.git("checkout", "--", NAME)
    assert (repo.work / NAME).read_bytes() == data
    assert manifest(repo).bases


def test_a_base_that_is_gone_or_damaged_is_no_base(repo: Sandbox):
    arrays = layers()
    put(repo, arrays)
    for path in repo.objects():
        path.chmod(0o644)
        damaged = bytearray(path.read_bytes())
        damaged[50::99] = bytes(len(damaged[50::99]))
        path.write_bytes(damaged)
    (repo.work / ".git" / "theta" / "catalog.db").unlink()
    put(repo, tuned(arrays))
    assert kinds(repo) == {"dense"}
    for path in repo.objects():
        path.unlink()
    put(repo, tuned(arrays, seed=8))
    assert kinds(repo) == {"dense"}


def test_a_tip_that_is_an_update_needs_no_commit_of_its_bases(repo: Sandbox, tmp_path: Path):
    """They are beyond the edge of a shallow clone, or were rewritten and are gone for good."""
    first, host = layers(), tmp_path / "host.git"
    repo.git("init", "-q", "--bare", host)
    second = tuned(first)
    second["layer.0"] = first["layer.0"].copy()
    second["layer.0"].ravel()[::200] += 1
    u, v = weights(80, 4, seed=5), weights(4, 100, seed=6)
    second["layer.1"] = (first["layer.1"].astype("f8") + u @ v).astype("<f4")
    versions = [put(repo, first), put(repo, second)]
    assert kinds(repo) == {"sparse", "low-rank", "delta"}
    repo.git("push", "-q", host.as_uri(), "HEAD:main")

    def cloned(name: str, *words: str) -> Sandbox:
        person = Sandbox(tmp_path / name)
        person.install()
        person.git("clone", "-q", *words, host.as_uri(), person.work)
        assert (person.work / NAME).read_bytes() == versions[-1]
        assert person.git("status", "--porcelain") == ""
        return person

    cloned("shallow", "--depth=1")
    old = repo.git("rev-list", "HEAD").split()
    edit = {"GIT_SEQUENCE_EDITOR": "sed -i 1s/pick/reword/", "GIT_EDITOR": "sed -i 1s/^/better/"}
    repo.git("rebase", "-q", "-i", "--root", env=edit)
    assert not set(old) & set(repo.git("rev-list", "HEAD").split())
    repo.git("push", "-q", "--force", host.as_uri(), "HEAD:main")
    repo.git("reflog", "expire", "--expire=now", "--all")
    repo.git("gc", "-q", "--prune=now")
    repo.git("-c", "theta.gracePeriod=0", "theta", "prune")
    assert repo.run("git", "cat-file", "-e", old[-1], code=None).returncode
    for person in (repo, cloned("whole")):
        for number, data in enumerate(versions):
            person.git("checkout", "-q", f"main~{1 - number}")
            assert (person.work / NAME).read_bytes() == data


def test_signs_of_zeros_survive(repo: Sandbox):
    """0.0 and -0.0 are equal numbers and different bits, in the base and in what changed."""
    old = weights(80, 100)
    old[::2, ::3], old[1::4, ::3] = 0.0, -0.0
    few, product = old.copy(), old.copy()
    few[5, 1:50:3] += 1
    product[40:] = old[40:].astype("f8") + weights(40, 2, seed=5) @ weights(2, 100, seed=6)
    for new in (few, product):
        new[0, 0], new[1, 0] = -0.0, 0.0
        assert np.signbit(new[:40][new[:40] == 0]).any(), "numpy's -0.0 + 0.0 is 0.0"
    repo.git("config", "theta.update", "sparse,low-rank")
    first = put(repo, {"few": old, "product": old})
    second = put(repo, {"few": few, "product": product})
    told = {t["name"]: t["kinds"] for t in repo.json("show", NAME)["tensors"]}
    assert told == {"few": ["sparse"], "product": ["low-rank"]}
    for rev, data in (("HEAD~1", first), ("HEAD", second)):
        repo.git("checkout", "-q", rev, "--", NAME)
        assert (repo.work / NAME).read_bytes() == data


def test_an_update_that_is_asked_for_where_there_is_nothing_to_update(repo: Sandbox):
    """The first commit, a tensor that is new, one of another shape, rank, dtype, or no numbers."""
    asked = ("sparse", "low-rank", "ia3", "delta")
    lines = [f"{kind}.safetensors theta-update={kind}\n" for kind in asked]
    with (repo.work / ".gitattributes").open("a") as file:
        file.writelines(lines)
    first = layers() | {"none": weights(0), "one": weights()}
    other: Arrays = {"new": weights(40, 30), "none": weights(3), "one": weights(1)}
    other |= {"layer.0": weights(64, 125), "layer.1": weights(8000)}
    other["layer.2"] = weights(80, 10, 10)
    for number, data in enumerate([encode(first), encode(other), half(layers())]):
        for kind in asked:
            (repo.work / f"{kind}.safetensors").write_bytes(data)
        if number % 2:
            repo.theta("add", ".")
        repo.commit()
        for kind in asked:
            (repo.work / f"{kind}.safetensors").unlink()
        repo.git("checkout", "--", ".")
        for kind in asked:
            assert (repo.work / f"{kind}.safetensors").read_bytes() == data
    assert repo.json("fsck")["losses"] == []


# --- settings ------------------------------------------------------------------------------------


def test_settings_say_which_updates_are_tried(repo: Sandbox):
    arrays = layers()
    put(repo, arrays)
    repo.git("config", "theta.update", "-delta")
    put(repo, arrays := tuned(arrays, seed=1))
    assert "delta" not in kinds(repo)
    attribute(repo, "delta")
    put(repo, arrays := tuned(arrays, seed=2))
    assert kinds(repo) == {"delta"}
    attribute(repo, "dense")
    put(repo, arrays := tuned(arrays, seed=3))
    assert kinds(repo) == {"dense"}


@pytest.mark.parametrize("where", ["config", "attribute"])
def test_a_word_that_is_not_known_costs_a_line(repo: Sandbox, where: str):
    arrays = layers()
    put(repo, arrays)
    if where == "config":
        repo.git("config", "theta.update", "delta,sparce")
    else:
        attribute(repo, "sparce")
    (repo.work / NAME).write_bytes(encode(tuned(arrays)))
    said = repo.run("git", "add", "-A").stderr
    assert said.count("no update is called 'sparce'") == 1
    assert "low-rank" in said
    assert kinds(repo) == {"delta"}
