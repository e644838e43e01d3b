"""Names of numbered blocks: what is joined stands for exactly what was given."""

from __future__ import annotations

import itertools
import re

from hypothesis import given
from hypothesis import strategies as st

from git_theta.core.folding import block_of, fold, joined_old_name, module_of, renamed_like

words = st.sampled_from(["layers", "attn", "q", "0", "1", "2", "3", "7", "10", "01", "w.b", "x/y"])
names = st.sets(st.lists(words, min_size=1, max_size=5).map(".".join), max_size=40)


def expanded(name: str) -> set[str]:
    """Every name that a joined one stands for."""
    parts = []
    for part in re.split(r"([./])", name):
        if re.fullmatch(r"\d+([-,]\d+)+", part):
            numbers: list[str] = []
            for run in part.split(","):
                first, _, last = run.partition("-")
                numbers += map(str, range(int(first), int(last or first) + 1))
            parts.append(numbers)
        else:
            parts.append([part])
    return {"".join(chosen) for chosen in itertools.product(*parts)}


@given(names)
def test_a_joined_name_covers_exactly_its_items(found: set[str]):
    folded = fold(sorted(found), str, lambda _: 0)
    assert sorted(name for one in folded for name in one.items) == sorted(found)
    for one in folded:
        if len(one.items) > 1:
            assert expanded(one.name) == set(one.items)
        else:
            assert one.name == one.items[0]


def test_only_numbers_are_joined_and_never_siblings():
    found = ["a.0.q", "a.1.q", "a.2.q", "a.4.q", "a.0.k", "b.0.q", "a.01.q"]
    folded = fold(found, str, lambda _: 0)
    assert {one.name for one in folded} == {"a.0-2,4.q", "a.0.k", "b.0.q", "a.01.q"}


def test_blocks_within_blocks():
    found = [f"layers.{i}.experts.{j}.w" for i in range(3) for j in range(4)]
    (one,) = fold(found, str, lambda _: 0)
    assert one.name == "layers.0-2.experts.0-3.w"
    less = fold(found[:-1], str, lambda _: 0)
    assert {folded.name for folded in less} == {
        "layers.0-1.experts.0-3.w",
        "layers.2.experts.0-2.w",
    }


def test_what_is_not_alike_or_not_near_is_not_joined():
    found = [f"a.{i}.w" for i in range(6)]
    assert len(fold(found, str, lambda name: name > "a.2")) == 2
    sizes = dict(zip(found, [1.0, 1.5, 1.9, 5.0, 6.0, 1.0], strict=True))
    folded = fold(found, str, lambda _: 0, sizes.get)
    assert [one.name for one in folded] == ["a.0-2.w", "a.3-4.w", "a.5.w"]


def test_old_names_are_joined_as_new_ones():
    old = [f"h.{i}.mlp.{j}.w" for i in range(3) for j in range(2)]
    new = [f"layers.{i}.experts.{j}.weight" for i in range(3) for j in range(2)]
    was = dict(zip(new, old, strict=True)) | {"layers.3.experts.0.weight": "h.4.mlp.0.w"}
    folded = fold(was, str, lambda name: renamed_like(was[name], name))
    told = {joined_old_name(f.name, was[f.items[0]], f.items[0]): f.name for f in folded}
    assert told == {
        "h.0-2.mlp.0-1.w": "layers.0-2.experts.0-1.weight",
        "h.4.mlp.0.w": "layers.3.experts.0.weight",
    }


def test_many_blocks_take_no_time():
    (one,) = fold([f"slot.{i}.w" for i in range(60_000)], str, lambda _: 0)
    assert one.name == "slot.0-59999.w"


def test_modules_and_blocks():
    assert module_of("model.layers.3.attn.q.weight") == "model.layers"
    assert module_of("lm_head.weight") == "lm_head"
    assert module_of("model.embed.word.weight") == "model.embed"
    assert module_of("w") == "w"
    assert module_of("0.weight") == "0"
    assert block_of("model.layers.3.attn.q.weight") == (3, "attn.q.weight")
    assert block_of("lm_head.weight") == (None, "lm_head.weight")
