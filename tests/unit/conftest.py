"""Fixtures for the tests of the core: a store that files are kept in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.keeper import Keeper


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Keeper:
    return Keeper(tmp_path_factory.mktemp("store"))


@pytest.fixture
def keeper(tmp_path: Path) -> Keeper:
    return Keeper(tmp_path / "store")
