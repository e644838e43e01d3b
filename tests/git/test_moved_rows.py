"""An update of another package, through real Git."""

from __future__ import annotations

import numpy as np

from tests.sandbox import Sandbox, encode


def test_rows_that_changed_places_cost_their_order(repo: Sandbox):
    path = repo.work / "model.safetensors"
    rng = np.random.default_rng(0)
    embed = rng.normal(size=(2000, 64))
    path.write_bytes(encode({"embed": embed}))
    first = repo.commit("first")
    before = sum(file.stat().st_size for file in repo.objects())
    sorted_anew = encode({"embed": embed[rng.permutation(2000)]})
    path.write_bytes(sorted_anew)
    repo.commit("another order")
    shown = repo.json("show", path.name)
    assert set(shown["tensors"][0]["kinds"]) == {"moved-rows"}
    assert "git-theta-rows" in shown["plugins"]["git_theta.updates:moved-rows"]
    assert sum(file.stat().st_size for file in repo.objects()) - before < 20_000
    repo.git("checkout", "-q", first)
    repo.git("checkout", "-q", "main")
    assert path.read_bytes() == sorted_anew
