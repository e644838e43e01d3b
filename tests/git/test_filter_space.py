"""What is stored, what is collected, and what must never be."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from contextlib import closing

import pytest

from git_theta.commands.session import Session
from git_theta.core.compact import SLACK, places
from git_theta.core.manifest import CHUNK, Manifest, parse
from git_theta.repo.gitrepo import Repo
from git_theta.repo.objects import Store
from tests.checkpoints import noise, weights
from tests.sandbox import Sandbox, encode, model
from tests.unit.formats.headers import entry, raw_file

pytestmark = pytest.mark.git

NAME = "m.safetensors"


def manifest(repo: Sandbox, name: str = f"HEAD:{NAME}") -> Manifest:
    return parse(repo.git("cat-file", "blob", name).encode())


def stored(repo: Sandbox) -> set[str]:
    return {path.name for path in repo.objects()}


def collect(repo: Sandbox) -> None:
    """Let a day pass: what nobody named goes with the next command that cleans a file."""
    repo.git("config", "theta.gracePeriod", "0")
    probe = repo.work / "probe.safetensors"
    probe.write_bytes(encode({"p": weights(2)}))
    repo.git("add", "probe.safetensors")
    repo.git("rm", "-q", "--cached", "probe.safetensors")
    probe.touch()
    repo.git("add", "probe.safetensors")
    repo.git("config", "--unset", "theta.gracePeriod")


def test_overwriting_leaves_one_version(repo: Sandbox):
    for number in range(20):
        model(repo.work / NAME, {"layer.0.weight": weights(40, 50, seed=number)})
        if number == 0:
            repo.git("add", NAME)
        repo.git("status", "--porcelain")
    repo.commit()
    before = stored(repo)
    collect(repo)
    named = {*manifest(repo).objects, *manifest(repo, ":0:probe.safetensors").objects}
    first = {oid for oid in before if oid not in stored(repo)}
    assert len(first) > 19
    assert named <= stored(repo)
    # The first one was staged, so Git still has its blob, and may be asked for it.
    assert len(stored(repo) - named) <= 2


def test_what_is_named_while_it_is_looked_for_stays(repo: Sandbox, monkeypatch: pytest.MonkeyPatch):
    """A command that added something and ends while another one collects what nobody named."""
    (repo.work / "readme").write_text("x")
    repo.commit()
    model(repo.work / NAME, {"layer.0.weight": weights(40, 50)})
    repo.git("hash-object", "--path", NAME, NAME)
    added = stored(repo)
    assert added
    repo.git("config", "theta.gracePeriod", "0")
    monkeypatch.chdir(repo.work)
    other = Store.of(repo.work / ".git")
    other.hold()
    ask = Repo.has_objects

    def and_then_it_ends(self: Repo, oids: Collection[str]) -> set[str]:
        found = ask(self, oids)
        repo.git("add", NAME)
        other.release()
        return found

    monkeypatch.setattr(Repo, "has_objects", and_then_it_ends)
    session = Session()
    session.collect()
    session.close()
    other.release()
    assert added <= stored(repo)


def test_what_git_names_is_on_no_list_of_loose_objects(repo: Sandbox):
    """That list is looked through by every add: it holds what is new, however long the history."""
    lengths = []
    for number in range(6):
        model(repo.work / NAME, {"layer.0.weight": weights(40, 50, seed=number)})
        repo.commit()
        with closing(sqlite3.connect(repo.work / ".git" / "theta" / "catalog.db")) as catalog:
            rows = catalog.execute("SELECT DISTINCT oid FROM loose").fetchall()
        lengths.append(len(rows))
        assert {oid for (oid,) in rows} <= set(manifest(repo).objects)
    assert lengths[-1] == lengths[1] < len(manifest(repo).objects)


def one_large(name: str) -> bytes:
    """A tensor that fills an object of its own, whatever else the file says."""
    header = {"__metadata__": {"of": name}, "t": entry("U8", [CHUNK], 0, CHUNK)}
    return raw_file(json.dumps(header).encode(), noise(CHUNK))


def test_what_is_used_again_is_not_collected(repo: Sandbox):
    """What was cleaned and forgotten is used by a commit: it stays when its time has come."""
    (repo.work / "readme").write_text("x")
    repo.commit()
    (repo.work / NAME).write_bytes(encode({"a": weights(3)}))
    repo.commit()
    (repo.work / NAME).write_bytes(one_large("tried out"))
    repo.git("hash-object", "--path", NAME, NAME)
    tried = stored(repo) - {*manifest(repo).objects}
    (repo.work / NAME).write_bytes(one_large("kept"))
    repo.commit()
    assert tried & {*manifest(repo).objects}, "the object is to be used again"
    collect(repo)
    assert {*manifest(repo).objects} <= stored(repo)
    assert tried - {*manifest(repo).objects, *stored(repo)}, "the rest of the trial is to go"
    # Now committed, it is found by another branch that only tries it out.
    kept = manifest(repo)
    repo.git("branch", "kept")
    repo.git("reset", "-q", "--hard", "HEAD~2")
    for catalog in ("as it is", "away"):
        if catalog == "away":
            (repo.work / ".git" / "theta" / "catalog.db").unlink()
        repo.git("checkout", "-q", "main", "--", ".")
        (repo.work / "try.safetensors").write_bytes(one_large(catalog))
        repo.git("hash-object", "--path", "try.safetensors", "try.safetensors")
        collect(repo)
        assert {*kept.objects} <= stored(repo)


def test_a_tip_fetches_little_more_than_it_uses(repo: Sandbox):
    arrays = {f"t{n}": weights(60, 60, seed=n) for n in range(8)}
    data = b""
    for step in range(12):
        arrays[f"t{step % 8}"] = weights(60, 60, seed=100 + step)
        data = encode(arrays)
        (repo.work / NAME).write_bytes(data)
        repo.commit()
        found = manifest(repo)
        used = sum(place.size for place in set(places(found)))
        assert sum(found.objects.values()) <= SLACK * used
    (repo.work / NAME).unlink()
    repo.git("checkout", "--", NAME)
    assert (repo.work / NAME).read_bytes() == data
    assert repo.theta("fsck").returncode == 0


def test_what_a_killed_process_left_is_swept(repo: Sandbox):
    model(repo.work / NAME)
    repo.commit()
    left = repo.work / ".git" / "theta" / "tmp" / "999999-1-1"
    left.write_bytes(b"half an object")
    (repo.work / NAME).touch()
    repo.git("add", NAME)
    assert not left.exists()


def test_many_files_with_few_descriptors(repo: Sandbox):
    """A limit of the system on open files is none on the number of models."""
    names = [f"{n:03}.safetensors" for n in range(90)]
    for number, name in enumerate(names):
        (repo.work / name).write_bytes(encode({"x": weights(9, seed=number)}))
    limited = ["bash", "-c", 'ulimit -n 80; exec git "$@"', "git"]
    repo.run(*limited, "add", ".")
    content = {name: (repo.work / name).read_bytes() for name in names}
    for name in names:
        (repo.work / name).unlink()
    repo.run(*limited, "checkout", "--", ".")
    assert {name: (repo.work / name).read_bytes() for name in names} == content
