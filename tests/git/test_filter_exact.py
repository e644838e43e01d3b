"""What is added is what is checked out: every byte, of every kind of file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from git_theta.core.manifest import Manifest, is_manifest, parse
from tests.checkpoints import odd_files, safetensors_files, specials, torch_files, weights
from tests.sandbox import Sandbox, encode

pytestmark = pytest.mark.git

ALL = {**safetensors_files(), **torch_files(), **odd_files()}
# Files that a format must read: to store one of them as opaque chunks would be exact, and useless.
UNDERSTOOD = [*safetensors_files(), *torch_files()]
OPAQUE = ["lone-surrogate", "two-names-one-range"]


@dataclass
class Trip:
    """What became of all files: on disk by stage of the journey, and what Git said of them."""

    repo: Sandbox
    restored: dict[str, str]
    touched: dict[str, str]
    elsewhere: dict[str, str]
    statuses: list[str]


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.fixture(scope="module")
def trip(tmp_path_factory: pytest.TempPathFactory) -> Trip:
    """Add, commit, remove, check out, touch, add again, clone: all files in one repository."""
    repo = Sandbox(tmp_path_factory.mktemp("exact"))
    repo.init(track="/[so_t]*-*")
    for name, data in ALL.items():
        (repo.work / name).write_bytes(data)
    repo.commit()
    statuses = [repo.git("status", "--porcelain")]
    for name in ALL:
        (repo.work / name).unlink()
    repo.git("checkout", "--", ".")
    restored = digests(repo.work)
    statuses.append(repo.git("status", "--porcelain"))
    for name in ALL:
        os.utime(repo.work / name, (1, 1))
    statuses.append(repo.git("status", "--porcelain"))
    repo.git("add", "--renormalize", ".")
    statuses.append(repo.git("status", "--porcelain"))
    touched = digests(repo.work)
    repo.run("git", "clone", "-q", "--shared", repo.work, repo.root / "clone")
    elsewhere = digests(repo.root / "clone")
    statuses.append(repo.git("status", "--porcelain", cwd=repo.root / "clone"))
    return Trip(repo, restored, touched, elsewhere, statuses)


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_byte_comes_back(trip: Trip, name: str):
    expected = hashlib.sha256(ALL[name]).hexdigest()
    assert trip.restored[name] == expected
    assert trip.touched[name] == expected
    assert trip.elsewhere[name] == expected


def test_the_tree_stays_clean(trip: Trip):
    assert trip.statuses == [""] * 5


@pytest.mark.parametrize("name", sorted(ALL))
def test_git_keeps_a_manifest(trip: Trip, name: str):
    manifest = staged(trip.repo, name)
    assert manifest.size == len(ALL[name])
    expected = name in UNDERSTOOD and not any(word in name for word in OPAQUE)
    assert (manifest.format != "opaque") == expected


def staged(repo: Sandbox, name: str) -> Manifest:
    text = repo.git("cat-file", "blob", f":0:{name}").encode(errors="surrogateescape")
    assert is_manifest(text)
    return parse(text)


# --- changes that are easily lost ----------------------------------------------------------------

Values = npt.NDArray[Any]
MASK = np.where(np.arange(900).reshape(30, 30) % 7, 0, -np.inf).astype("<f4")
WITH_NAN = np.where(np.arange(900).reshape(30, 30) == 5, np.nan, 3).astype("<f4")


def ulp(values: Values) -> Values:
    changed: Values = np.nextafter(values, np.float32(np.inf))
    return changed


def one_weight(values: Values) -> Values:
    changed: Values = values.copy()
    changed[3, 3] = np.float32(0.5) + np.float32(2**-24)
    return changed


def minus_zero(values: Values) -> Values:
    changed: Values = values.copy()
    changed[2, 2] = -0.0
    return changed


def entry_at_zero(values: Values) -> Values:
    changed: Values = values.copy()
    changed[0, 1] = 7
    return changed


def payload(values: Values) -> Values:
    changed: Values = values.copy()
    changed.view("<u4")[3] ^= 1
    return changed


SMALL = {
    "one ulp more everywhere": (weights(30, 30), ulp),
    "one weight by 3e-8": (np.full((30, 30), 0.5, "<f4"), one_weight),
    "zero to minus zero": (np.zeros((30, 30), "<f4"), minus_zero),
    "second moments doubled": (weights(30, 30) ** 2 * np.float32(1e-8), lambda v: v * 2),
    "one entry beside -inf": (MASK, entry_at_zero),
    "one entry beside NaN": (WITH_NAN, entry_at_zero),
    "all times five beside NaN": (WITH_NAN, lambda v: v * 5),
    "the payload of a NaN": (specials(), payload),
}


def test_small_changes_are_changes(repo: Sandbox):
    """Each shows as modified, is committed, and both versions come back."""
    versions: list[dict[str, bytes]] = [{}, {}]
    for title, (values, change) in SMALL.items():
        name = title.replace(" ", "-") + ".safetensors"
        for version, data in zip(versions, (values, changed(values, change)), strict=True):
            version[name] = encode({"t": data, "other": weights(5)})
        assert versions[0][name] != versions[1][name]
    commits: list[str] = []
    for version in versions:
        for name, data in version.items():
            (repo.work / name).write_bytes(data)
        if commits:
            lines = repo.git("status", "--porcelain").splitlines()
            assert lines == [f" M {name}" for name in sorted(version)]
        commits.append(repo.commit())
    for commit, version in zip(commits, versions, strict=True):
        repo.git("checkout", "-q", commit)
        for name, data in version.items():
            assert (repo.work / name).read_bytes() == data, name
        assert repo.git("status", "--porcelain") == ""


def changed(values: Values, change: Callable[[Values], Values]) -> Values:
    with np.errstate(invalid="ignore"):
        return change(values).astype("<f4")
