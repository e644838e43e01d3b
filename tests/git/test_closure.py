"""Which manifests some commits bring, found from Git's objects alone."""

from __future__ import annotations

import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from git_theta.commands.pre_push import pushed
from git_theta.core.manifest import Chunk, Manifest, Place, Segment, Tensor, dump, parse
from git_theta.errors import ManifestError
from git_theta.repo import closure
from git_theta.repo.gitrepo import Repo
from git_theta.repo.loose import beginning
from tests.sandbox import Sandbox

pytestmark = pytest.mark.git


def digest(number: int) -> str:
    return f"{number:016x}" * 4


def manifest(*oids: int, tensors: int = 1) -> bytes:
    """A manifest whose tensors lie in the given objects, which need not exist."""

    def segment(number: int) -> Segment:
        at = Place(digest(oids[number % len(oids)]), 16, 100)
        return Segment(digest(number), 4, (Chunk(digest(number), 4, "dense", at),))

    return dump(
        Manifest(
            format="safetensors",
            size=100,
            digest=digest(1),
            skeleton=segment(0),
            tensors={f"layer.{n}.weight": Tensor("F32", (1,), segment(n)) for n in range(tensors)},
            objects={digest(oid): 200 + oid for oid in oids},
        )
    )


@pytest.fixture
def plain(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """A repository without git-theta: manifests are committed as they are."""
    sandbox.init(install=False, track="")
    for name, value in sandbox.env.items():
        monkeypatch.setenv(name, value)
    return sandbox


def commit(repo: Sandbox, name: str, data: bytes) -> str:
    path = repo.work / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return repo.commit(name)


def test_new_commits_only(plain: Sandbox) -> None:
    first = commit(plain, "a file", manifest(1, 2))
    commit(plain, "b/ü", manifest(2, 3))
    plain.git("rm", "-q", "a file")
    plain.commit()
    repo = Repo.find(plain.work)
    try:
        everything = closure.of_commits(repo, ["HEAD"])
        assert everything.objects == {digest(n): 200 + n for n in (1, 2, 3)}
        assert everything.manifests == 2
        new = closure.of_commits(repo, ["HEAD"], known=[first, "f" * 40])
        assert sorted(new.objects) == [digest(2), digest(3)]
        assert new.needed_by[digest(3)][1] == "b/ü"
        assert closure.of_tree(repo, "HEAD").objects == new.objects
        assert closure.of_index(repo).objects == new.objects
        assert closure.of_commits(repo, []).objects == {}
        said = closure.describe(repo, everything, digest(1))
        assert said == f"a file, tensor layer.0.weight, commit {first[:7]}"
    finally:
        repo.close()


def test_what_the_remote_has(plain: Sandbox) -> None:
    first = commit(plain, "a", manifest(1))
    commit(plain, "b", manifest(2))
    plain.git("remote", "add", "there", "/nowhere")
    plain.git("update-ref", "refs/remotes/there/main", first)
    repo = Repo.find(plain.work)
    try:
        assert list(closure.of_commits(repo, ["HEAD"], remote="there").objects) == [digest(2)]
        assert len(closure.of_commits(repo, ["HEAD"], remote="other").objects) == 2
    finally:
        repo.close()


def test_large_blobs_are_known_by_their_first_bytes(plain: Sandbox) -> None:
    """A manifest may be large; a model that was committed before it was tracked is not read."""
    large = manifest(5, tensors=12_000)
    assert len(large) > 1 << 20
    commit(plain, "large", large)
    with (plain.work / "raw").open("wb") as file:
        file.truncate(200 << 20)
    plain.commit()
    plain.git("repack", "-adq")  # loose objects are streamed in any case
    program = """
import resource
from git_theta.repo.closure import of_commits
from git_theta.repo.gitrepo import Repo
found = of_commits(Repo.find(), ["HEAD"])
print(list(found.objects.values()), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
    told, peak = plain.run(sys.executable, "-c", program).stdout.split()
    assert told == "[205]"
    assert int(peak) < 100 << (20 if sys.platform == "darwin" else 10)


def test_damage_and_newer_versions_are_told_with_their_path(plain: Sandbox) -> None:
    commit(plain, "mine", manifest(1).replace(b'"git-theta": 1', b'"git-theta": 99'))
    repo = Repo.find(plain.work)
    try:
        with pytest.raises(ManifestError, match=r"mine: .*version 99"):
            closure.of_commits(repo, ["HEAD"])
        commit(plain, "mine", manifest(*range(9))[:900])
        with pytest.raises(ManifestError, match="mine: "):
            closure.of_tree(repo, "HEAD")
    finally:
        repo.close()


def test_the_quick_reader_agrees_with_the_full_one() -> None:
    for text in (manifest(1), manifest(*range(50), tensors=80)):
        assert closure.objects_of(text) == parse(text).objects


def test_a_thousand_commits(plain: Sandbox) -> None:
    """Each changes a manifest of 100 tensors beside 10 other files."""
    parts = []
    for number in range(1000):
        text = manifest(number, tensors=100)
        parts.append(
            b"commit refs/heads/main\ncommitter T <t@e> %d +0000\ndata 1\nx\n" % number
            + b"M 100644 inline model\ndata %d\n%s\n" % (len(text), text)
        )
        for other in range(10):
            code = b"%d of %d\n" % (other, number) * 40
            parts[-1] += b"M 100644 inline f%d\ndata %d\n%s\n" % (other, len(code), code)
    subprocess.run(
        ["git", "fast-import", "--quiet"], cwd=plain.work, input=b"".join(parts), check=True
    )
    repo = Repo.find(plain.work)
    try:
        start = time.process_time()
        found = closure.of_commits(repo, ["refs/heads/main"])
        assert len(found.objects) == found.manifests == 1000
        assert time.process_time() - start < 2
    finally:
        repo.close()


def test_loose_and_packed_blobs_tell_the_same(plain: Sandbox) -> None:
    """Loose ones are inflated no further than they name objects; the newest is read whole."""
    for number in range(3):
        commit(plain, "model", manifest(number, 10 + number, tensors=900))
        commit(plain, "notes", b"no manifest\n" * 4000 * (number + 1))
    repo = Repo.find(plain.work)
    try:
        loose = closure.of_commits(repo, ["HEAD"], newest_whole=True)
        plain.git("gc", "-q", "--prune=now")
        packed = closure.of_commits(repo, ["HEAD"], newest_whole=True)
        assert loose == packed
        assert sorted(loose.objects) == [digest(n) for n in (0, 1, 2, 10, 11, 12)]
        commit(plain, "model", manifest(4)[:-30])
        with pytest.raises(ManifestError, match="model: "):
            closure.of_commits(repo, ["HEAD"], newest_whole=True)
    finally:
        repo.close()


def test_the_beginning_of_a_loose_blob(tmp_path: Path) -> None:
    oid = "ab" * 20
    text = b"one mark and " + np.random.default_rng(1).bytes(100_000)
    file = tmp_path / oid[:2] / oid[2:]
    file.parent.mkdir()
    sound = zlib.compress(b"blob %d\0" % len(text) + text)
    file.write_bytes(sound)
    found = beginning(tmp_path, oid, b" mark ")
    assert found is not None
    assert text.startswith(found)
    assert len(b"one mark ") <= len(found) < len(text) // 2
    assert beginning(tmp_path, oid, b"nowhere") == text
    assert beginning(tmp_path, "cd" * 20, b" mark ") is None
    for broken in (
        sound[:-9],
        sound[:-1] + bytes([sound[-1] ^ 1]),
        b"",
        b"no zlib at all",
        zlib.compress(b"blob %d\0" % (len(text) + 1) + text),
        zlib.compress(b"tree %d\0" % len(text) + text),
    ):
        file.write_bytes(broken)
        assert beginning(tmp_path, oid, b"nowhere") is None


def test_lines_of_the_hook(tmp_path: Path) -> None:
    zero, one, two = "0" * 40, "1" * 40, "2" * 40
    lines = [
        f"HEAD~1 {one} refs/heads/main {two}",
        f"main@{{1 day ago}} {two} refs/heads/other {zero}",
        f"(delete) {zero} refs/heads/gone {one}",
    ]
    assert pushed(lines) == ([one, two], [two, one])
    assert pushed([]) == ([], [])
