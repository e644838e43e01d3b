"""Fixtures for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sandbox import Sandbox


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """An empty home, and the place for a repository; nothing is installed yet."""
    return Sandbox(tmp_path / "sandbox")


@pytest.fixture
def repo(sandbox: Sandbox) -> Sandbox:
    """A repository in which git-theta is set up and *.safetensors is tracked."""
    sandbox.init()
    return sandbox
