"""Fixtures for all tests."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.sandbox import Sandbox

# How long an example takes says something of the machine, and nothing of the law.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")

# A shell starts what it puts into the background with Ctrl-C ignored, which children inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Iterator[Counter[str]]:
    """What a test survived, counted: it goes into the report that `make soak` leaves."""
    counts: Counter[str] = Counter()
    yield counts
    for name, count in counts.items():
        record_property(name, count)


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """An empty home, and the place for a repository; nothing is installed yet."""
    return Sandbox(tmp_path / "sandbox")


@pytest.fixture
def repo(sandbox: Sandbox) -> Sandbox:
    """A repository in which git-theta is set up and *.safetensors is tracked."""
    sandbox.init()
    return sandbox
