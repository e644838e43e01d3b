"""Files of no known format: cut by content, kept exactly, and mostly used again after a change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from git_theta.core.clean import OPAQUE
from git_theta.core.manifest import CHUNK, Manifest
from tests.keeper import Keeper

MIB = 1 << 20


def noise(size: int, seed: int = 5) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def digests(manifest: Manifest) -> set[str]:
    return {chunk.digest for segment in manifest.segments.values() for chunk in segment.chunks}


@settings(max_examples=60)
@given(data=st.binary(max_size=5000), times=st.integers(1, 300))
@example(data=b"", times=1)
@example(data=b"x", times=1)
@example(data=b"\0", times=3 * MIB)
def test_any_bytes_come_back(shared: Keeper, data: bytes, times: int):
    assert shared.give(shared.keep(data * times)) == data * times


@pytest.mark.parametrize(
    "size", [0, 1, 2, 256 * 1024, 4 * MIB, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 9]
)
def test_sizes_around_the_buffer(keeper: Keeper, size: int):
    data = noise(size)
    manifest = keeper.keep(data)
    assert keeper.give(manifest) == data
    assert manifest.format == OPAQUE
    assert sum(segment.size for segment in manifest.segments.values()) == size
    assert manifest.size == size


def test_one_byte_repeated_is_stored_once(keeper: Keeper):
    data = bytes(2 * CHUNK)
    manifest = keeper.keep(data)
    assert keeper.give(manifest) == data
    assert keeper.written < MIB


@pytest.mark.parametrize("at", [0, 1, 10 * MIB, 20 * MIB])
@pytest.mark.parametrize("change", ["insert", "remove", "replace"])
def test_a_change_costs_what_it_touches(keeper: Keeper, at: int, change: str):
    data = noise(20 * MIB)
    before = keeper.keep(data)
    removed = 0 if change == "insert" else 1234
    put = b"" if change == "remove" else noise(1234, 6)
    changed = data[:at] + put + data[at + removed :]
    after = keeper.keep(changed)
    assert keeper.give(after) == changed
    assert keeper.give(before) == data
    assert len(digests(after) - digests(before)) <= 3
    assert keeper.written < 10 * MIB


def test_cuts_do_not_depend_on_the_buffer(keeper: Keeper):
    tail = noise(CHUNK)
    manifests = [keeper.keep(noise(size, 7) + tail) for size in (MIB, 9 * MIB, 31 * MIB)]
    common = set.intersection(*map(digests, manifests))
    assert sum(keeper.known[digest].size for digest in common) > CHUNK - 9 * MIB


def test_the_same_file_makes_the_same_objects(tmp_path: Path):
    data = noise(40 * MIB)
    first, second = (Keeper(tmp_path / name).keep(data) for name in "ab")
    assert first == second


def test_a_known_file_costs_nothing(keeper: Keeper):
    data = noise(5 * MIB)
    first = keeper.keep(data)
    assert keeper.keep(data) == first
    assert keeper.written == 0
