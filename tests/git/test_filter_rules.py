"""The filter's rules: stable answers, earned reuse, and what it hands through."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from git_theta.core.manifest import Manifest, dump, parse
from tests.checkpoints import noise, torch_zip, weights
from tests.sandbox import Arrays, Sandbox, encode, model

pytestmark = pytest.mark.git

NAME = "m.safetensors"


@pytest.fixture
def both(sandbox: Sandbox) -> Sandbox:
    """A repository in which *.safetensors and *.pt are tracked."""
    sandbox.init()
    sandbox.theta("track", "*.pt", "-q")
    return sandbox


def piped(repo: Sandbox, *words: str, data: bytes) -> bytes:
    done = subprocess.run(
        words, cwd=repo.work, env=repo.env, input=data, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def blob(repo: Sandbox, name: str) -> bytes:
    return repo.git("cat-file", "blob", name).encode()


def manifest(repo: Sandbox, name: str = f":0:{NAME}") -> Manifest:
    return parse(blob(repo, name))


def theta_bytes(repo: Sandbox) -> int:
    return sum(path.stat().st_size for path in repo.objects())


def snapshot(repo: Sandbox) -> dict[Path, tuple[int, int]]:
    """Every file of ours, with its size and time."""
    root = repo.work / ".git" / "theta"
    files = (path for path in root.rglob("*") if path.is_file())
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def large(seed: int = 1, *, count: int = 4) -> Arrays:
    return {f"t{n}": weights(200, 300, seed=100 * seed + n) for n in range(count)}


# --- stable ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [NAME, "m.pt"])
def test_clean_of_smudge_is_the_manifest(both: Sandbox, name: str):
    arrays = {"a": weights(60, 50), "b": weights(50)}
    data = encode(arrays) if name == NAME else torch_zip(arrays)
    (both.work / name).write_bytes(data)
    both.commit()
    text = blob(both, f"HEAD:{name}")
    restored = piped(both, "git", "theta", "smudge", "--", name, data=text)
    assert restored == data
    assert piped(both, "git", "theta", "clean", "--", name, data=restored) == text
    # One that this repository has never seen is the same, alone or in a process.
    other = data.replace(b"git", b"gut") + b"x" if name == NAME else torch_zip(large())
    (both.work / name).write_bytes(other)
    alone = piped(both, "git", "theta", "clean", "--", name, data=other)
    both.git("add", name)
    assert blob(both, f":0:{name}") == alone


@pytest.mark.parametrize("name", [NAME, "m.pt"])
@pytest.mark.parametrize("where", ["absent", "early", "late", "shorter", "longer"])
def test_the_stream_is_the_truth(both: Sandbox, name: str, where: str):
    """`hash-object --stdin --path`: the work-tree file is another one, or is not there."""
    write = encode if name == NAME else torch_zip
    values = weights(3000, 300)
    streamed = write({"a": values, "b": weights(9)})
    early, late = values.copy(), values.copy()
    early[0, 0], late[-1, -1] = 5, 5
    lying = {
        "early": write({"a": early, "b": weights(9)}),
        "late": write({"a": late, "b": weights(9)}),
        "shorter": streamed[:-1],
        "longer": streamed + b"x",
    }
    if where != "absent":
        (both.work / name).write_bytes(lying[where])
    oid = piped(both, "git", "hash-object", "-w", "--stdin", "--path", name, data=streamed)
    text = blob(both, oid.decode().strip())
    assert parse(text).format == ("safetensors" if name == NAME else "torch")
    assert piped(both, "git", "theta", "smudge", "--", name, data=text) == streamed


def test_renormalize_changes_nothing(both: Sandbox):
    model(both.work / NAME)
    (both.work / "m.pt").write_bytes(torch_zip(large()))
    both.commit()
    before = both.git("ls-files", "-s")
    both.git("add", "--renormalize", ".")
    assert both.git("ls-files", "-s") == before


def test_another_parser_does_not_dirty_a_tree(both: Sandbox):
    """Committed when files were read another way, as an older release would have."""
    attributes = both.work / ".gitattributes"
    tracked = attributes.read_text()
    attributes.write_text(tracked + "*.safetensors theta-format=opaque\n")
    data = model(both.work / NAME)
    both.commit()
    text = blob(both, f"HEAD:{NAME}")
    assert parse(text).format == "opaque"
    attributes.write_text(tracked)
    both.commit()
    (both.work / ".git" / "theta" / "catalog.db").unlink()
    stamp(both.work / NAME)
    assert both.git("status", "--porcelain") == ""
    both.git("add", "--renormalize", ".")
    assert blob(both, f":0:{NAME}") == text
    # A changed file is read as the release of now reads it; then back again.
    changed = model(both.work / NAME, {"layer.0.weight": weights(40, 50)})
    both.commit()
    assert manifest(both).format == "safetensors"
    for commit, content in (("HEAD^", data), ("HEAD", changed)):
        both.git("checkout", "-q", commit, "--", NAME)
        assert (both.work / NAME).read_bytes() == content


def stamp(path: Path) -> None:
    """Touch, so that Git has to look."""
    path.touch()
    path.chmod(0o644)


def test_content_from_before_gets_its_manifest_back(repo: Sandbox):
    """What this repository wrote once is the answer again, though no head has it."""
    first = model(repo.work / NAME)
    repo.commit()
    text = blob(repo, f"HEAD:{NAME}")
    model(repo.work / NAME, {f"layer.{n}.weight": weights(40, 50, seed=n) for n in range(4)})
    repo.commit()
    (repo.work / NAME).write_bytes(first)
    stored = theta_bytes(repo)
    repo.git("add", NAME)
    assert blob(repo, f":0:{NAME}") == text
    assert theta_bytes(repo) == stored


# --- a file that changes while it is added -------------------------------------------------------


@pytest.mark.parametrize("name", [NAME, "m.pt"])
@pytest.mark.parametrize("how", ["truncate", "rewrite"])
def test_a_file_changed_while_added(both: Sandbox, name: str, how: str):
    """It fails with a word, or stores one stream of bytes that comes back."""
    write = encode if name == NAME else torch_zip
    data = write({f"t{n}": weights(1000, 1000, seed=n % 3) for n in range(6)})
    path = both.work / name
    for delay in (0.3,):
        path.write_bytes(data)
        with subprocess.Popen(
            ["git", "add", name], cwd=both.work, env=both.env, stderr=subprocess.PIPE, text=True
        ) as adding:
            time.sleep(delay)
            with path.open("r+b") as file:
                if how == "truncate":
                    file.truncate(len(data) // 3)
                else:
                    file.seek(len(data) // 2)
                    file.write(noise(1 << 20))
            _, said = adding.communicate(timeout=60)
        assert "Traceback" not in said
        assert "bug" not in said
        if adding.returncode:
            assert "changed while it was being read" in said or "filter" in said
            continue
        both.git("checkout-index", "--prefix=out/", name)
        found = (both.work / "out" / name).read_bytes()
        assert len(found) <= len(data)
        assert found[: len(data) // 4] == data[: len(data) // 4]
        (both.work / "out" / name).unlink()
    both.git("fsck", "--strict")
    both.theta("fsck")


# --- what is handed through ----------------------------------------------------------------------


def test_a_file_committed_raw_before_it_was_tracked(sandbox: Sandbox):
    sandbox.init(track="")
    data = model(sandbox.work / NAME)
    (sandbox.work / "big.safetensors").write_bytes(noise(9 << 20))
    sandbox.commit()
    (sandbox.work / ".gitattributes").write_text("*.safetensors filter=theta -text\n")
    sandbox.git("add", ".gitattributes")
    sandbox.git("commit", "-qm", "tracked from now on")
    for name in (NAME, "big.safetensors"):
        (sandbox.work / name).unlink()
    sandbox.git("checkout", "--", ".")
    assert (sandbox.work / NAME).read_bytes() == data
    assert (sandbox.work / "big.safetensors").read_bytes() == noise(9 << 20)
    # As with every filter: what a commit would now hold differs from what is committed.
    stamp(sandbox.work / NAME)
    assert f"M {NAME}" in sandbox.git("status", "--porcelain")
    sandbox.git("add", "--renormalize", ".")
    sandbox.git("commit", "-qm", "kept by git-theta")
    assert manifest(sandbox, f"HEAD:{NAME}").size == len(data)
    assert sandbox.git("status", "--porcelain") == ""
    sandbox.git("checkout", "-q", "HEAD^")
    assert (sandbox.work / NAME).read_bytes() == data


def test_a_manifest_in_the_tree_is_handed_through(repo: Sandbox):
    model(repo.work / NAME)
    repo.commit()
    text = blob(repo, f"HEAD:{NAME}")
    (repo.work / NAME).write_bytes(text)
    before = repo.git("ls-files", "-s")
    repo.git("add", NAME)
    assert repo.git("ls-files", "-s") == before
    assert repo.git("status", "--porcelain") == ""
    (repo.work / "copy.safetensors").write_bytes(text)
    repo.git("add", "copy.safetensors")
    assert blob(repo, ":0:copy.safetensors") == text


def in_conflict(text: bytes, how: str) -> bytes:
    lines = text.splitlines(keepends=True)
    if how == "first line":
        return b"<<<<<<< ours\n" + text + b"=======\n" + text + b">>>>>>> theirs\n"
    return b"".join([*lines[:5], b"<<<<<<< ours\n", lines[5], b"=======\n", *lines[5:]])


@pytest.mark.parametrize("how", ["inside", "first line"])
def test_conflict_markers_are_refused(repo: Sandbox, how: str):
    model(repo.work / NAME)
    repo.commit()
    before = repo.git("ls-files", "-s")
    torn = in_conflict(blob(repo, f"HEAD:{NAME}"), how)
    (repo.work / NAME).write_bytes(torn)
    done = repo.run("git", "add", NAME, code=128)
    assert f"git theta: {NAME}: the manifest holds merge conflict markers" in done.stderr
    assert "hint: take one side: git checkout --ours" in done.stderr
    assert repo.git("ls-files", "-s") == before
    oid = piped(repo, "git", "hash-object", "-w", "--stdin", "--no-filters", data=torn)
    repo.git("update-index", "--cacheinfo", f"100644,{oid.decode().strip()},{NAME}")
    (repo.work / NAME).unlink()
    done = repo.run("git", "checkout", "--", NAME, code=128)
    assert "merge conflict markers" in done.stderr


def test_a_manifest_of_a_newer_version(repo: Sandbox):
    """It stays in the tree as it is, with a line; nothing else fails, and the tree is clean."""
    model(repo.work / NAME)
    other = model(repo.work / "other.safetensors", {"x": weights(3)})
    repo.commit()
    newer = blob(repo, f"HEAD:{NAME}").replace(b'{"git-theta": 1,', b'{"git-theta": 2,')
    newer = newer.replace(b'"tensors"', b'"no one knows"')
    oid = piped(repo, "git", "hash-object", "-w", "--stdin", "--no-filters", data=newer)
    repo.git("update-index", "--cacheinfo", f"100644,{oid.decode().strip()},{NAME}")
    repo.git("commit", "-qm", "from the future")
    for name in (NAME, "other.safetensors"):
        (repo.work / name).unlink()
    done = repo.run("git", "checkout", "--", ".")
    assert f"{NAME}: left as a manifest: the manifest has version 2" in done.stderr
    assert (
        f"hint: pip install --upgrade git-theta; then run git theta pull -- {NAME}" in done.stderr
    )
    assert (repo.work / NAME).read_bytes() == newer
    assert (repo.work / "other.safetensors").read_bytes() == other
    stamp(repo.work / NAME)
    assert repo.git("status", "--porcelain") == ""
    assert repo.git("stash", "list") == ""


# --- reuse ---------------------------------------------------------------------------------------


def rewrite(found: Manifest, name: str, other: Manifest, victim: str) -> bytes:
    """A manifest that gives, for a tensor's true digest, the bytes of another tensor."""
    lie = other.tensors[victim].segment.chunks[0].at
    tensor = found.tensors[name]
    chunk = tensor.segment.chunks[0]._replace(at=lie, summary=None)
    segment = tensor.segment._replace(chunks=(chunk,))
    tensors = {**found.tensors, name: tensor._replace(segment=segment)}
    return dump(found._replace(tensors=tensors, objects={**found.objects, **other.objects}))


@pytest.mark.parametrize("seen", [False, True])
def test_a_hostile_manifest_is_not_trusted(repo: Sandbox, seen: bool):
    """A known digest paired with the bytes of something else poisons no later add."""
    good, garbage = weights(40, 50, seed=5), weights(40, 50, seed=6)
    (repo.work / NAME).write_bytes(encode({"x": good, "y": weights(3)}))
    (repo.work / "g.safetensors").write_bytes(encode({"x": garbage}))
    repo.git("add", ".")
    text = rewrite(manifest(repo), "x", manifest(repo, ":0:g.safetensors"), "x")
    if not seen:  # a repository that gets the manifest from elsewhere has proven nothing
        (repo.work / ".git" / "theta" / "catalog.db").unlink()
    oid = piped(repo, "git", "hash-object", "-w", "--stdin", "--no-filters", data=text)
    repo.git("update-index", "--cacheinfo", f"100644,{oid.decode().strip()},{NAME}")
    repo.git("commit", "-qm", "hostile")
    (repo.work / NAME).unlink()
    done = repo.run("git", "checkout", "--", NAME, code=128)
    assert "a stored record is not of the chunk" in done.stderr
    true = encode({"x": good, "z": weights(4)})
    (repo.work / "mine.safetensors").write_bytes(true)
    repo.git("add", "mine.safetensors")
    assert manifest(repo, ":0:mine.safetensors").tensors["x"].segment.chunks[0].at != (
        manifest(repo, ":0:g.safetensors").tensors["x"].segment.chunks[0].at
    )
    (repo.work / "mine.safetensors").unlink()
    repo.git("checkout", "--", "mine.safetensors")
    assert (repo.work / "mine.safetensors").read_bytes() == true


def test_a_lie_about_the_kind_of_a_proven_record(repo: Sandbox):
    (repo.work / NAME).write_bytes(encode({"x": weights(40, 50)}))
    repo.git("add", ".")
    text = dump(manifest(repo)).replace(b'"kind":"dense"', b'"kind":"daft"')
    oid = piped(repo, "git", "hash-object", "-w", "--stdin", "--no-filters", data=text)
    repo.git("update-index", "--cacheinfo", f"100644,{oid.decode().strip()},{NAME}")
    data = encode({"x": weights(40, 50), "y": weights(3)})
    (repo.work / NAME).write_bytes(data)
    repo.git("add", NAME)
    (repo.work / NAME).unlink()
    repo.git("checkout", "--", NAME)
    assert (repo.work / NAME).read_bytes() == data


@pytest.mark.parametrize("how", ["gone", "cut short"])
def test_what_the_store_lost_is_stored_anew(repo: Sandbox, how: str):
    model(repo.work / NAME)
    repo.commit()
    for path in repo.objects():
        path.chmod(0o644)
        if how == "gone":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-1])
    data = model(repo.work / NAME, {"layer.1.weight": weights(40, 50)})
    repo.commit()
    (repo.work / NAME).unlink()
    repo.git("checkout", "--", NAME)
    assert (repo.work / NAME).read_bytes() == data


def added(repo: Sandbox, name: str, data: bytes) -> int:
    """Bytes that adding a file stores."""
    before = theta_bytes(repo)
    (repo.work / name).write_bytes(data)
    repo.git("add", name)
    assert piped(repo, "git", "theta", "smudge", "--", name, data=blob(repo, f":0:{name}")) == data
    return theta_bytes(repo) - before


def test_tensors_are_found_again(both: Sandbox):
    """Under another path, name, container and shard layout, staged or committed."""
    arrays = large()
    whole = added(both, NAME, encode(arrays))
    assert whole > 500_000
    assert added(both, "sub.safetensors", encode(arrays)) < 1000
    both.commit()
    renamed = {f"model.{name}": values for name, values in reversed(list(arrays.items()))}
    assert added(both, "renamed.safetensors", encode(renamed)) < 3000
    assert added(both, "model.pt", torch_zip(arrays)) < 3000
    first = {name: arrays[name] for name in ("t0", "t1")}
    second = {name: arrays[name] for name in ("t2", "t3")}
    assert added(both, "1-of-2.safetensors", encode(first)) < 3000
    assert added(both, "2-of-2.safetensors", encode(second)) < 3000


def test_from_torch_to_safetensors(both: Sandbox):
    arrays = large(3)
    assert added(both, "model.pt", torch_zip(arrays)) > 500_000
    both.commit()
    both.git("rm", "-q", "--cached", "model.pt")  # the head still has it
    assert added(both, "model.safetensors", encode(arrays)) < 3000


# --- what a branch may name ----------------------------------------------------------------------


@pytest.fixture
def secret(repo: Sandbox) -> Sandbox:
    """A branch `secret` with a model of two tensors, two versions; `main` knows neither."""
    (repo.work / "readme").write_text("x")
    repo.commit()
    repo.git("checkout", "-qb", "secret")
    (repo.work / NAME).write_bytes(encode({"own": weights(200, 300), "common": weights(99, 99)}))
    repo.commit("secret 1")
    changed = {"own": weights(200, 300, seed=2), "common": weights(99, 99)}
    (repo.work / NAME).write_bytes(encode(changed | {"more": weights(200, 300, seed=3)}))
    repo.commit("secret 2")
    repo.git("checkout", "-q", "main")
    return repo


def test_a_pack_of_a_private_branch_is_not_named(secret: Sandbox):
    """Pushing `main` must not upload the pack in which `common` lies beside `own`."""
    (secret.work / "public.safetensors").write_bytes(encode({"own": weights(200, 300)}))
    secret.commit()
    private = {*manifest(secret, f"secret:{NAME}").objects}
    private |= {*manifest(secret, f"secret^:{NAME}").objects}
    assert not private & {*manifest(secret, "HEAD:public.safetensors").objects}


def test_a_file_known_whole_does_not_bring_private_packs_along(secret: Sandbox):
    """The second version's manifest leans on a pack that also holds the first one's weights."""
    old = manifest(secret, f"secret^:{NAME}")
    new = manifest(secret, f"secret:{NAME}")
    assert {*old.objects} & {*new.objects}, "the fixture is to share a pack"
    data = piped(secret, "git", "cat-file", "--filters", f"secret:{NAME}", data=b"")
    (secret.work / "public.safetensors").write_bytes(data)
    secret.commit()
    assert not {*old.objects} & {*manifest(secret, "HEAD:public.safetensors").objects}
    # What names nothing but itself may be named by anyone: the first version.
    data = piped(secret, "git", "cat-file", "--filters", f"secret^:{NAME}", data=b"")
    stored = theta_bytes(secret)
    (secret.work / "first.safetensors").write_bytes(data)
    secret.git("add", "first.safetensors")
    assert theta_bytes(secret) == stored


def test_reuse_from_the_whole_repository_when_asked_for(secret: Sandbox):
    secret.git("config", "theta.reuse", "repository")
    stored = theta_bytes(secret)
    (secret.work / "public.safetensors").write_bytes(encode({"own": weights(200, 300)}))
    secret.commit()
    assert theta_bytes(secret) - stored < 1000


def test_a_nonsensical_setting_is_named(repo: Sandbox):
    repo.git("config", "theta.reuse", "everything")
    model(repo.work / NAME)
    done = repo.run("git", "add", NAME, code=128)
    assert re.search(r"theta\.reuse is 'everything'\n\s*hint: set tree or repository", done.stderr)


def test_touch_costs_no_bytes(repo: Sandbox):
    model(repo.work / NAME)
    (repo.work / "b.safetensors").write_bytes(encode(large()))
    repo.commit()
    before = snapshot(repo)
    for name in (NAME, "b.safetensors"):
        stamp(repo.work / name)
    assert repo.git("status", "--porcelain") == ""
    assert snapshot(repo) == before


@pytest.mark.parametrize("changed", [False, True])
def test_status_of_a_touched_file(repo: Sandbox, changed: bool):
    data = bytearray(model(repo.work / NAME, large(count=2)))
    repo.commit()
    if changed:
        data[-3] ^= 1
    (repo.work / NAME).write_bytes(data)
    os.utime(repo.work / NAME, (1, 1))
    before = repo.objects()
    assert repo.git("status", "--porcelain") == (f" M {NAME}\n" if changed else "")
    assert changed or repo.objects() == before
    repo.git("commit", "-qam", "again", "--allow-empty")
    assert repo.git("status", "--porcelain") == ""
    (repo.work / NAME).unlink()
    repo.git("checkout", "--", NAME)
    assert (repo.work / NAME).read_bytes() == data
