"""Ten gigabytes through `git add` and `git theta checkout` in two gigabytes of memory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from git_theta.settings import parse_size
from tests.sandbox import Sandbox

pytestmark = [pytest.mark.git, pytest.mark.soak, pytest.mark.timeout(3600)]
NAME = "giant.safetensors"
SIZE = parse_size(os.environ.get("GIT_THETA_GIANT", "10g"), "GIT_THETA_GIANT")
TENSORS = 10
LIMIT = 2 << 20  # in KiB of address space, for each process


def write(path: Path) -> None:
    """A safetensors file of zeros that takes no room on the disk."""
    each = SIZE // TENSORS // 4
    header = {
        f"layer.{n}.weight": {
            "dtype": "F32",
            "shape": [each],
            "data_offsets": [n * each * 4, (n + 1) * each * 4],
        }
        for n in range(TENSORS)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + SIZE // TENSORS // 4 * 4 * TENSORS)


def same(one: Path, other: Path) -> bool:
    with one.open("rb") as left, other.open("rb") as right:
        while block := left.read(1 << 24):
            if block != right.read(1 << 24):
                return False
        return not right.read(1)


def test_ten_gigabytes_in_two(tmp_path: Path):
    repo = Sandbox(tmp_path)
    repo.init()
    repo.git("config", "theta.smudgeLimit", "1g")
    file, kept = repo.work / NAME, repo.root / NAME
    write(kept)
    write(file)

    def held(*words: str) -> int:
        peak, _ = repo.peak("sh", "-c", f'ulimit -v {LIMIT} && exec "$@"', "sh", *words)
        return peak

    peaks = {"add": held("git", "add", "-A")}
    repo.git("commit", "-qm", "zeros")
    assert sum(path.stat().st_size for path in repo.objects()) < SIZE // 1000
    file.unlink()
    peaks["checkout"] = held("git", "theta", "checkout", "--", NAME)
    assert same(file, kept)
    assert repo.git("status", "--short") == ""
    assert max(peaks.values()) < 1 << 30, peaks
