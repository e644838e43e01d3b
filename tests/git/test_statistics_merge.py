"""Merges that need statistics: found beside the model of each side, refused when stale."""

from __future__ import annotations

import torch
from safetensors.torch import load_file, save_file

from git_theta.core.sidecar import Facts, weights_digest
from git_theta.repo.gitrepo import Repo
from git_theta.repo.tracked import find_blob, parse_at
from git_theta.stats import SidecarWriter
from tests.sandbox import Sandbox

NAME, BESIDE = "model.safetensors", "model.fisher.safetensors"
Weights = dict[str, torch.Tensor]


def drawn(seed: int) -> Weights:
    random = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(4, 5, generator=random), "b": torch.randn(6, generator=random)}


def sure(seed: int) -> Weights:
    return {name: values.abs() + 0.1 for name, values in drawn(seed + 100).items()}


def commit(repo: Sandbox, seed: int, *, statistics: bool = True) -> None:
    """A version of the model with statistics of just this version."""
    save_file(drawn(seed), repo.work / NAME)
    if statistics:
        repo.git("add", NAME)
        inner = Repo.find(repo.work)
        model = parse_at(NAME, find_blob(inner, None, NAME)[1])
        inner.close()
        writer = SidecarWriter(repo.work / BESIDE)
        for name, values in sure(seed).items():
            writer.add(name, values)
        writer.finish(Facts(kind="fisher", model_digest=weights_digest(model), n_samples=1))
        writer.close()
    repo.commit(f"version {seed}")


def two_sides(repo: Sandbox, *, stale: bool = False) -> None:
    """main has version 1, feature version 2; their ancestor is version 0."""
    with (repo.work / ".gitattributes").open("a") as file:
        file.write("*.safetensors theta-merge=fisher:normalize=none\n")
    commit(repo, 0)
    repo.git("checkout", "-q", "-b", "feature")
    commit(repo, 2)
    if stale:
        commit(repo, 3, statistics=False)
    repo.git("checkout", "-q", "main")
    commit(repo, 1)


def test_git_merge_finds_the_statistics_of_both_sides(repo: Sandbox):
    two_sides(repo)
    done = repo.run("git", "merge", "--no-edit", "feature")
    assert "merged with fisher" in done.stderr
    found = load_file(repo.work / NAME)
    for name, values in found.items():
        weights = sure(1)[name], sure(2)[name]
        wanted = drawn(1)[name] * weights[0] + drawn(2)[name] * weights[1]
        torch.testing.assert_close(values, wanted / (weights[0] + weights[1]))
    assert repo.git("status", "--porcelain") == ""
    # The statistics are those of our side still, and are no longer those of the model.
    assert "statistics of our side" in done.stderr
    torch.testing.assert_close(load_file(repo.work / BESIDE)["w"], sure(1)["w"])
    repo.git("checkout", "-q", "-b", "more", "main~1")
    commit(repo, 4)
    done = repo.run("git", "merge", "--no-edit", "main", code=1)
    assert f"{BESIDE} in " in done.stderr
    assert "was computed from other weights" in done.stderr


def test_stale_statistics_leave_a_conflict_with_a_way_out(repo: Sandbox):
    two_sides(repo, stale=True)
    done = repo.run("git", "merge", "--no-edit", "feature", code=1)
    assert "was computed from other weights" in done.stderr
    assert "git theta stats fisher" in done.stderr
    assert torch.equal(load_file(repo.work / NAME)["w"], drawn(1)["w"])
    repo.theta("resolve", NAME, "--strategy", "average")
    torch.testing.assert_close(
        load_file(repo.work / NAME)["w"], (drawn(1)["w"] + drawn(3)["w"]) / 2
    )


def test_missing_statistics_are_named(repo: Sandbox):
    commit(repo, 0, statistics=False)
    repo.git("checkout", "-q", "-b", "feature")
    commit(repo, 2)
    repo.git("checkout", "-q", "main")
    commit(repo, 1, statistics=False)
    done = repo.theta("merge", "feature", "--strategy", "fisher", code=1)
    assert "fisher statistics" in done.stderr
    assert "git theta stats fisher" in done.stderr
