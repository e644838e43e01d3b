"""Broken files and files made to break: every parser fails with the tool's own errors, or reads.

The work is done by `python -m tests.fuzz` in a process of its own, whose memory, time, children
and written files are watched; docs/benchmarks.md has the figures of a long run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.fuzz.hostile import CORPUS, everything
from tests.fuzz.targets import corpus, targets

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "count", [25, pytest.param(5000, marks=[pytest.mark.soak, pytest.mark.timeout(7200)])]
)
def test_every_parser_survives(count: int, tally: Counter[str]):
    command = [sys.executable, "-m", "tests.fuzz", str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    for name, one in found.items():
        tally.update({f"{name}: {end}": one[end] for end in ("read", "refused")})
        tally[f"{name}: not survived"] += bool(one["problem"])
    assert found.keys() == targets().keys()
    assert not {name: one["problem"] for name, one in found.items() if one["problem"]}
    assert all(one["read"] + one["refused"] >= count * 0.8 for one in found.values())
    assert done.returncode == 0


def test_the_corpus_is_what_made_it():
    names = {str(path.relative_to(CORPUS).with_suffix("")) for path in CORPUS.glob("*/*.z")}
    assert names == {name for name, _ in everything()}
    assert all(corpus(path.name) for path in CORPUS.iterdir())
