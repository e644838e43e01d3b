"""`git diff` and `git theta diff` on tracked models."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import git_theta
from tests.checkpoints import torch_zip
from tests.sandbox import Sandbox, encode, model

pytestmark = pytest.mark.git

NAME = "m.safetensors"
Weights = dict[str, npt.NDArray[Any]]


def weights(blocks: int = 4) -> Weights:
    """A small model with numbered blocks."""
    rng = np.random.default_rng(3)
    found: Weights = {}
    for number in range(blocks):
        for part in ("q", "k"):
            found[f"layers.{number}.{part}.weight"] = rng.normal(size=(48, 64)).astype("<f4")
        found[f"layers.{number}.norm"] = np.ones(64, "<f4")
    found["embed.weight"] = rng.normal(size=(100, 64)).astype("<f4")
    return found


def trained(old: Weights) -> Weights:
    """All q matrices moved by a matrix of rank 2, one norm scaled, one tensor gone, one new."""
    rng = np.random.default_rng(4)
    new = dict(old)
    for name, values in old.items():
        if name.endswith("q.weight"):
            step = rng.normal(size=(48, 2)) @ rng.normal(size=(2, 64))
            new[name] = (values + 0.01 * step).astype("<f4")
    new["layers.2.norm"] = old["layers.2.norm"] * np.float32(1.5)
    del new["layers.0.norm"]
    new["head"] = np.ones(8, "<f4")
    return new


def write(repo: Sandbox, tensors: Weights, name: str = NAME) -> None:
    (repo.work / name).write_bytes(encode(tensors))


@pytest.fixture
def two(repo: Sandbox) -> tuple[Sandbox, Weights, Weights]:
    """A model in two commits."""
    old = weights()
    write(repo, old)
    repo.commit("first")
    new = trained(old)
    write(repo, new)
    repo.commit("second")
    return repo, old, new


def json_of(repo: Sandbox, *words: str, paths: Sequence[str] = (), **options: Any) -> Any:
    """The report of `git theta`, of some paths only."""
    done = repo.theta(*words, "--json", *(["--", *paths] if paths else []), **options)
    return json.loads(str(done.stdout))


def rows(report: Any) -> dict[str, Any]:
    (found,) = report["models"]
    return {row["name"]: row for row in found["tensors"]}


def test_git_diff_says_what_changed_without_objects_or_network(
    two: tuple[Sandbox, Weights, Weights],
):
    repo, _, _ = two
    shutil.rmtree(repo.store())
    repo.git("remote", "add", "origin", "https://127.0.0.1:9/nowhere.git")
    done = repo.run("git", "diff", "HEAD~1", "HEAD")
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == f"diff --git a/{NAME} b/{NAME}"
    assert any("1 added, 1 removed, 5 changed of 14 tensors" in line for line in lines)
    assert any("layers.0-3.q.weight (4)" in line for line in lines)
    assert not repo.store().exists()


def test_git_diff_uses_the_summaries_that_are_here(two: tuple[Sandbox, Weights, Weights]):
    repo, _, _ = two
    text = repo.git("diff", "HEAD~1", "HEAD")
    assert "estimated from sketches" in text
    told = repo.theta("diff", "HEAD~1", "HEAD", "--markdown").stdout
    assert "&#126; estimated from sketches, one standard deviation 9%" in told
    assert "layers.2.norm" in text
    assert "50 %" in text
    assert "k.weight" not in text
    assert "embed" not in text


def test_a_modified_file_is_compared(
    two: tuple[Sandbox, Weights, Weights],
):
    repo, old, new = two
    changed = {**new, "embed.weight": old["embed.weight"] * np.float32(1.1), "more": np.ones(3)}
    write(repo, changed)
    before = repo.objects()
    text = repo.git("diff")
    assert "embed.weight" in text
    assert "not yet" in text
    assert "+ more" in text
    report = json_of(repo, "diff", "--exact")
    assert rows(report)["embed.weight"]["metrics"]["relative_l2"]["value"] == pytest.approx(0.1)
    stat = repo.git("diff", "--stat")
    assert "deletions" in stat
    assert repo.objects() == before
    lines = repo.git("diff", "--no-ext-diff", "-U0").splitlines()
    assert sum(line.startswith('+"embed.weight"') for line in lines) == 1
    assert not any("k.weight" in line for line in lines if line[0] in "+-")
    assert set(repo.objects()) > set(before)  # this patch can be applied: what it names is stored
    assert repo.git("diff", "HEAD~1", "--", NAME) != text


def test_a_touched_file_is_no_difference(two: tuple[Sandbox, Weights, Weights]):
    repo, _, _ = two
    path = repo.work / NAME
    path.write_bytes(path.read_bytes())
    assert repo.git("diff") == ""
    os.utime(path, (10**9, 10**9))
    assert repo.git("diff", "--stat") == ""
    assert repo.theta("diff", "--exit-code").stdout == ""
    assert repo.git("status", "--porcelain") == ""


def test_a_changed_file_is_read_once(two: tuple[Sandbox, Weights, Weights]):
    repo, old, new = two
    write(repo, {**new, "embed.weight": old["embed.weight"] * np.float32(1.1)})
    os.utime(repo.work / NAME, (10**9, 10**9))
    scratch = repo.work / ".git" / "theta" / "tmp"
    repo.git("diff", "--stat")
    (left,) = scratch.glob("diff-*")
    assert "embed.weight" in repo.git("diff")
    repo.git("diff", "--stat")
    left.write_bytes(b"damaged")
    assert "embed.weight" in repo.git("diff")
    write(repo, {**new, "head": np.zeros(8, "<f4")})
    text = repo.git("diff")
    assert "head" in text
    assert "embed.weight" not in text


def test_stat_and_log_and_show_are_line_diffs(two: tuple[Sandbox, Weights, Weights]):
    repo, _, _ = two
    shutil.rmtree(repo.store())
    assert f"{NAME} |" in repo.git("diff", "--stat", "HEAD~1", "HEAD")
    for words in (["log", "-1", "-p"], ["show"], ["format-patch", "-1", "--stdout"]):
        text = repo.git(*words)
        assert '\n-"layers.0.norm": {' in text
        assert '\n+"head": {' in text
    assert "[-" in repo.git("show", "--word-diff")
    assert '"head": {' in repo.git("diff", "--no-ext-diff", "HEAD~1", "HEAD")


def test_adds_removals_renames_and_modes(two: tuple[Sandbox, Weights, Weights]):
    repo, _, new = two
    text = repo.git("diff", "4b825dc642cb6eb9a060e54bf8d69288fbee4904", "HEAD", "--", NAME)
    assert "new file mode 100644" in text
    assert "added: safetensors, 13 tensors" in text
    text = repo.git("diff", "-R", "4b825dc642cb6eb9a060e54bf8d69288fbee4904", "HEAD", "--", NAME)
    assert "deleted file mode 100644" in text
    repo.git("mv", NAME, "n.safetensors")
    changed = {**new, "head": new["head"] * np.float32(2)}
    write(repo, changed, "n.safetensors")
    (repo.work / "n.safetensors").chmod(0o755)
    repo.commit("renamed")
    text = repo.git("diff", "-M", "HEAD~1", "HEAD")
    assert f"rename from {NAME}" in text
    assert "rename to n.safetensors" in text
    assert "new mode 100755" in text
    assert "1 changed of 13 tensors" in text
    assert f"{NAME} -> n.safetensors" in repo.theta("diff", "HEAD~1", "HEAD").stdout
    (repo.work / "n.safetensors").chmod(0o644)
    repo.commit("mode")
    text = repo.git("diff", "HEAD~1", "HEAD")
    assert "old mode 100755" in text
    assert "the same file" in text


def test_a_side_that_was_committed_raw(sandbox: Sandbox):
    sandbox.init(track="")
    old = weights()
    write(sandbox, old)
    sandbox.commit("raw")
    sandbox.theta("track", "*.safetensors")
    write(sandbox, trained(old))
    sandbox.commit("tracked")
    text = sandbox.git("diff", "HEAD~1", "HEAD", "--", NAME)
    assert "1 added, 1 removed, 5 changed of 14 tensors" in text
    found = rows(json_of(sandbox, "diff", "--exact", "HEAD~1", "HEAD", paths=[NAME]))
    assert found["layers.2.norm"]["metrics"]["relative_l2"]["value"] == pytest.approx(0.5)


def test_aliases_and_difftool(two: tuple[Sandbox, Weights, Weights]):
    repo, _, _ = two
    repo.git("config", "alias.d", "diff HEAD~1")
    repo.git("config", "alias.e", "!git diff HEAD~1")
    for alias in ("d", "e"):
        assert "layers.0-3.q.weight (4)" in repo.git(alias)
    shown = repo.git("difftool", "-y", "-x", "diff", "HEAD~1", "HEAD", code=None)
    assert "< layers.0.norm: 64 F32 " in shown
    assert "> head: 8 F32 " in shown


def test_exact_figures_are_those_of_the_weights(two: tuple[Sandbox, Weights, Weights]):
    repo, old, new = two
    found = rows(json_of(repo, "diff", "HEAD~1", "HEAD", "--exact"))
    estimates = rows(json_of(repo, "diff", "HEAD~1", "HEAD"))
    assert found.keys() == {
        *(f"layers.{n}.q.weight" for n in range(4)), "layers.2.norm", "layers.0.norm", "head",
    }  # fmt: skip
    for number in range(4):
        name = f"layers.{number}.q.weight"
        a, b = old[name].astype(float), new[name].astype(float)
        step = b - a
        metrics = {key: value["value"] for key, value in found[name]["metrics"].items()}
        assert metrics["l2"] == pytest.approx(np.linalg.norm(step), rel=1e-5)
        assert metrics["relative_l2"] == pytest.approx(
            np.linalg.norm(step) / np.linalg.norm(a), rel=1e-5
        )
        cosine = (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)
        assert 1 - metrics["cosine"] == pytest.approx(1 - cosine, rel=1e-3)
        assert metrics["largest"] == pytest.approx(np.abs(step).max(), rel=1e-5)
        assert metrics["sign_flips"] == pytest.approx(((a * b) < 0).mean())
        assert metrics["changed_share"] == pytest.approx((a != b).mean())
        assert metrics["rank"] == 2
        assert found[name]["exact"]
        guess = estimates[name]["metrics"]["l2"]
        assert guess["error"] > 0
        assert guess["value"] == pytest.approx(metrics["l2"], rel=4 * guess["error"])
        assert "largest" not in estimates[name]["metrics"]


def test_what_happened_to_a_tensor(repo: Sandbox):
    old = weights(2)
    write(repo, old)
    repo.commit()
    new = dict(old)
    rng = np.random.default_rng(1)
    new["embed.weight"] = old["embed.weight"][rng.permutation(100)]
    new["layers.0.q.weight"] = old["layers.0.q.weight"].reshape(64, 48)
    ill = old["layers.1.q.weight"].copy()
    ill[0, :3], ill[1, 0] = np.nan, np.inf
    new["layers.1.q.weight"] = ill
    write(repo, new)
    repo.commit()
    for words in ([], ["--exact"]):
        found = rows(json_of(repo, "diff", "HEAD~1", "HEAD", *words))
        assert found["embed.weight"]["what"] == "permuted"
        assert found["embed.weight"]["sure"] == bool(words)
        assert found["layers.0.q.weight"]["what"] == "reshaped"
        assert found["layers.1.q.weight"]["metrics"]["nans"]["value"] == 3
        assert found["layers.1.q.weight"]["metrics"]["infinities"]["value"] == 1
    text = repo.theta("diff", "HEAD~1", "HEAD").stdout
    assert "48x64 F32 -> 64x48 F32" in text
    assert "embed.weight permuted?" in text


def test_a_fine_tune_that_keeps_norm_and_mean_is_not_taken_for_a_permutation(repo: Sandbox):
    bias = np.sort(np.random.default_rng(5).normal(size=4096).astype("<f4"))
    write(repo, weights() | {"bias": bias})
    repo.commit()
    near = bias.copy()
    near[10:-10:2], near[11:-10:2] = bias[11:-10:2], bias[10:-10:2]
    write(repo, weights() | {"bias": near})
    repo.commit()
    for words, what in (([], "changed"), (["--exact"], "permuted")):
        found = rows(json_of(repo, "diff", "HEAD~1", "HEAD", *words))
        assert found["bias"]["what"] == what
        assert found["bias"]["metrics"]["relative_l2"]["value"] < 0.02


def test_a_tensor_under_another_name_was_renamed(repo: Sandbox):
    old = weights()
    old |= {"a.bias": np.zeros(5, "<f4"), "b.bias": np.zeros(5, "<f4"), "empty": np.zeros((0, 3))}
    write(repo, old)
    repo.commit("first")
    new = {name.replace("layers.", "h.").replace(".q.", ".query."): v for name, v in old.items()}
    new["h.3.k.weight"] = old["layers.3.k.weight"] + np.float32(1)
    new["hollow"] = new.pop("empty")
    new["y.b.bias"], new["x.a.bias"] = new.pop("b.bias"), new.pop("a.bias")
    write(repo, new)
    repo.commit("second")
    found = rows(json_of(repo, "diff", "HEAD~1", "HEAD"))
    former = {name: row["old_name"] for name, row in found.items() if row["what"] == "renamed"}
    assert former == {
        **{f"h.{n}.query.weight": f"layers.{n}.q.weight" for n in range(4)},
        **{f"h.{n}.k.weight": f"layers.{n}.k.weight" for n in range(3)},
        **{f"h.{n}.norm": f"layers.{n}.norm" for n in range(4)},
        "y.b.bias": "b.bias",
        "x.a.bias": "a.bias",
    }
    others = {name: row["what"] for name, row in found.items() if row["old_name"] is None}
    assert others == {
        "h.3.k.weight": "added", "layers.3.k.weight": "removed", "hollow": "added",
        "empty": "removed",
    }  # fmt: skip
    for words in (("diff",), ("theta", "diff"), ("theta", "diff", "--exact")):
        text = repo.git(*words, "HEAD~1", "HEAD")
        assert "2 added, 2 removed, 13 renamed of 18 tensors" in text
        assert ">   layers.0-3.q.weight -> h.0-3.query.weight (4)" in text
        assert ">   layers.0-2.k.weight -> h.0-2.k.weight (3)" in text
        assert "> a.bias -> x.a.bias" in text
    assert "| renamed | <code>a.bias -" in repo.theta("diff", "HEAD~1", "HEAD", "--markdown").stdout


def test_a_cast_is_compared_by_value(repo: Sandbox):
    values = np.random.default_rng(1).normal(size=(64, 64)).astype("<f4")
    (repo.work / NAME).write_bytes(typed("w", "F32", values))
    repo.commit()
    rounded = ((values.view("<u4") + 0x8000) >> 16).astype("<u2")
    (repo.work / NAME).write_bytes(typed("w", "BF16", rounded))
    repo.commit()
    for words in ([], ["--exact"]):
        row = rows(json_of(repo, "diff", "HEAD~1", "HEAD", *words))["w"]
        assert row["what"] == "cast"
        assert 0.0005 < row["metrics"]["relative_l2"]["value"] < 0.004
    assert "64x64 F32 -> BF16" in repo.git("diff", "HEAD~1", "HEAD")


def typed(name: str, dtype: str, values: npt.NDArray[Any]) -> bytes:
    """A safetensors file with one tensor of any dtype."""
    data = values.tobytes()
    entry = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [0, len(data)]}
    text = json.dumps({name: entry}).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_metadata_is_diffed_as_text(repo: Sandbox):
    plain = encode({"w": np.ones((4, 4))})
    for epoch in ("3", "4"):
        length = int.from_bytes(plain[:8], "little")
        header = json.loads(plain[8 : 8 + length])
        header["__metadata__"] = {"epoch": epoch, "by": "Ann"}
        head = json.dumps(header).encode()
        data = struct.pack("<Q", len(head)) + head + plain[8 + length :]
        (repo.work / NAME).write_bytes(data)
        repo.commit()
    text = repo.git("diff", "HEAD~1", "HEAD")
    assert "-metadata.epoch: 3" in text
    assert "+metadata.epoch: 4" in text
    assert "Ann" not in text
    assert "no tensor changed of 1 tensor" in text


def test_formats_and_shards_compare_by_name(repo: Sandbox):
    repo.theta("track", "*.pt")
    tensors = {name: values for name, values in weights().items() if values.ndim == 2}
    (repo.work / "model.pt").write_bytes(torch_zip(tensors))
    repo.commit("torch")
    (repo.work / "model.pt").unlink()
    write(repo, tensors, "model.safetensors")
    repo.commit("safetensors")
    assert json_of(repo, "diff", "HEAD~1", "HEAD")["models"][0]["counts"] == {}
    names = sorted(tensors)
    (repo.work / "model.safetensors").unlink()
    moved = {**tensors, names[0]: tensors[names[0]] * np.float32(2)}
    write(repo, {n: moved[n] for n in names[:4]}, "model-00001-of-00002.safetensors")
    write(repo, {n: moved[n] for n in names[4:]}, "model-00002-of-00002.safetensors")
    repo.commit("shards")
    (found,) = json_of(repo, "diff", "HEAD~1", "HEAD")["models"]
    assert found["counts"] == {"changed": 1}
    assert found["same"] == len(tensors) - 1
    assert len(found["new"]["paths"]) == 2
    places = ("HEAD~2:model.pt", "HEAD:model-00001-of-00002.safetensors")
    (found,) = json_of(repo, "diff", *places)["models"]
    assert found["counts"] == {"removed": len(names) - 4, "changed": 1}


def test_exit_codes_paths_and_revisions(two: tuple[Sandbox, Weights, Weights]):
    repo, _, _ = two
    assert repo.theta("diff", "--exit-code").stdout == ""
    repo.theta("diff", "--exit-code", "HEAD~1", code=1)
    repo.theta("diff", "HEAD~1..HEAD")
    assert json_of(repo, "diff", "HEAD~1...HEAD", paths=[NAME])["models"]
    assert json_of(repo, "diff", "HEAD~1", "HEAD", paths=["other"])["models"] == []
    assert json_of(repo, "diff", "HEAD~1", NAME)["models"]
    for words in (["nowhere"], ["HEAD~9", "HEAD"], ["HEAD~1", "HEAD", "nothing"]):
        told = repo.theta("diff", *words, code=3).stderr
        assert "is no revision, and no file in the work tree" in told
    assert "no revision 'nowhere'" in repo.theta("diff", "nowhere", "--", code=3).stderr
    write(repo, weights())
    assert json_of(repo, "diff", "--cached")["models"] == []
    repo.git("add", NAME)
    assert json_of(repo, "diff", "--cached")["models"]
    assert json_of(repo, "diff")["models"] == []


def test_names_cannot_act_on_terminals_or_reviews(repo: Sandbox):
    evil = "a|b`c<script>\x1b[2J\n"
    model(repo.work / NAME, {evil: np.ones((4, 4))})
    repo.commit()
    model(repo.work / NAME, {evil: np.zeros((4, 4))})
    repo.commit()
    for text in (repo.git("diff", "HEAD~1", "HEAD"), str(repo.theta("diff", "HEAD~1").stdout)):
        assert all(line.isprintable() for line in text.splitlines())
        assert r"<script>\x1b[2J\n" in text
    review = repo.theta("diff", "HEAD~1", "HEAD", "--markdown").stdout
    assert "<script>" not in review
    (row,) = [line for line in review.splitlines() if "x1b" in line]
    assert row.count("|") == next(
        line.count("|") for line in review.splitlines() if line.startswith("|---")
    )


def test_summaries_are_fetched_and_weights_only_when_asked(
    two: tuple[Sandbox, Weights, Weights], tmp_path: Path
):
    repo, _, _ = two
    remote = tmp_path / "remote.git"
    repo.git("init", "-q", "--bare", remote)
    repo.git("remote", "add", "origin", remote.as_uri())
    repo.git("push", "-q", "-u", "origin", "main")
    clone = tmp_path / "clone"
    env = {"GIT_THETA_SKIP_SMUDGE": "1"}
    repo.git("clone", "-q", remote.as_uri(), clone, env=env)
    store = clone / ".git" / "theta" / "lfs.git" / "lfs" / "objects"

    def held() -> int:
        return sum(path.stat().st_size for path in store.rglob("*") if path.is_file())

    text = repo.git("diff", "HEAD~1", "HEAD", cwd=clone)
    assert "layers.0-3.q.weight (4)" in text
    assert "|dW|" not in text
    told = "note: distances are not known, the summaries are not here: git theta diff"
    assert text.splitlines()[-1].startswith(told)
    assert held() == 0
    page = tmp_path / "log.html"
    assert repo.theta("log", NAME, "--html", page, cwd=clone).stderr.startswith("written")
    assert '"distance": null' in page.read_text() or '"distance":null' in page.read_text()
    last = page.read_text().rpartition('"distance":')[2].strip()
    assert float(last.partition(",")[0]) > 0
    few = held()
    assert 0 < few < 20_000
    found = rows(json_of(repo, "diff", "HEAD~1", "HEAD", cwd=clone))
    assert found["layers.0.q.weight"]["metrics"]["l2"]["error"] > 0
    assert "distances are not known" not in repo.git("diff", "HEAD~1", "HEAD", cwd=clone)
    assert held() == few
    assert 0 < few < 20_000
    found = rows(json_of(repo, "diff", "HEAD~1", "HEAD", "--exact", cwd=clone))
    assert found["layers.0.q.weight"]["metrics"]["l2"]["error"] == 0
    assert held() > few
    assert os.listdir(clone)  # noqa: PTH208


def test_a_low_rank_update_tells_its_rank_without_weights(repo: Sandbox):
    rng = np.random.default_rng(2)
    old = (0.02 * rng.normal(size=(512, 512))).astype("<f4")
    write(repo, {"w": old})
    repo.commit()
    step = 1e-2 * rng.normal(size=(512, 4)) @ rng.normal(size=(4, 512))
    write(repo, {"w": (old + step.astype("<f4")).astype("<f4")})
    repo.commit()
    row = rows(json_of(repo, "diff", "HEAD~1", "HEAD"))["w"]
    assert row["kinds"] == ["low-rank"]
    assert row["metrics"]["rank"] == {"value": 4, "error": 0.0}
    assert "rank" not in rows(json_of(repo, "diff", "HEAD", "HEAD~1"))["w"]["metrics"]


def test_the_api_returns_what_the_command_prints(
    two: tuple[Sandbox, Weights, Weights], monkeypatch: pytest.MonkeyPatch
):
    repo, _, _ = two
    for name in ("HOME", "GIT_CONFIG_GLOBAL", "PATH"):
        monkeypatch.setenv(name, repo.env[name])
    found = git_theta.diff("HEAD~1", "HEAD", repo=repo.work, exact=True)
    printed = json_of(repo, "diff", "HEAD~1", "HEAD", "--exact")
    assert json.loads(json.dumps([diff.to_dict() for diff in found])) == printed["models"]
    assert git_theta.diff("HEAD~1", "HEAD", repo=repo.work, paths=["other"]) == ()
    entries = git_theta.log(NAME, repo=repo.work)
    assert [entry.to_dict() for entry in entries] == json_of(repo, "log", NAME)
    with pytest.raises(AttributeError):
        git_theta.nothing  # noqa: B018
