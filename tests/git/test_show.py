"""`git theta show`, `ls-files`, `du` and `export`: what is kept, and getting it back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from git_theta.commands.terminal import size_text
from tests.sandbox import Sandbox, model

pytestmark = pytest.mark.git

ONES = np.ones((40, 50), "<f4")


@pytest.fixture
def history(repo: Sandbox) -> tuple[Sandbox, bytes, bytes]:
    """Two versions of one file; the second is checked out."""
    first = model(repo.work / "sub" / "m.safetensors")
    repo.commit("first")
    second = model(repo.work / "sub" / "m.safetensors", {"layer.1.weight": ONES})
    repo.commit("second")
    return repo, first, second


def test_show_lists_tensors(history: tuple[Sandbox, bytes, bytes]):
    repo, _, second = history
    report = repo.json("show", "sub/m.safetensors")
    assert (report["format"], report["size"]) == ("safetensors", len(second))
    assert [t["name"] for t in report["tensors"]] == [f"layer.{n}.weight" for n in range(4)]
    changed = report["tensors"][1]
    assert (changed["dtype"], changed["shape"], changed["bytes"]) == ("F32", [40, 50], 8000)
    assert changed["kinds"] == ["dense"]
    assert 0 < changed["stored"] < 200
    assert all(entry["here"] for entry in report["objects"])
    assert report["stored"] <= sum(entry["size"] for entry in report["objects"])
    text = repo.theta("show", "sub/m.safetensors").stdout
    assert "layer.3.weight" in text
    assert "40x50" in text
    assert "4 tensors, safetensors" in text


def test_show_understands_git_s_ways_to_name_a_file(history: tuple[Sandbox, bytes, bytes]):
    repo, _, _ = history
    below = repo.work / "sub"
    staged = repo.json("show", "m.safetensors", cwd=below)["blob"]
    assert repo.json("show", ":sub/m.safetensors")["blob"] == staged
    assert repo.json("show", "HEAD:./m.safetensors", cwd=below)["blob"] == staged
    assert repo.json("show", "HEAD~1:sub/m.safetensors")["blob"] != staged


def test_names_cannot_act_on_a_terminal(repo: Sandbox):
    evil = "w\x1b]0;owned\x07\x1b[2J\u202e"
    model(repo.work / "m.safetensors", {evil: ONES})
    repo.commit()
    text = repo.theta("show", "m.safetensors").stdout
    assert r"w\x1b]0;owned\x07\x1b[2J\u202e" in text
    assert all(line.isprintable() for line in text.splitlines())
    assert evil in [t["name"] for t in repo.json("show", "m.safetensors")["tensors"]]
    assert "\x1b" not in repo.theta("show", "m.safetensors", "--json").stdout


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("nothing.safetensors", "there is no file 'nothing.safetensors'"),
        ("HEAD:.gitattributes", "is not kept by git-theta"),
        ("nowhere:sub/m.safetensors", "there is no revision 'nowhere'"),
    ],
)
def test_what_is_not_there_ends_with_3(
    history: tuple[Sandbox, bytes, bytes], place: str, told: str
):
    done = history[0].theta("show", place, code=3)
    assert told in done.stderr
    assert "hint: " in done.stderr


def test_a_path_where_a_revision_is_asked_for(history: tuple[Sandbox, bytes, bytes]):
    for verb in ("ls-files", "du"):
        assert "hint: that is a path" in history[0].theta(verb, "sub", code=3).stderr


def test_a_path_outside_is_a_misuse(history: tuple[Sandbox, bytes, bytes]):
    assert "outside the repository" in history[0].theta("show", "/etc/passwd", code=2).stderr


def test_ls_files_tells_full_from_manifest_from_raw(history: tuple[Sandbox, bytes, bytes]):
    repo, _, second = history
    manifest = repo.git("cat-file", "blob", ":sub/m.safetensors")
    (repo.work / "other.safetensors").write_text(manifest)
    model(repo.work / "raw.bin")
    (repo.work / "gone.safetensors").write_bytes(second)
    repo.commit()
    repo.theta("track", "raw.bin", "-q")
    (repo.work / "gone.safetensors").unlink()
    rows = {row["path"]: row for row in repo.json("ls-files")}
    states = {path: row["state"] for path, row in rows.items()}
    assert states == {
        "gone.safetensors": "absent",
        "other.safetensors": "manifest",
        "raw.bin": "raw",
        "sub/m.safetensors": "full",
    }
    assert rows["sub/m.safetensors"]["size"] == len(second)
    assert rows["sub/m.safetensors"]["tensors"] == 4
    lines = repo.theta("ls-files").stdout.splitlines()
    assert f"* sub/m.safetensors ({size_text(len(second))})" in lines
    assert f"- other.safetensors ({size_text(len(second))})" in lines
    assert "! raw.bin" in lines
    assert "safetensors  sub/m.safetensors" in repo.theta("ls-files", "-l").stdout
    assert [row["path"] for row in repo.json("ls-files", "HEAD~1")] == ["sub/m.safetensors"]


def test_du_counts_each_record_once(history: tuple[Sandbox, bytes, bytes]):
    repo, _, second = history
    (repo.work / "copy.safetensors").write_bytes(second)
    model(repo.work / "near.safetensors", {"layer.0.weight": ONES * 2, "layer.1.weight": ONES})
    repo.commit()
    report = repo.json("du")
    files = {row["path"]: row for row in report["files"]}
    assert set(files) == {"copy.safetensors", "near.safetensors", "sub/m.safetensors"}
    assert files["copy.safetensors"]["own"] == 0
    assert files["copy.safetensors"]["stored"] == files["sub/m.safetensors"]["stored"]
    assert 0 < files["near.safetensors"]["own"] < 2000
    assert report["stored"] < sum(row["stored"] for row in files.values())
    assert report["store"]["unnamed_objects"] == 0
    assert report["store"]["objects"] == len(repo.objects())
    stray = repo.objects()[0].with_name("0" * 64)
    stray.write_bytes(b"stray")
    store = repo.json("du")["store"]
    assert (store["unnamed_objects"], store["unnamed_bytes"]) == (1, 5)
    assert "unnamed: 1 object, 5 B" in repo.theta("du").stdout
    assert len(repo.json("du", "HEAD~1")["files"]) == 1


def test_export_gives_any_version_byte_for_byte(history: tuple[Sandbox, bytes, bytes]):
    repo, first, second = history
    repo.theta("export", "HEAD~1:sub/m.safetensors", "-o", "old.bin")
    assert (repo.work / "old.bin").read_bytes() == first
    done = repo.theta("export", "sub/m.safetensors", "-o", "old.bin", code=7)
    assert "--force" in done.stderr
    assert (repo.work / "old.bin").read_bytes() == first
    repo.theta("export", "sub/m.safetensors", "-o", "old.bin", "--force")
    assert (repo.work / "old.bin").read_bytes() == second
    raw = repo.run("sh", "-c", "git theta export HEAD~1:sub/m.safetensors -o - > piped.bin")
    assert (repo.work / "piped.bin").read_bytes() == first
    assert raw.stdout == ""


def test_export_of_damaged_objects_writes_nothing(history: tuple[Sandbox, bytes, bytes]):
    repo, _, _ = history
    for path in repo.objects():
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.chmod(0o644)
        path.write_bytes(data)
    repo.theta("export", "sub/m.safetensors", "-o", "out.bin", code=5)
    assert not list(repo.work.glob("*out.bin*"))


def test_export_of_missing_objects_says_so(history: tuple[Sandbox, bytes, bytes]):
    repo, _, _ = history
    for path in repo.objects():
        path.unlink()
    done = repo.theta("export", "sub/m.safetensors", "-o", "out.bin", code=None)
    assert done.returncode in (4, 6)
    assert "git theta: " in done.stderr
    assert not (repo.work / "out.bin").exists()


def test_export_into_a_directory_that_is_not_there(history: tuple[Sandbox, bytes, bytes]):
    done = history[0].theta("export", "sub/m.safetensors", "-o", "no/out.bin", code=128)
    assert "cannot be written" in done.stderr
    assert "bug" not in done.stderr


def test_a_pipe_that_closes_is_no_failure(history: tuple[Sandbox, bytes, bytes], tmp_path: Path):
    repo, _, _ = history
    model(repo.work / "wide.safetensors", {f"t{n}": np.zeros(1) for n in range(4000)})
    repo.commit()
    done = repo.run("sh", "-c", "git theta show wide.safetensors | head -n 1")
    assert done.stdout == "wide.safetensors\n"
    assert done.stderr == ""
