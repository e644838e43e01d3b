"""The digest of a file with other bytes laid over it, read ahead by a thread."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from git_theta.repo import keeping


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keeping") / "model"
    path.write_bytes(bytes(range(251)) * 2)
    return path


@given(data=st.data())
def test_what_is_laid_over_a_file_counts(file: Path, data: st.DataObject):
    whole = file.read_bytes()
    size = data.draw(st.integers(0, len(whole)))
    block = data.draw(st.integers(30, 300))
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=8)))
    laid = [
        (start, bytes([start % 256]) * (stop - start))
        for start, stop in zip(cuts[::2], cuts[1::2], strict=False)
    ]
    wanted = bytearray(whole[:size])
    for start, other in laid:
        wanted[start : start + len(other)] = other
    passed: list[int] = []
    before, keeping._BLOCK = keeping._BLOCK, block
    handle = os.open(file, os.O_RDONLY)
    try:
        found = keeping.digest_of_file(handle, size, laid, passed.append)
    finally:
        os.close(handle)
        keeping._BLOCK = before
    assert found == blake3(bytes(wanted)).hexdigest()
    assert sum(passed) == size - sum(len(other) for _, other in laid)


def test_a_file_that_is_too_short_has_another_digest(file: Path):
    whole = file.read_bytes()
    handle = os.open(file, os.O_RDONLY)
    try:
        found = keeping.digest_of_file(handle, len(whole) + 10, [(len(whole) + 5, b"tail5")])
        assert found != blake3(whole + b"tail5").hexdigest()
        assert keeping.digest_of_file(handle, 10**9) == blake3(whole).hexdigest()
    finally:
        os.close(handle)
