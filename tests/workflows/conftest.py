"""Fixtures for the matrix of workflows: people who were set up once and are copied."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.remote.conftest import bare
from tests.workflows.scene import PATTERNS, Scene, store_versions


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person's repository right after `install`, `track` and the first commit."""
    person = Scene(tmp_path_factory.mktemp("made") / "alice")
    person.init(track="")
    person.theta("track", *PATTERNS, "-q")
    person.commit("attributes")
    store_versions(person)
    return person.root


def copied(made: Path, place: Path) -> Scene:
    """A person set up like another, with the repository."""
    person = Scene(place)  # which makes a home as new
    for name in ("home", "work"):
        shutil.copytree(made / name, place / name, symlinks=True, dirs_exist_ok=True)
    return person


def newcomer(place: Path) -> Scene:
    """Somebody with a home of their own; all they ever ran is `git theta install`."""
    person = Scene(place)
    person.install()
    return person


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """An empty bare repository."""
    return bare(tmp_path / "host.git")


@pytest.fixture
def alice(made: Path, tmp_path: Path, host: Path) -> Scene:
    """Somebody with an empty repository that tracks both formats; origin is `host`."""
    person = copied(made, tmp_path / "alice")
    person.git("remote", "add", "origin", host)
    return person


@pytest.fixture
def stranger(tmp_path: Path) -> Scene:
    """Somebody who clones."""
    return newcomer(tmp_path / "stranger")
