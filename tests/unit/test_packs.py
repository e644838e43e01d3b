"""Packs written one at a time or several at once: the same objects, and failures that are told."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from git_theta.repo.objects import Store
from git_theta.repo.packs import PackWriter

# A process of its own: files of more than a mebibyte cannot be written there.
FULL = f"""
import resource, signal, sys
from pathlib import Path
from git_theta.repo.objects import Store, StoreError
from git_theta.repo.packs import PackWriter

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, {resource.RLIM_INFINITY}))
store = Store(Path(sys.argv[1]))
try:
    with PackWriter(store, limit=4 << 20, lanes=int(sys.argv[2])) as packs:
        for _ in range(40):
            packs.append([bytes(300_000)])
except StoreError as error:
    print("told:", error)
store.close()
"""


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_lanes_make_no_difference(tmp_path: Path, lanes: int):
    rng = random.Random(5)
    records = [rng.randbytes(rng.choice([10, 900, 70_000, 400_000])) for _ in range(300)]
    found = []
    for count in (0, lanes):
        store = Store(tmp_path / str(count))
        with PackWriter(store, limit=3 << 20, lanes=count) as packs:
            spots = [packs.append([record[:5], record[5:]]) for record in records]
            packs.finish()
            places = [packs.place(spot) for spot in spots]
        assert [store.read(place) for place in places] == records
        assert not store.has_temporary()
        found.append((places, packs.finished))
        store.close()
    assert found[0] == found[1]
    assert len(found[0][1]) > 4


@pytest.mark.parametrize("lanes", [0, 2])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, lanes: int):
    argv = [sys.executable, "-c", FULL, str(tmp_path), str(lanes)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("told: the object store cannot be written")
    assert done.stderr == ""
    store = Store(tmp_path)
    assert not store.has_temporary()
    assert not list(store.oids())


@pytest.mark.parametrize("lanes", [0, 2])
def test_what_is_abandoned_leaves_nothing_behind(tmp_path: Path, lanes: int):
    store = Store(tmp_path)
    packs = PackWriter(store, limit=1 << 20, lanes=lanes)
    for _ in range(9):
        packs.append([bytes(500_000)])
    packs.abandon()
    assert not store.has_temporary()
    store.close()
