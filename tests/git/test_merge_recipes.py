"""Recipes from files, and merges repeated from the recipes that commits keep."""

from __future__ import annotations

import numpy as np
import pytest

from tests.git.test_merge import NAME, ONES, Two, overlapping
from tests.sandbox import Sandbox

pytestmark = pytest.mark.git

MERGEKIT = """
merge_method: task_arithmetic
base_model: main
models:
  - model: main
  - model: math
    parameters: {weight: 1.0}
  - model: code
    parameters:
      weight:
        - {filter: layer.3, value: 0.0}
        - value: [0.0, 1.0]
parameters: {normalize: false, lambda: 0.5}
dtype: float32
tokenizer_source: base
"""


def test_a_file_of_mergekit_names_its_models(repo: Sandbox):
    two = Two(repo)
    for name, factor in (("math", 1), ("code", 2)):
        repo.git("checkout", "-q", "-b", name, "main")
        two.write({f"layer.{n}.weight": ONES * factor for n in range(4)})
        repo.commit(name)
    repo.git("checkout", "-q", "main")
    recipe = repo.root / "config.yml"
    recipe.write_text(MERGEKIT)
    done = repo.theta("merge", "--recipe", recipe)
    assert "ignored: tokenizer_source, dtype" in done.stderr
    found = two.loaded()
    for number, weight in enumerate((0.0, 1 / 3, 2 / 3, 0.0)):
        name = f"layer.{number}.weight"
        base = two.base[name]
        change = (ONES - base) + np.float32(weight) * (ONES * 2 - base)
        assert np.allclose(found[name], base + 0.5 * change, rtol=1e-6, atol=1e-7)
    assert len(repo.git("log", "-1", "--format=%P").split()) == 3
    assert "the same, 4 tensors" in repo.theta("merge", "--verify", "HEAD").stdout
    recipe.write_text(MERGEKIT.replace("model: code", "model: who/knows"))
    assert "'who/knows' is no commit" in repo.theta("merge", "--recipe", recipe, code=2).stderr


def test_a_merge_is_replayed_on_other_parents(repo: Sandbox):
    two = Two(repo)
    overlapping(two)
    recipe = repo.root / "recipe.yml"
    recipe.write_text("strategy: average\nparameters: {weights: [3, 1]}\nfor: {'layer.0*': ours}\n")
    repo.theta("merge", "other", "--recipe", recipe)
    assert np.array_equal(two.loaded()["layer.2.weight"], ONES * 3.25)
    merge = repo.git("rev-parse", "HEAD").strip()
    repo.git("checkout", "-q", "other")
    two.write({"layer.1.weight": ONES, "layer.2.weight": ONES * 8})
    repo.commit("went on")
    repo.git("checkout", "-q", "-b", "again", f"{merge}^1")
    repo.theta("merge", "other", "--replay", merge)
    assert np.array_equal(two.loaded()["layer.2.weight"], ONES * 5)
    report = repo.json("merge", "--verify", "HEAD")
    assert report[0].pop("recipe")["rules"][1]["parameters"] == {"weights": [3, 1]}
    assert report == [{"path": NAME, "same": True, "tensors": 4, "differing": []}]


def test_a_recipe_that_does_not_give_the_result_is_found_out(repo: Sandbox):
    two = Two(repo)
    overlapping(two)
    repo.theta("merge", "other", "-s", "average")
    text = repo.git("cat-file", "blob", f"HEAD:{NAME}")
    line = next(row for row in text.splitlines() if row.startswith('"layer.1.weight"'))
    own = next(row for row in text.splitlines() if row.startswith('"layer.2.weight"'))
    forged = text.replace(line, '"layer.1.weight":' + own.split(":", 1)[1])
    (repo.root / "forged").write_text(forged)
    oid = repo.git("hash-object", "-w", "--no-filters", repo.root / "forged").strip()
    repo.git("update-index", "--cacheinfo", f"100644,{oid},{NAME}")
    repo.git("commit", "-q", "--amend", "--no-edit")
    done = repo.theta("merge", "--verify", "HEAD", code=1)
    assert f"{NAME}: differs: layer.1.weight" in done.stdout
