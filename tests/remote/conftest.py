"""Fixtures for tests with remotes: servers, and people who work with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.remote.lfs_server import LfsServer, start
from tests.remote.people import Person


@pytest.fixture(scope="session")
def lfs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LfsServer]:
    """A real LFS server; one for all tests of a worker."""
    process, server = start(tmp_path_factory.mktemp("server") / "lfs")
    yield server
    assert process.stdin is not None
    process.stdin.close()
    process.wait(timeout=20)
    assert process.stdout is not None
    process.stdout.close()


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """An empty bare repository."""
    return bare(tmp_path / "host.git")


def bare(path: Path) -> Path:
    """Make an empty bare repository."""
    Person(path.parent / "host's").run("git", "init", "-q", "--bare", path)
    return path


@pytest.fixture
def alice(tmp_path: Path, host: Path) -> Person:
    """Somebody with a repository whose origin is `host`, and nothing pushed yet."""
    person = Person(tmp_path / "alice")
    person.init()
    person.git("remote", "add", "origin", host)
    return person


@pytest.fixture
def carol(tmp_path: Path) -> Person:
    """A third person, who clones what the others made."""
    person = Person(tmp_path / "carol")
    person.install()
    return person


@pytest.fixture
def bob(tmp_path: Path) -> Person:
    """Somebody else, with a home of his own; all he ever ran is `git theta install`."""
    person = Person(tmp_path / "bob")
    person.install()
    return person
