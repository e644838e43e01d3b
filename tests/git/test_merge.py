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
