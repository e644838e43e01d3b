"""`git theta stats`: side-cars from a user's function, and from history."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from git_theta.commands.hook import load_hook, open_hook
from git_theta.commands.session import Session
from git_theta.core.sidecar import weights_digest
from git_theta.errors import MergeError, UsageError
from git_theta.repo.gitrepo import Repo
from git_theta.repo.sidecars import facts_of, find_sidecar, require_sidecar
from git_theta.repo.tracked import find_blob, parse_at
from tests.sandbox import Sandbox

HOOK = """
import torch
from safetensors.torch import load_file
from torch import nn

def network(path):
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    weights = load_file(path)
    if any(value.dtype == torch.bfloat16 for value in weights.values()):
        weights = {name: value.float() for name, value in weights.items()}
    model.load_state_dict(weights)
    return model

def batches():
    random = torch.Generator().manual_seed(0)
    for _ in range(3):
        yield torch.randn(8, 4, generator=random), torch.arange(8) % 3

def pair(path):
    return network(path), list(batches())

def stream(path):
    yield network(path)
    yield from batches()

def other(path):
    model = network(path)
    torch.nn.init.zeros_(model[2].bias)
    return model, list(batches())

def nothing(path):
    return 3
"""


def weights(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    shapes = {"0.weight": (5, 4), "0.bias": (5,), "2.weight": (3, 5), "2.bias": (3,)}
    return {n: torch.randn(s, generator=random).to(dtype) for n, s in shapes.items()}


@pytest.fixture
def trained(repo: Sandbox) -> Sandbox:
    """A repository with a model, and a function that opens it."""
    save_file(weights(1), repo.work / "model.safetensors")
    (repo.work / "hook.py").write_text(HOOK)
    repo.commit()
    return repo


def told(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        found: dict[str, str] = file.metadata()
    return found


@pytest.mark.parametrize("function", ["pair", "stream"])
def test_fisher_of_a_model_goes_beside_it(trained: Sandbox, function: str):
    done = trained.theta("stats", "fisher", "model.safetensors", "--with", f"hook:{function}")
    assert f"running hook:{function} from {trained.work / 'hook.py'}" in done.stderr
    assert "4 tensors from 24 examples" in done.stderr
    target = trained.work / "model.fisher.safetensors"
    found = load_file(target)
    assert {n: v.shape for n, v in found.items()} == {n: v.shape for n, v in weights(1).items()}
    assert all(bool((v >= 0).all()) and v.dtype == torch.float32 for v in found.values())
    facts = told(target)
    assert facts["estimator"] == "true"
    assert facts["reduction"] == "mean"
    assert facts["n_samples"] == "24"
    assert facts["code"].startswith("git-theta ")
    left = trained.git("status", "--porcelain", "--untracked-files=all")
    assert left == f"?? {target.name}\n"  # and no __pycache__ of the hook


def test_what_was_computed_is_what_the_api_gives(trained: Sandbox):
    args = ("stats", "fisher", "model.safetensors", "--with", "hook:pair")
    trained.theta(*args, "--estimator", "empirical", "--memory", "1k", "-o", "here.safetensors")
    space: dict[str, object] = {}
    exec(HOOK, space)
    model, batches = space["pair"](trained.work / "model.safetensors")  # type: ignore[operator]
    from git_theta import stats

    wanted = stats.fisher(model, batches, estimator="empirical")
    found = load_file(trained.work / "here.safetensors")
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        torch.testing.assert_close(found[name], values)


def test_gram_matrices_of_a_bf16_model_and_from_a_directory_below(repo: Sandbox):
    below = repo.work / "models"
    below.mkdir()
    save_file(weights(1, torch.bfloat16), below / "m.safetensors")
    (below / "hook.py").write_text(HOOK)
    repo.commit()
    repo.theta(
        "stats", "gram", "m.safetensors", "--with", "hook:pair", "--outputs", "-q", cwd=below
    )
    found = load_file(below / "m.gram.safetensors")
    shapes = {name: tuple(v.shape) for name, v in found.items()}
    assert shapes == {
        "0.weight": (4, 4),
        "0.weight#out": (5, 5),
        "2.weight": (5, 5),
        "2.weight#out": (3, 3),
    }


def test_another_model_than_the_staged_one_is_refused(trained: Sandbox):
    args = ("stats", "gram", "model.safetensors", "--with")
    done = trained.theta(*args, "hook:other", code=7)
    assert "2.bias of the model is not 2.bias of model.safetensors as it is staged" in done.stderr
    save_file(weights(2), trained.work / "model.safetensors")
    trained.theta(*args, "hook:pair", code=7)
    trained.git("add", "model.safetensors")
    trained.theta(*args, "hook:pair")
    assert not (trained.work / "here.safetensors").exists()


def test_a_hook_that_is_none_is_explained(trained: Sandbox, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(trained.work)
    monkeypatch.setattr("sys.path", [*sys.path])
    for hook, said in (
        ("hook", "names no function"),
        ("nowhere:pair", "there is no module 'nowhere'"),
        ("hook:missing", "has no function 'missing'"),
        ("hook:nothing", "returned a int"),
    ):
        with pytest.raises(UsageError, match=said):
            open_hook(load_hook(hook, print), hook, trained.work / "model.safetensors")


def test_a_side_car_belongs_to_the_weights_it_was_computed_from(
    trained: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    trained.theta("stats", "fisher", "model.safetensors", "--with", "hook:pair", "-q")
    first = trained.commit("with statistics")
    save_file(weights(2), trained.work / "model.safetensors")
    second = trained.commit("trained on, statistics forgotten")
    # The same tensors in another order, with a note: no other weights.
    values = weights(1)
    save_file(values, trained.work / "model.safetensors", metadata={"note": "reviewed"})
    third = trained.commit("a note")
    monkeypatch.chdir(trained.work)
    session = Session(Repo.find(trained.work))
    read = (session.store.read, session.plugins.updates)
    try:
        for rev, stale in ((first, False), (second, True), (third, False)):
            model = parse_at("m", find_blob(session.repo, rev, "model.safetensors")[1])
            place = (rev, "model.safetensors")
            found = find_sidecar(session.repo, rev, "model.safetensors", "fisher")
            assert found is not None
            same = facts_of(found, *read).model_digest == weights_digest(model)
            assert same is not stale
            require_sidecar(session.repo, place, "fisher", model, read, allow_stale=True)
            if stale:
                with pytest.raises(MergeError, match="computed from other weights") as failure:
                    require_sidecar(session.repo, place, "fisher", model, read)
                assert "git theta stats fisher model.safetensors" in failure.value.hint
            else:
                require_sidecar(session.repo, place, "fisher", model, read)
            with pytest.raises(MergeError, match="no gram statistics"):
                require_sidecar(session.repo, place, "gram", model, read)
    finally:
        session.close()


def test_moments_over_a_range_come_from_the_store(repo: Sandbox):
    commits = []
    for seed in range(5):
        save_file(weights(seed), repo.work / "model.safetensors")
        commits.append(repo.commit(f"version {seed}"))
        (repo.work / "other.txt").write_text(str(seed))
        repo.commit("something else")
    (repo.work / "model.safetensors").unlink()  # nothing but the store is read
    done = repo.theta("stats", "moments", "model.safetensors", f"{commits[0]}..HEAD", "--rank", "2")
    assert "from 4 versions" in done.stderr
    target = repo.work / "model.moments.safetensors"
    found = load_file(target)
    stack = torch.stack([weights(seed)["0.weight"] for seed in range(1, 5)])
    torch.testing.assert_close(found["0.weight#mean"], stack.mean(0))
    torch.testing.assert_close(found["0.weight#sqmean"], (stack**2).mean(0))
    assert found["0.weight#dev"].shape == (2, 20)
    assert told(target)["commits"].split() == commits[1:]
    assert told(target)["n_samples"] == "4"


def test_moments_need_versions_of_one_shape(repo: Sandbox):
    for rows in (3, 4):
        save_file({"w": torch.ones(rows, 2)}, repo.work / "model.safetensors")
        repo.commit()
    save_file({"w": torch.zeros(4, 2)}, repo.work / "model.safetensors")
    repo.commit()
    done = repo.theta("stats", "moments", "model.safetensors", "HEAD~2..HEAD")
    assert np.allclose(load_file(repo.work / "model.moments.safetensors")["w#mean"], 0.5)
    assert "from 2 versions" in done.stderr
    repo.git("commit", "-q", "--allow-empty", "-m", "nothing")
    done = repo.theta("stats", "moments", "model.safetensors", "HEAD~1..HEAD", code=3)
    assert "no commit in HEAD~1..HEAD changed model.safetensors" in done.stderr
    repo.git("checkout", "-q", "--orphan", "again")
    repo.commit("the same from the start")
    save_file({"w": torch.ones(5, 2)}, repo.work / "model.safetensors")
    repo.commit("larger")
    save_file({"w": torch.ones(6, 2)}, repo.work / "model.safetensors")
    repo.commit("larger still")
    done = repo.theta("stats", "moments", "model.safetensors", "HEAD~2..HEAD", code=1)
    assert "w is not the same kind of tensor" in done.stderr
    done = repo.theta("stats", "moments", "model.safetensors", "HEAD", code=2)
    assert "A..B" in done.stderr
