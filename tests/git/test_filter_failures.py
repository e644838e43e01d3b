"""What goes wrong goes wrong with a clear word, and costs nothing that was there before."""

from __future__ import annotations

import os
import random
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from git_theta.commands.proof import prove
from git_theta.commands.session import Session
from git_theta.core.checkpoint import rebuild
from git_theta.core.manifest import is_manifest, parse
from git_theta.errors import ThetaError
from git_theta.repo.catalog import Catalog
from git_theta.repo.gitrepo import Repo
from tests.checkpoints import noise, odd_files, torch_zip, weights
from tests.sandbox import Sandbox, encode, model, without_program

pytestmark = pytest.mark.git

NAME = "m.safetensors"
OPAQUE = "stored as opaque chunks"


def index(repo: Sandbox) -> str:
    assert not (repo.work / ".git" / "index.lock").exists()
    return repo.git("ls-files", "-s")


# --- files that are not what they say ------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("data-cut", f"cut short for a safetensors file, {OPAQUE}"),
        ("header-cut", f"not readable as safetensors, {OPAQUE}: "),
        ("header-absurd", f"not readable as safetensors, {OPAQUE}: "),
        ("header-huge", f"not readable as safetensors, {OPAQUE}: "),
        ("overlap", f"not readable as safetensors, {OPAQUE}: "),
        ("size-lie", f"not readable as safetensors, {OPAQUE}: "),
        ("deep", f"not readable as safetensors, {OPAQUE}: "),
        ("zip-cut", f"not readable as torch, {OPAQUE}: "),
        ("zip-tail", f"not readable as safetensors, {OPAQUE}: "),
        ("legacy-cut", f"not readable as torch-legacy, {OPAQUE}: "),
        ("random-small", f"not readable as safetensors, {OPAQUE}: "),
        ("empty", f"not readable as safetensors, {OPAQUE}: "),
    ],
)
def test_broken_files_are_stored_with_a_word(repo: Sandbox, name: str, said: str):
    data = odd_files()[f"odd-{name}.bin"]
    (repo.work / NAME).write_bytes(data)
    done = repo.run("git", "add", NAME)
    lines = [line for line in done.stderr.splitlines() if line.startswith(f"git theta: {NAME}")]
    scanned = [line for line in lines if "whoever loads this file" in line]
    told = [line for line in lines if line not in scanned]
    assert len(told) == bool(said)
    assert all(line.startswith(f"git theta: {NAME}: {said}") for line in told)
    assert bool(scanned) == (name == "zip-cut")  # nobody can say what a reader would make of it
    assert parse(repo.git("cat-file", "blob", f":0:{NAME}").encode()).format == "opaque"
    (repo.work / NAME).unlink()
    repo.git("checkout", "--", NAME)
    assert (repo.work / NAME).read_bytes() == data


def test_broken_files_in_the_work_tree_stop_nothing(repo: Sandbox):
    """status, diff and stash while they lie there, and the way back to what was committed."""
    broken = {
        f"{n}.safetensors": odd_files()[f"odd-{n}.bin"] for n in ("data-cut", "empty", "random")
    }
    data = {name: model(repo.work / name) for name in broken}
    repo.commit()

    def write(files: Mapping[str, bytes]) -> str:
        for name, content in files.items():
            (repo.work / name).write_bytes(content)
        return repo.git("status", "--porcelain")

    def found() -> dict[str, bytes]:
        return {name: (repo.work / name).read_bytes() for name in broken}

    assert write(broken) == "".join(f" M {name}\n" for name in sorted(broken))
    for words in (("diff",), ("diff", "--stat"), ("theta", "diff", "--exact")):
        told = repo.git(*words)
        assert all(name in told for name in broken)
    repo.git("stash", "-q")
    assert found() == data
    repo.git("stash", "pop", "-q")
    assert found() == broken
    repo.git("checkout", "--", ".")
    assert found() == data
    assert repo.git("status", "--porcelain") == ""


def test_a_zip_bomb(repo: Sandbox):
    """A pickle of 300 MiB in 300 KiB: refused by its size, kept as it is."""
    repo.theta("track", "*.pt", "-q")
    path = repo.work / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("archive/data.pkl", "w", force_zip64=True) as member:
            for _ in range(300):
                member.write(bytes(1 << 20))
        archive.writestr("archive/version", b"3\n")
    data = path.read_bytes()
    assert len(data) < 1 << 20
    peak, said = repo.peak("git", "add", "bomb.pt")
    assert peak < 150 << 20
    assert f"bomb.pt: not readable as torch, {OPAQUE}: 'archive/data.pkl' has 314,572,800" in said
    path.unlink()
    repo.git("checkout", "--", "bomb.pt")
    assert path.read_bytes() == data


def test_a_text_that_only_claims_to_be_a_manifest(repo: Sandbox):
    (repo.work / NAME).write_bytes(b'{"git-theta": 1,\n' + noise(100_000))
    done = repo.run("git", "add", NAME, code=128)
    assert f"git theta: {NAME}: the manifest is damaged" in done.stderr
    assert "bug" not in done.stderr
    assert NAME not in index(repo)


# --- objects --------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", ["", "ext-0-foo sha256:" + "b" * 64 + "\n"])
def test_a_pointer_of_git_lfs_is_called_one(repo: Sandbox, extension: str):
    """It is kept, but nobody should take it for the model."""
    spec = "version https://git-lfs.github.com/spec/v1\n"
    (repo.work / NAME).write_text(f"{spec}{extension}oid sha256:{'a' * 64}\nsize 12345\n")
    said = repo.run("git", "add", NAME).stderr
    assert f"{NAME}: a pointer of Git LFS, not the file" in said
    assert "hint: git lfs pull" in said
    assert "not readable" not in said
    repo.commit()
    assert repo.run("git", "status", "--porcelain").stdout == ""


def test_missing_objects(repo: Sandbox):
    """The file that lacks them stays a manifest; others check out, and the tree is clean."""
    model(repo.work / NAME)
    repo.git("add", NAME)
    lost = repo.objects()
    other = model(repo.work / "other.safetensors", {"x": weights(3)}, layers=0)
    repo.commit()
    for path in lost:
        path.unlink()
    for name in (NAME, "other.safetensors"):
        (repo.work / name).unlink()
    done = repo.run("git", "checkout", "--", ".")
    assert f"git theta: {NAME}: left as a manifest: " in done.stderr
    assert "missing here, and no remote has" in done.stderr
    assert f"git theta pull -- {NAME}" in done.stderr
    assert is_manifest((repo.work / NAME).read_bytes())
    assert (repo.work / "other.safetensors").read_bytes() == other
    assert repo.git("status", "--porcelain") == ""


def test_what_is_missing_is_told_in_lines_and_a_command_that_can_be_pasted(
    repo: Sandbox, tmp_path: Path
):
    name = "-a model's.safetensors"
    repo.git("init", "-q", "--bare", repo.root / "origin.git")
    repo.git("remote", "add", "origin", repo.root / "origin.git")
    model(repo.work / name)
    repo.commit()
    shutil.rmtree(repo.work / ".git" / "theta")
    (repo.work / name).unlink()
    env = without_program(repo.env, "git-lfs", tmp_path / "bin")
    said = repo.run("git", "checkout", "--", ".", env=env).stderr
    assert "\n  origin: Git LFS is not installed" in said
    assert "\\n" not in said
    assert "  hint: install Git LFS" in said
    assert f"then run git theta pull -- {shlex.quote(name)}\n" in said


def test_every_damaged_byte_is_found(repo: Sandbox):
    """By fsck always; by smudge wherever it would change the file."""
    data = encode({"a": weights(40, 8), "b": weights(30, seed=2)})
    (repo.work / NAME).write_bytes(data)
    repo.commit()
    manifest = parse(repo.git("cat-file", "blob", f":0:{NAME}").encode())
    session = Session(Repo.find(repo.work))
    found_by_smudge = flips = 0
    for path in repo.objects():
        sound = path.read_bytes()
        path.chmod(0o644)
        for at in range(len(sound)):
            path.write_bytes(flipped(sound, at))
            flips += 1
            try:
                restored = b"".join(
                    bytes(piece) for piece in rebuild(manifest, session.store.read, session.plugins)
                )
            except ThetaError:
                found_by_smudge += 1
            else:
                assert restored == data
            if at % 40 == 0:
                proof = prove(session, [manifest], lambda _: None)
                assert [failure.kind for failure in proof.objects.values()] == ["corrupt"]
        path.write_bytes(sound)
    session.close()
    assert found_by_smudge > flips * 0.6, "the rest are summaries, and names that nobody reads"


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]


def test_a_damaged_object_is_not_checked_out(repo: Sandbox):
    model(repo.work / NAME)
    repo.commit()
    before = index(repo)
    path = max(repo.objects(), key=lambda path: path.stat().st_size)
    path.chmod(0o644)
    path.write_bytes(flipped(path.read_bytes(), 5000))
    (repo.work / NAME).unlink()
    done = repo.run("git", "checkout", "--", NAME, code=128)
    assert f"git theta: {NAME}: " in done.stderr
    assert not (repo.work / NAME).exists()
    assert index(repo) == before
    assert "corrupt: m.safetensors" in repo.theta("fsck", code=5).stdout


# --- disks ----------------------------------------------------------------------------------------


@contextmanager
def small_disk(where: Path, megabytes: int) -> Iterator[Path]:
    where.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(where)]
    if os.geteuid() or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be had only where this test may mount one")
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)


def test_disk_full_while_adding(sandbox: Sandbox):
    with small_disk(sandbox.root / "disk", 3) as disk:
        sandbox.work = disk / "work"
        sandbox.init()
        small = model(sandbox.work / "small.safetensors", {"x": weights(3)}, layers=0)
        sandbox.commit()
        before = index(sandbox)
        (sandbox.work / NAME).symlink_to(sandbox.root / "large")
        source = sandbox.root / NAME
        source.write_bytes(encode({"x": weights(1500, 1000)}))
        words = ["git", "hash-object", "-w", "--path", NAME, str(source)]
        done = sandbox.run(*words, code=128)
        assert f"git theta: {NAME}: " in done.stderr
        assert "No space left on device" in done.stderr
        assert "hint: free some space and try again; nothing was half-written" in done.stderr
        assert index(sandbox) == before
        scratch = sandbox.work / ".git" / "theta" / "tmp"
        assert list(scratch.iterdir()) == []
        (sandbox.work / "small.safetensors").unlink()
        sandbox.git("checkout", "--", "small.safetensors")
        assert (sandbox.work / "small.safetensors").read_bytes() == small
        assert "all well" in sandbox.theta("fsck").stderr


def test_disk_full_while_checking_out(repo: Sandbox):
    data = encode({"x": weights(1000, 1200)})
    (repo.work / NAME).write_bytes(data)
    repo.commit()
    with small_disk(repo.root / "disk", 3) as disk:
        done = repo.run("git", "worktree", "add", disk / "work", code=None)
        assert done.returncode
        assert f"unable to write file {NAME}" in done.stderr
        assert "bug" not in done.stderr
        assert "Traceback" not in done.stderr
    repo.git("worktree", "prune")
    repo.git("worktree", "add", "-f", repo.root / "elsewhere", "HEAD")
    assert (repo.root / "elsewhere" / NAME).read_bytes() == data


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    paths = [folder, *folder.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths}
    for path in paths:
        path.chmod(modes[path] & ~0o222)
    try:
        yield
    finally:
        for path in paths:
            path.chmod(modes[path])


def without_privileges() -> list[str]:
    """Words before a command that make the modes of files count, for root as well."""
    if os.geteuid():
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root may write everywhere, and setpriv is not here to change that")
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all"]


def test_a_read_only_store(repo: Sandbox):
    data = model(repo.work / NAME)
    repo.commit()
    before = index(repo)
    plain = [*without_privileges(), "git"]
    with read_only(repo.work / ".git" / "theta"):
        probe = repo.run(*plain[:-1], "touch", repo.work / ".git/theta/probe", code=None)
        assert probe.returncode, "the store is to be read-only"
        (repo.work / NAME).touch()
        done = repo.run(*plain, "status", "--porcelain")
        assert (done.stdout, done.stderr) == ("", "")
        (repo.work / NAME).unlink()
        assert repo.run(*plain, "checkout", "--", NAME).stderr == ""
        assert (repo.work / NAME).read_bytes() == data
        model(repo.work / NAME, {"layer.0.weight": weights(40, 50)})
        done = repo.run(*plain, "add", NAME, code=128)
        assert f"git theta: {NAME}: " in done.stderr
        assert "Permission denied" in done.stderr
        assert "hint: check who owns the repository's git directory" in done.stderr
        assert index(repo) == before
    repo.git("add", NAME)


# --- processes ------------------------------------------------------------------------------------


def many(seed: int, count: int = 30) -> bytes:
    """A few megabytes that take a moment."""
    return encode({f"t{n}": weights(300, 400, seed=1000 * seed + n) for n in range(count)})


def test_two_processes_add_at_once(repo: Sandbox):
    (repo.work / "readme").write_text("x")
    repo.commit()
    trees = [repo.root / f"tree{number}" for number in range(3)]
    content = {}
    for number, tree in enumerate(trees):
        repo.git("worktree", "add", "-q", "--detach", tree)
        content[tree] = {"same": many(1), "own": many(2 + number, 10)}
        for name, data in content[tree].items():
            (tree / f"{name}.safetensors").write_bytes(data)
    running = [subprocess.Popen(["git", "add", "."], cwd=tree, env=repo.env) for tree in trees]
    assert [process.wait(timeout=60) for process in running] == [0] * 3
    for tree in trees:
        for name, data in content[tree].items():
            (tree / f"{name}.safetensors").unlink()
            repo.git("checkout", "--", f"{name}.safetensors", cwd=tree)
            assert (tree / f"{name}.safetensors").read_bytes() == data
    repo.theta("fsck")
    assert list((repo.work / ".git" / "theta" / "tmp").iterdir()) == []


def filters(git: subprocess.Popen[str]) -> list[psutil.Process]:
    """The filter that Git runs, or nothing yet, or no more."""
    with suppress(psutil.NoSuchProcess):
        below = psutil.Process(git.pid).children(recursive=True)
        return [child for child in below if "filter-process" in child.cmdline()]
    return []


def kill_filter(git: subprocess.Popen[str]) -> None:
    """kill -9 of the filter, not of Git."""
    for child in filters(git):
        child.send_signal(signal.SIGKILL)


def interrupt(git: subprocess.Popen[str]) -> None:
    """What a terminal does on Ctrl-C: everyone gets it."""
    os.killpg(git.pid, signal.SIGINT)


@pytest.mark.parametrize("how", [kill_filter, interrupt], ids=["kill -9", "Ctrl-C"])
def test_cut_off_at_any_moment(repo: Sandbox, how: Callable[[subprocess.Popen[str]], None]):
    model(repo.work / "old.safetensors")
    repo.commit()
    before = index(repo)
    data = many(7)
    (repo.work / NAME).write_bytes(data)
    moments = random.Random(3)
    cut = 0
    for number in range(7):
        with subprocess.Popen(
            ["git", "add", NAME], cwd=repo.work, env=repo.env,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        ) as adding:  # fmt: skip
            while not number and not filters(adding) and adding.poll() is None:
                time.sleep(0.001)  # once as soon as there is a filter, so that one is cut off
            time.sleep(moments.uniform(0.15, 0.6) if number else 0)
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                how(adding)
            _, said = adding.communicate(timeout=30)
        assert "bug" not in said
        # Python itself says so where it is cut off before it comes to us.
        assert "Traceback" not in said or not re.search(r'cli\.py", line \d+, in main|thread', said)
        deadline = time.monotonic() + 10
        while (repo.work / ".git" / "index.lock").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        cut += adding.returncode != 0
        if adding.returncode == 0 or f"\t{NAME}\n" in index(repo):
            # Git may be cut off between writing the index and its end: the new index is whole.
            repo.git("rm", "-q", "--cached", NAME)
        assert index(repo) == before
    assert cut
    repo.git("add", NAME)
    (repo.work / NAME).unlink()
    repo.git("checkout", "--", NAME)
    assert (repo.work / NAME).read_bytes() == data
    repo.theta("fsck")
    assert list((repo.work / ".git" / "theta" / "tmp").iterdir()) == []


def test_not_installed(repo: Sandbox):
    model(repo.work / NAME)
    env = without_program(repo.env, "git-theta", repo.root / "bin")
    before = index(repo)
    done = repo.run("git", "add", NAME, env=env, code=128)
    assert "git-theta" in done.stderr
    assert index(repo) == before


# --- the catalog ----------------------------------------------------------------------------------


def scrambled(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for at in range(100, len(data), 37):
        data[at] ^= 0x55
    path.write_bytes(data)


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


BREAK: dict[str, Callable[[Path], object]] = {
    "deleted": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(noise(20_000)),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "scrambled": scrambled,
    "with names that are no text": lambda path: path.write_bytes(
        path.read_bytes().replace(b"TABLE chunks", b"TABEL chunks").replace(b"chunks", b"chu\xffks")
    ),
    "a directory": a_directory,
    "of a later version": lambda path: sqlite3.connect(path).execute("PRAGMA user_version = 99"),
    "without tables": lambda path: sqlite3.connect(path).executescript(
        "DROP TABLE files; DROP TABLE chunks; DROP TABLE loose"
    ),
    "read-only": lambda path: path.chmod(0o444),
}


def works(repo: Sandbox, seed: int) -> None:
    """Everything does: status of a touched tree, add, commit, checkout."""
    old = (repo.work / NAME).read_bytes()
    (repo.work / NAME).touch()
    assert repo.run("git", "status", "--porcelain").stdout == ""
    data = model(repo.work / NAME, {"layer.0.weight": weights(40, 50, seed=seed)})
    assert repo.run("git", "add", NAME).stderr == ""
    repo.git("commit", "-qm", "changed")
    for commit, content in (("HEAD^", old), ("HEAD", data)):
        done = repo.run("git", "checkout", commit, "--", NAME)
        assert "theta" not in done.stderr
        assert (repo.work / NAME).read_bytes() == content


@pytest.mark.parametrize("how", BREAK)
def test_without_a_sound_catalog(repo: Sandbox, how: str):
    model(repo.work / NAME)
    repo.commit()
    BREAK[how](repo.work / ".git" / "theta" / "catalog.db")
    works(repo, 50)
    works(repo, 51)
    repo.theta("fsck")


def test_a_catalog_that_is_held_by_another(repo: Sandbox):
    """One wait, not one for each tensor."""
    model(repo.work / NAME, layers=40)
    repo.commit()
    holder = sqlite3.connect(repo.work / ".git" / "theta" / "catalog.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    start = time.monotonic()
    model(repo.work / NAME, {"layer.0.weight": weights(40, 50)}, layers=40)
    repo.git("add", NAME)
    assert time.monotonic() - start < 40  # of 80 that one wait a tensor would take
    holder.close()


def test_a_catalog_that_another_takes_hold_of_later(tmp_path: Path):
    catalog = Catalog(tmp_path / "catalog.db")
    catalog.keep_manifest("d", b"text")
    holder = sqlite3.connect(tmp_path / "catalog.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    start = time.monotonic()
    assert [catalog.manifest("d") for _ in range(20)] == [None] * 20
    assert time.monotonic() - start < 20  # of 40 that one wait a question would take
    holder.close()
    found = catalog.manifest("d")
    assert found is not None
    assert found.manifest == b"text"
    catalog.close()


def test_a_pt_is_as_exact(repo: Sandbox):
    """Files that need a look ahead meet the same faults."""
    repo.theta("track", "*.pt", "-q")
    data = torch_zip({"x": weights(100, 100)})
    (repo.work / "m.pt").write_bytes(data)
    repo.git("add", "m.pt")
    for path in repo.objects():
        path.chmod(0o644)
        path.write_bytes(flipped(path.read_bytes(), len(path.read_bytes()) // 2))
    (repo.work / "m.pt").unlink()
    done = repo.run("git", "checkout", "--", "m.pt", code=128)
    assert "git theta: m.pt: " in done.stderr
