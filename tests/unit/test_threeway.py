"""Every way in which versions of a thing can differ, and who wins."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.core.threeway import Fate, classify

UNCHANGED, ONE, ALIKE = Fate.UNCHANGED, Fate.ONE, Fate.AGREED
CHANGED, ADDED, DELETED = Fate.CHANGED, Fate.ADDED, Fate.DELETED

# base, ours, theirs -> what became of it, and whose version wins (None: nobody's).
TABLE = [
    (None, None, None, UNCHANGED, 0),
    (None, "a", None, ONE, 0),
    (None, None, "a", ONE, 1),
    (None, "a", "a", ALIKE, 0),
    (None, "a", "b", ADDED, None),
    ("o", "o", "o", UNCHANGED, 0),
    ("o", "a", "o", ONE, 0),
    ("o", "o", "a", ONE, 1),
    ("o", "a", "a", ALIKE, 0),
    ("o", "a", "b", CHANGED, None),
    ("o", None, "o", ONE, 0),
    ("o", "o", None, ONE, 1),
    ("o", None, None, ALIKE, 0),
    ("o", None, "a", DELETED, None),
    ("o", "a", None, DELETED, None),
]


@pytest.mark.parametrize(("base", "ours", "theirs", "fate", "winner"), TABLE)
def test_every_combination(
    base: str | None, ours: str | None, theirs: str | None, fate: Fate, winner: int | None
):
    verdict = classify(base, [ours, theirs])
    assert (verdict.fate, verdict.winner) == (fate, winner)
    assert verdict.is_conflict == (winner is None)


def test_the_table_is_complete():
    """Up to the names of contents, there is no other combination."""

    def pattern(row: tuple[str | None, ...]) -> tuple[int, ...]:
        seen: dict[str, int] = {}
        return tuple(0 if v is None else seen.setdefault(v, len(seen) + 1) for v in row)

    every = {pattern(row) for row in itertools.product((None, "x", "y", "z"), repeat=3)}
    assert {pattern(row[:3]) for row in TABLE} == every


VERSION = st.sampled_from([None, "a", "b", "c"])


@given(base=VERSION, models=st.lists(VERSION, min_size=1, max_size=5))
def test_laws(base: str | None, models: list[str | None]):
    verdict = classify(base, models)
    changed = {model for model in models if model != base}
    assert verdict.is_conflict == (len(changed) > 1)
    if verdict.winner is not None:
        won = models[verdict.winner]
        assert won == (changed.pop() if changed else base)
    # Models that changed nothing have no say.
    more = classify(base, [*models, base])
    assert more.is_conflict == verdict.is_conflict
    # Nor does the order.
    assert classify(base, models[::-1]).is_conflict == verdict.is_conflict
