"""Moments over versions, and the file that statistics are kept in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from git_theta import stats
from git_theta.core.sidecar import Facts, is_sidecar, sidecar_path
from git_theta.errors import CorruptError


def test_mean_square_and_deviations_from_the_running_mean():
    versions = list(torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(1)))
    found = dict(stats.Moments(rank=4).of("w", iter(versions)))
    stack = torch.stack(versions)
    torch.testing.assert_close(found["w#mean"], stack.mean(0))
    torch.testing.assert_close(found["w#sqmean"], (stack**2).mean(0))
    running = torch.stack([v - stack[: i + 1].mean(0) for i, v in enumerate(versions)])
    torch.testing.assert_close(found["w#dev"], running[-4:].reshape(4, 6))
    assert "w#dev" not in dict(stats.Moments(rank=0).of("w", iter(versions)))


def test_a_side_car_reads_as_safetensors_and_says_what_it_is(tmp_path: Path):
    target = tmp_path / "model.fisher.safetensors"
    facts = Facts(kind="fisher", model_digest="ab" * 32, n_samples=7, estimator="true", seed=3)
    tensors = {"b": torch.rand(3, 4), "a": torch.rand(()), "none": torch.zeros(0, 3)}
    writer = stats.SidecarWriter(target)
    for name, values in tensors.items():
        writer.add(name, values)
    assert not target.exists()
    assert writer.finish(facts) == target.stat().st_size
    writer.close()
    assert Facts.read(target.read_bytes()) == facts
    with safe_open(target, "pt") as file:
        assert file.metadata()["n_samples"] == "7"
        assert all(torch.equal(file.get_tensor(name), v) for name, v in tensors.items())
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    "header",
    [b"", b"\x02\0\0\0\0\0\0\0{}", b"\x15\0\0\0\0\0\0\0" + b'{"__metadata__":"no"}'],
)
def test_other_files_are_no_side_cars(header: bytes):
    with pytest.raises(CorruptError):
        Facts.read(header)


def test_a_newer_side_car_is_refused():
    text = b'{"__metadata__":{"format":"2"}}'
    with pytest.raises(CorruptError, match="format '2'"):
        Facts.read(len(text).to_bytes(8, "little") + text)


def test_where_statistics_lie():
    assert sidecar_path("a.b/model.v2.pt", "gram") == "a.b/model.v2.gram.safetensors"
    assert is_sidecar("a/model.gram.safetensors")
    assert not is_sidecar("model.safetensors")
