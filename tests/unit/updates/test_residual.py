"""Differences of raw words: folded, in planes, by gaps, by a bitmap."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from git_theta.core.chain import Bytes
from git_theta.core.planes import BLOCK, WORDS
from git_theta.errors import CorruptError
from git_theta.updates import residual
from git_theta.updates.residual import Sample


def views(frames: list[bytes]) -> Iterator[memoryview]:
    return iter([memoryview(frame) for frame in frames])


def changed(share: float, words: int, word: int) -> tuple[Bytes, Bytes]:
    rng = np.random.default_rng(words)
    base = rng.integers(0, 256, words * word + word - 1, np.uint8)
    new = base.copy()
    view = new[: words * word].view(WORDS[word])
    at = rng.random(words) < share
    view[at] += rng.integers(1, 50, int(at.sum())).astype(view.dtype)
    new[words * word :] ^= 1
    return new, base


@pytest.mark.parametrize("share", [0, 0.001, 0.2, 1])
@pytest.mark.parametrize("words", [1, 100, BLOCK - 1, BLOCK, BLOCK + 1])
@pytest.mark.parametrize("word", [1, 2, 4])
def test_every_way_comes_back_at_the_edges_of_blocks(share: float, words: int, word: int):
    new, base = changed(share, words, word)
    sample = Sample(new, base, word)
    ways: list[tuple[residual.Extra, list[bytes]]] = []
    ways.append(({}, residual.encode_planes(new, base, word, sample)))
    ways.append(residual.encode_sparse(new, base, word, sample))
    for extra, frames in ways:
        out = np.empty_like(new)
        residual.decode(extra, views(frames), base, out, word)
        assert np.array_equal(out, new)
        near = base.copy()
        residual.decode(extra, views(frames), near, near, word)
        assert np.array_equal(near, new)


def test_gaps_where_few_changed_and_a_bitmap_where_many_did():
    for share, mode in ((0.01, residual.GAPS), (0.3, residual.BITMAP)):
        new, base = changed(share, 100_000, 4)
        assert residual.encode(new, base, 4)[0]["m"] == mode
    new, base = changed(1, 100_000, 4)
    assert residual.encode(new, base, 4)[0] == {}


def test_a_sample_that_misleads_costs_no_exactness():
    new = np.zeros(BLOCK * 4, np.uint8)
    base = new.copy()
    new[4096 * 4 : 32768 * 4] = 1  # between two runs of the sample
    sample = Sample(new, base, 4)
    assert sample.density == 0
    extra, frames = residual.encode_sparse(new, base, 4, sample)
    out = np.empty_like(new)
    residual.decode(extra, views(frames), base, out, 4)
    assert np.array_equal(out, new)


def test_a_change_beyond_the_end_is_refused():
    new, base = changed(0.01, 10_000, 4)
    extra, frames = residual.encode(new[:40_000], base[:40_000], 4)
    short = base[: 4 * 5000].copy()
    with pytest.raises(CorruptError, match="beyond its end"):
        residual.decode(extra, views(frames), short, short, 4)


@pytest.mark.parametrize("share", [0, 0.004, 0.05, 0.3, 0.7])
def test_estimates_are_near(share: float):
    new, base = changed(share, 2 * BLOCK, 4)
    sample = Sample(new, base, 4)
    estimate = sample.sparse
    assert estimate is not None
    found = sum(map(len, residual.encode_sparse(new, base, 4, sample)[1]))
    assert 0.75 * found - 50 <= estimate <= 1.25 * found + 100
    found = sum(map(len, residual.encode_planes(new, base, 4, sample)))
    assert 0.85 * found <= sample.planes() <= 1.15 * found + 1000
