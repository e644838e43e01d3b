"""`git merge` merges models: what decides, what comes out, and what other commands do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

from tests.sandbox import Sandbox, model

pytestmark = pytest.mark.git

Array = npt.NDArray[Any]
ONES = np.ones((40, 50), "<f4")
NAME = "m.safetensors"


class Two:
    """Two branches that came of one commit; `main` is checked out."""

    def __init__(self, repo: Sandbox, attributes: str = "") -> None:
        self.repo = repo
        self.path = repo.work / NAME
        if attributes:
            (repo.work / ".gitattributes").write_text(
                f"*.safetensors filter=theta diff=theta merge=theta -text {attributes}\n"
            )
        self.base = self.write({})
        repo.commit("base")

    def write(self, changes: dict[str, Array], path: Path | None = None) -> dict[str, Array]:
        model(path or self.path, changes)
        return load_file(path or self.path)

    def diverge(self, ours: dict[str, Array], theirs: dict[str, Array]) -> None:
        self.repo.git("checkout", "-q", "-b", "other")
        self.theirs = self.write(theirs)
        self.repo.commit("theirs")
        self.repo.git("checkout", "-q", "main")
        self.ours = self.write(ours)
        self.repo.commit("ours")

    def loaded(self) -> dict[str, Array]:
        return load_file(self.path)


def overlapping(two: Two) -> None:
    """One tensor changed on both sides, one on each."""
    two.diverge(
        {"layer.0.weight": ONES, "layer.2.weight": ONES * 4},
        {"layer.1.weight": ONES, "layer.2.weight": ONES},
    )


def same(found: dict[str, Array], wanted: dict[str, Array]) -> bool:
    return found.keys() == wanted.keys() and all(
        np.array_equal(found[name], wanted[name]) for name in wanted
    )


def test_an_attribute_is_all_that_a_merge_needs(repo: Sandbox):
    two = Two(repo, "theta-merge=average")
    overlapping(two)
    done = repo.run("git", "merge", "--no-edit", "other")
    assert "1 tensor merged with average (the attribute theta-merge)" in done.stderr
    wanted = two.base | dict.fromkeys(("layer.0.weight", "layer.1.weight"), ONES)
    assert same(two.loaded(), wanted | {"layer.2.weight": ONES * 2.5})
    assert repo.git("status", "--short") == ""
    two.path.touch()
    assert repo.git("status", "--short") == ""
    (repo.work / ".git" / "theta" / "catalog.db").unlink()
    two.path.touch()
    assert repo.git("status", "--short") == ""
    repo.theta("fsck")
    assert repo.json("show", NAME)["digest"] is None
    shown = repo.git("show", f"HEAD:{NAME}")
    assert '"recipe": {' in shown


def test_tensors_that_do_not_overlap_need_no_strategy(repo: Sandbox):
    two = Two(repo)
    two.diverge({"layer.0.weight": ONES}, {"layer.1.weight": ONES * 2})
    before = len(repo.objects())
    repo.git("merge", "-q", "--no-edit", "other")
    wanted = {"layer.0.weight": ONES, "layer.1.weight": ONES * 2}
    assert same(two.loaded(), two.base | wanted)
    assert len(repo.objects()) <= before + 1  # a recipe and a skeleton, no tensor


def test_tensors_added_on_each_side(repo: Sandbox):
    two = Two(repo)
    two.diverge({"new.a": ONES}, {"new.b": ONES * 2})
    repo.git("merge", "-q", "--no-edit", "other")
    assert same(two.loaded(), two.base | {"new.a": ONES, "new.b": ONES * 2})


def test_a_conflict_is_settled_by_resolve(repo: Sandbox):
    two = Two(repo)
    overlapping(two)
    done = repo.run("git", "merge", "other", code=1)
    assert "layer.2.weight: changed differently; cosine of the changes" in done.stderr
    assert same(two.loaded(), two.ours)
    assert len(repo.git("ls-files", "-u").splitlines()) == 3
    repo.theta("resolve", NAME, "-s", "average", "--set", "weights=[3,1]")
    assert repo.git("ls-files", "-u") == ""
    wanted = two.base | dict.fromkeys(("layer.0.weight", "layer.1.weight"), ONES)
    assert same(two.loaded(), wanted | {"layer.2.weight": ONES * 3.25})
    repo.git("commit", "-q", "-m", "merged")
    assert repo.git("status", "--short") == ""
    assert "not in conflict" in repo.theta("resolve", NAME, "-s", "average", code=3).stderr


def test_three_branches_in_one_commit(repo: Sandbox):
    two = Two(repo)
    repo.git("checkout", "-q", "-b", "third")
    two.write({"layer.2.weight": ONES * 7, "layer.3.weight": ONES})
    (repo.work / "third.txt").write_text("third")
    repo.commit("third")
    repo.git("checkout", "-q", "main")
    overlapping(two)
    refused = repo.run("git", "merge", "other", "third", code=None)
    assert refused.returncode != 0
    repo.git("reset", "-q", "--hard")
    plan = repo.json("merge", "other", "third", "-s", "average", "--dry-run", code=0)
    assert [(p["merged"], p["taken"], p["conflicts"]) for p in plan] == [(1, 3, 0)]
    repo.theta("merge", "other", "third", "-s", "average", "-m", "all three")
    wanted = two.base | {f"layer.{n}.weight": ONES for n in (0, 1, 3)}
    assert same(two.loaded(), wanted | {"layer.2.weight": ONES * 4})
    assert (repo.work / "third.txt").read_text() == "third"
    assert len(repo.git("log", "-1", "--format=%P").split()) == 3
    told = repo.git("log", "-1", "--format=%B")
    assert told.startswith("all three\n\nTheta-Recipe: ")
    assert repo.git("status", "--short") == ""
    assert f"{NAME}: the same, 4 tensors" in repo.theta("merge", "--verify", "HEAD").stdout


def test_scope_all_sees_what_one_side_changed(repo: Sandbox):
    two = Two(repo)
    two.diverge({"layer.0.weight": ONES}, {"layer.1.weight": ONES * 2})
    repo.theta("merge", "other", "-s", "average", "--scope", "all", "--for", "layer.0*", "theirs")
    found = two.loaded()
    assert np.array_equal(found["layer.1.weight"], (two.base["layer.1.weight"] + ONES * 2) / 2)
    assert np.array_equal(found["layer.0.weight"], ONES)  # no strategy sees it: ours alone changed
    assert np.array_equal(found["layer.2.weight"], two.base["layer.2.weight"])


def test_other_files_in_conflict_leave_a_merge_to_be_finished(repo: Sandbox):
    two = Two(repo)
    (repo.work / "notes.txt").write_text("base\n")
    repo.commit("notes")
    repo.git("checkout", "-q", "-b", "side")
    (repo.work / "notes.txt").write_text("side\n")
    repo.commit("side notes")
    repo.git("checkout", "-q", "main")
    (repo.work / "notes.txt").write_text("main\n")
    two.write({"layer.2.weight": ONES * 4})
    repo.commit("main notes")
    repo.git("checkout", "-q", "side")
    two.write({"layer.2.weight": ONES * 2})
    repo.commit("side model")
    repo.git("checkout", "-q", "main")
    done = repo.theta("merge", "side", "-s", "average", code=1)
    assert "1 file in conflict: notes.txt" in done.stderr
    assert np.array_equal(two.loaded()["layer.2.weight"], ONES * 3)
    assert repo.git("diff", "--name-only", "--diff-filter=U").split() == ["notes.txt"]
    (repo.work / "notes.txt").write_text("both\n")
    repo.commit("merged")
    assert len(repo.git("log", "-1", "--format=%P").split()) == 2


def test_an_ancestor_that_was_committed_raw(sandbox: Sandbox):
    """Both branches began to track the file after they left their ancestor."""
    sandbox.init(track="")
    two = Two(sandbox)
    track = "*.safetensors filter=theta diff=theta merge=theta -text theta-merge=average\n"
    sandbox.git("checkout", "-q", "-b", "tracked")
    (sandbox.work / ".gitattributes").write_text(track)
    sandbox.git("add", "--renormalize", ".")
    sandbox.git("add", ".gitattributes")
    sandbox.git("commit", "-q", "-m", "tracked")
    sandbox.git("branch", "-f", "main", "tracked~1")
    for name, changes in (
        ("main", {"layer.0.weight": ONES, "layer.2.weight": ONES * 4}),
        ("other", {"layer.1.weight": ONES, "layer.2.weight": ONES}),
    ):
        sandbox.git("checkout", "-q", "-B", name, "tracked~1")
        (sandbox.work / ".gitattributes").write_text(track)
        two.write(changes)
        sandbox.commit(name)
    sandbox.git("checkout", "-q", "main")
    sandbox.git("merge", "--no-edit", "other")
    wanted = two.base | dict.fromkeys(("layer.0.weight", "layer.1.weight"), ONES)
    assert same(two.loaded(), wanted | {"layer.2.weight": ONES * 2.5})
