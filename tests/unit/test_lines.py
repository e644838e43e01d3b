"""Manifests compared line by line tell what parsed ones tell."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from git_theta.core.changes import compare
from git_theta.core.lines import origins, read_lines, step, tensors_of
from git_theta.core.manifest import Chunk, Manifest, Place, Segment, Tensor, dump
from git_theta.errors import ManifestError

DIGITS = "0123456789abcdef"


def tensor(kind: int, where: int = 0) -> Tensor:
    digest = DIGITS[kind] * 64
    place = Place(DIGITS[where] * 64, 16, 100)
    chunk = Chunk(digest, 24, "dense", place, None, place)
    shape = (2, 3) if kind % 2 else (6,)
    return Tensor("F32" if kind < 8 else "I32", shape, Segment(digest, 24, (chunk,)))


def manifest(tensors: dict[str, Tensor]) -> Manifest:
    skeleton = Chunk("f" * 64, 5, "dense", Place("0" * 64, 200, 10))
    places = {c.at.oid for t in tensors.values() for c in t.segment.chunks} | {"0" * 64}
    return Manifest(
        format="safetensors",
        size=100,
        digest="e" * 64,
        skeleton=Segment("f" * 64, 5, (skeleton,)),
        tensors=tensors,
        objects=dict.fromkeys(places, 1000),
    )


models = st.dictionaries(
    st.text(min_size=1, max_size=6).filter(lambda name: name.isprintable()),
    st.builds(tensor, st.integers(0, 15), st.integers(0, 3)),
    max_size=8,
)


@given(models, models)
def test_a_step_is_what_the_parsed_manifests_say(old: dict[str, Tensor], new: dict[str, Tensor]):
    lines = [read_lines(dump(manifest(tensors))) for tensors in (old, new)]
    wanted = {c.name: c.what for c in compare(old, new).changes}
    found = step(*lines, summaries=True)
    assert found.changes == wanted
    assert origins(*lines).keys() == {name for name in wanted if name in new}
    assert set(tensors_of(lines[1].tensors)) == set(new)
    assert found.stored == 1000 * len(manifest(new).objects.keys() - manifest(old).objects.keys())
    assert step(None, lines[1]).changes == dict.fromkeys(sorted(new), "added")
    assert step(lines[0], None).changes == dict.fromkeys(sorted(old), "removed")


def test_renames_are_told_and_traced():
    old = {"a.0.w": tensor(1), "a.1.w": tensor(1), "b": tensor(2), "c": tensor(3)}
    new = {"z.0.w": tensor(1), "z.1.w": tensor(1), "d": tensor(2), "c": tensor(5)}
    lines = [read_lines(dump(manifest(tensors))) for tensors in (old, new)]
    former = {"z.0.w": "a.0.w", "z.1.w": "a.1.w", "d": "b"}
    assert step(*lines).renamed == former
    assert step(*lines).changes == {**dict.fromkeys(former, "renamed"), "c": "changed"}
    assert origins(*lines) == {**former, "c": None}
    assert {c.name: c.old_name for c in compare(old, new).changes} == {**former, "c": None}


@given(models, models)
@example({"0": tensor(0), "00": tensor(0)}, {"1": tensor(0), "\u00b9": tensor(0)})
def test_each_renamed_tensor_has_one_origin(old: dict[str, Tensor], new: dict[str, Tensor]):
    changes = [c for c in compare(old, new).changes if c.what == "renamed"]
    former = [c.old_name for c in changes]
    assert len(set(former)) == len(former)
    for change in changes:
        assert change.old_name not in new
        assert change.name not in old
        assert old[change.old_name or ""].same_as(new[change.name])
    names = {c.name for c in compare(old, new).changes if c.what == "removed"}
    kept = {new[c.name].segment.digest for c in compare(old, new).changes if c.what == "added"}
    assert not any(old[name].segment.digest in kept for name in names)


def test_where_a_tensor_lies_is_no_change():
    lines = [read_lines(dump(manifest({"w": tensor(1, where)}))) for where in (0, 1)]
    assert step(*lines).changes == {}
    assert step(*lines).stored == 1000


def test_a_recipe_is_seen():
    plain = manifest({"w": tensor(1)})
    assert not read_lines(dump(plain)).merged
    assert read_lines(dump(plain._replace(recipe=plain.skeleton))).merged


@pytest.mark.parametrize("text", [b"", b"raw bytes", b'{"git-theta": 1,\n"objects": {\n}\n'])
def test_what_is_no_manifest_is_said(text: bytes):
    with pytest.raises(ManifestError):
        read_lines(text)


def test_a_damaged_line_is_said():
    with pytest.raises(ManifestError):
        tensors_of([b'"w": {"dtype":"F32"'])
