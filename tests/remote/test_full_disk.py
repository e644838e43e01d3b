"""A disk that takes no more, wherever it fills up: a clear word, nothing half-written, then again.

A limit on the size of files stands for the disk; it needs no privileges and counts for Git LFS too.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from tests.remote.fault_server import serving
from tests.remote.people import NAME, Person

pytestmark = pytest.mark.git

LIMIT = "ulimit -f 20; exec"  # of 1,024 bytes: the model has 32,000, an object some 27,000


def limited(person: Person, *words: str) -> tuple[int, str]:
    done = person.run("bash", "-c", f'{LIMIT} "$@"', "bash", *words, code=None)
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr
    assert not list((person.store().parents[2] / "tmp").iterdir())
    for path in person.objects():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    return done.returncode, done.stderr


@pytest.mark.parametrize("program", [["git"], ["git", "theta"]], ids=" ".join)
def test_adding(alice: Person, program: list[str]) -> None:
    data = alice.write(1)
    before = alice.git("ls-files", "-s")
    code, said = limited(alice, *program, "add", NAME)
    assert code
    assert "File too large" in said
    assert alice.git("ls-files", "-s") == before
    assert alice.objects() == []
    alice.run(*program, "add", NAME)
    alice.file.unlink()
    alice.git("checkout", "--", NAME)
    assert alice.file.read_bytes() == data


def test_fetching_and_writing(alice: Person, bob: Person, host: Path) -> None:
    with serving() as server:
        for person in (alice, bob):
            person.git("config", "--global", "lfs.url", server.url, cwd=person.root)
            person.git("config", "--global", "lfs.transfer.maxretries", "1", cwd=person.root)
            # Smaller files are written by Git, which leaves a part of them.
            person.git("config", "--global", "theta.directFrom", "1k", cwd=person.root)
        data = alice.save(0)
        alice.push()
        bob.clone(host)
        shutil.rmtree(bob.store())
        bob.file.unlink()
        code, said = limited(bob, "git", "theta", "fetch")
        assert code
        assert "could not be fetched" in said
        bob.theta("fetch")
        for words in (["git", "theta", "pull"], ["git", "theta", "restore", NAME]):
            _, said = limited(bob, *words)
            assert "File too large" in said, words
            assert not bob.file.exists() or bob.is_left()
        bob.theta("pull")
        assert bob.file.read_bytes() == data
        assert bob.git("status", "--porcelain") == ""
        bob.theta("fsck")
