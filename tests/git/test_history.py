"""`git theta average` and `git theta apply`: history as material."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from git_theta.core.sidecar import weights_digest
from git_theta.repo.gitrepo import Repo
from git_theta.repo.tracked import find_blob, parse_at
from tests.sandbox import Sandbox

NAME = "model.safetensors"


def weights(seed: int, *, like: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """Weights of a seed; near others where they are given."""
    random = torch.Generator().manual_seed(seed)
    drawn = {n: torch.randn(s, generator=random) for n, s in (("a", (6, 5)), ("b", (7,)))}
    if like is None:
        return drawn | {"fixed": torch.arange(4.0)}
    return {name: values + 0.1 * drawn.get(name, 0) for name, values in like.items()}


def write(repo: Sandbox, values: dict[str, torch.Tensor], message: str) -> str:
    save_file(values, repo.work / NAME)
    return repo.commit(message)


def found(repo: Sandbox) -> dict[str, torch.Tensor]:
    values: dict[str, torch.Tensor] = load_file(repo.work / NAME)
    return values


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, values in other.items():
        torch.testing.assert_close(one[name], values)


def recipe(repo: Sandbox) -> str:
    return repo.git("show", f":{NAME}")


def test_the_average_of_a_range_counts_each_version_once(repo: Sandbox):
    versions = [weights(seed) for seed in range(5)]
    first = write(repo, versions[0], "first")
    for number, values in enumerate(versions[1:]):
        write(repo, values, f"version {number}")
        (repo.work / "notes.txt").write_text(str(number))
        repo.commit("the model stays as it is")
    done = repo.theta("average", f"{first}..HEAD", "--moments", "--rank", "3")
    mean = {n: torch.stack([v[n] for v in versions[1:]]).mean(0) for n in versions[0]}
    close(found(repo), mean)
    assert torch.equal(found(repo)["fixed"], versions[0]["fixed"])
    assert "staged 1 file" in done.stderr
    assert repo.git("status", "--porcelain", "-uno").split() == ["M", NAME]
    assert '"recipe": ' in recipe(repo)
    moments = load_file(repo.work / "model.moments.safetensors")
    torch.testing.assert_close(moments["a#mean"], mean["a"])
    assert moments["a#dev"].shape == (3, 30)
    inner = Repo.find(repo.work)
    staged = parse_at(NAME, find_blob(inner, None, NAME)[1])
    inner.close()
    with safe_open(repo.work / "model.moments.safetensors", "pt") as file:
        assert file.metadata()["model_digest"] == weights_digest(staged)
        assert file.metadata()["n_samples"] == "4"
    repo.commit("averaged")
    assert repo.git("status", "--porcelain") == ""
    assert repo.theta("fsck").returncode == 0


def test_only_first_parents_count(repo: Sandbox):
    base = write(repo, weights(0), "base")
    repo.git("checkout", "-q", "-b", "side")
    write(repo, weights(9), "on the side")
    repo.git("checkout", "-q", "main")
    write(repo, weights(1), "one")
    write(repo, weights(2), "two")
    repo.git("merge", "-q", "-s", "ours", "-m", "merged", "side")
    repo.theta("average", f"{base}..main", NAME, "-q")
    close(found(repo), {n: (weights(1)[n] + weights(2)[n]) / 2 for n in weights(0)})


def test_what_a_branch_learned_is_applied_here(repo: Sandbox):
    base = weights(0)
    write(repo, base, "base")
    repo.git("checkout", "-q", "-b", "task")
    tuned = weights(1, like=base)
    write(repo, tuned, "tuned")
    repo.git("checkout", "-q", "main")
    repo.theta("apply", "main..task", "-q")  # nothing else happened here: it is theirs
    assert all(torch.equal(found(repo)[n], tuned[n]) for n in tuned)
    repo.git("reset", "-q", "--hard")
    ours = weights(2, like=base)
    write(repo, ours, "trained here too")
    done = repo.theta("apply", "main~1..task")
    close(found(repo), {n: ours[n] + tuned[n] - base[n] for n in base})
    assert "merged with apply" in done.stderr
    repo.commit("applied")
    repo.theta("apply", "main~2..task", "--scale", "-1")
    close(found(repo), ours)
    repo.git("reset", "-q", "--hard", "main~1")
    repo.theta("apply", "main~1..task", "--scale", "0.5")
    close(found(repo), {n: ours[n] + (tuned[n] - base[n]) / 2 for n in base})


def test_a_branch_forgets_what_it_learned_and_learns_it_twice(repo: Sandbox):
    base = weights(0)
    write(repo, base, "base")
    tuned = weights(1, like=base)
    write(repo, tuned, "tuned")
    repo.theta("apply", "HEAD~1..HEAD", "--scale", "-1")
    close(found(repo), base)
    repo.git("reset", "-q", "--hard")
    repo.theta("apply", "HEAD~1..HEAD")
    close(found(repo), {n: 2 * tuned[n] - base[n] for n in base})


def test_what_cannot_be_scaled_is_named(repo: Sandbox):
    base = weights(0)
    write(repo, base, "base")
    repo.git("checkout", "-q", "-b", "task")
    write(repo, base | {"new": torch.ones(3)}, "a tensor more")
    repo.git("checkout", "-q", "main")
    done = repo.theta("apply", "main..task", "--scale", "-1", code=1)
    assert "new was added in the range" in done.stderr
    repo.theta("apply", "main..task")
    assert torch.equal(found(repo)["new"], torch.ones(3))


@pytest.mark.parametrize("command", ["average", "apply"])
def test_changes_are_not_written_over(repo: Sandbox, command: str):
    for seed in range(3):
        write(repo, weights(seed), f"version {seed}")
    save_file(weights(7), repo.work / NAME)
    before = (repo.work / NAME).read_bytes()
    done = repo.theta(command, "HEAD~2..HEAD", code=7)
    assert f"{NAME} has changes" in done.stderr
    assert (repo.work / NAME).read_bytes() == before


def test_ranges_that_hold_nothing(repo: Sandbox):
    write(repo, weights(0), "base")
    write(repo, weights(1), "one")
    (repo.work / "notes.txt").write_text("x")
    repo.commit("no model")
    assert "nothing to average" in repo.theta("average", "HEAD~2..HEAD", code=1).stderr
    assert "git theta ls-files" in repo.theta("average", "HEAD~1..HEAD", code=3).stderr
    assert "no commit" in repo.theta("average", "HEAD~1..HEAD", NAME, code=3).stderr
    assert "no range" in repo.theta("apply", "HEAD", code=2).stderr
    assert "there is no commit" in repo.theta("apply", "nowhere..HEAD", code=3).stderr
    other = Path("other.safetensors")
    assert "is not kept" in repo.theta("apply", "HEAD~2..HEAD", other, code=3).stderr
