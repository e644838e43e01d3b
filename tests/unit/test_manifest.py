"""Manifests: what is written reads the same, and nothing hostile does more than be refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from git_theta.core.compact import with_objects
from git_theta.core.dtypes import nbytes
from git_theta.core.limits import Limits
from git_theta.core.manifest import (
    MAX_CHUNK,
    MAX_RECIPE,
    PREFIX,
    Chunk,
    Manifest,
    Place,
    Segment,
    Tensor,
    dump,
    is_manifest,
    parse,
)
from git_theta.errors import ManifestError, NewerManifestError

LAW = settings(max_examples=200)


def digest(number: int) -> str:
    """A digest that differs from others in its first digits."""
    return f"{number * 0x9E3779B97F4A7C15 % (1 << 64):016x}" * 4


# --- manifests of every shape --------------------------------------------------------------------

NATURAL = st.integers(0, (1 << 60) - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
OBJECTS = {digest(1000 + number): size for number, size in enumerate((17, 5000, 1 << 26))}


@st.composite
def places(draw: st.DrawFn) -> Place:
    oid = draw(st.sampled_from(sorted(OBJECTS)))
    offset = draw(st.integers(0, OBJECTS[oid] - 1))
    return Place(oid, offset, draw(st.integers(1, OBJECTS[oid] - offset)))


@st.composite
def chunks(draw: st.DrawFn, number: int, size: int, bases: tuple[str, ...]) -> Chunk:
    base = draw(st.one_of(st.none(), st.sampled_from(bases))) if bases else None
    summary = draw(st.one_of(st.none(), places()))
    kind = draw(st.sampled_from(["dense", "delta", "a-1.b"]))
    return Chunk(digest(number), size, kind, draw(places()), base, summary)


@st.composite
def segments(draw: st.DrawFn, number: int, bases: tuple[str, ...], size: int | None) -> Segment:
    if size is None and draw(st.booleans()):
        sizes = draw(st.lists(st.integers(0, MAX_CHUNK), max_size=4).filter(lambda x: len(x) != 1))
        parts = [draw(chunks(number * 10 + i, part, bases)) for i, part in enumerate(sizes)]
        return Segment(digest(number * 10 + 9), sum(sizes), tuple(parts))
    length = draw(st.integers(0, MAX_CHUNK)) if size is None else size
    only = draw(chunks(number * 10, length, bases))
    return Segment(only.digest, length, (only,))


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    first = draw(chunks(1, 10, ()))
    found = {first.digest: first}
    second = draw(chunks(2, 20, (first.digest,)))
    found |= {second.digest: second} if draw(st.booleans()) else {}
    bases = tuple(sorted(found))
    shared = {
        segment.digest: segment
        for number in range(draw(st.integers(0, 3)))
        for segment in [draw(segments(10 + number, bases, None))]
    }
    tensors = {
        name: draw(_tensor(20 + number, bases, tuple(shared.values())))
        for number, name in enumerate(draw(st.lists(TEXT, unique=True, max_size=5)))
    }
    manifest = Manifest(
        format=draw(st.sampled_from(["opaque", "safetensors", "x" * 64])),
        size=draw(st.integers(0, Limits().size)),
        digest=digest(draw(st.integers(0, 9))),
        skeleton=draw(segments(30, bases, None)),
        tensors=tensors,
        segments=shared,
        bases=found,
        plugins=draw(st.dictionaries(TEXT, TEXT, max_size=2)),
        recipe=draw(st.one_of(st.none(), segments(31, bases, draw(st.integers(0, MAX_RECIPE))))),
    )
    return with_objects(manifest, OBJECTS)


@st.composite
def _tensor(
    draw: st.DrawFn, number: int, bases: tuple[str, ...], shared: tuple[Segment, ...]
) -> Tensor:
    dtype = draw(st.sampled_from(["F32", "BF16", "F4", "NEW"]))
    shape = tuple(draw(st.lists(st.integers(0, 9), max_size=3)))
    strides = draw(st.one_of(st.none(), st.just(tuple(NUMBERS[: len(shape)]))))
    offset = draw(st.sampled_from([0, 8]))
    if draw(st.booleans()) and shared:
        segment: Segment = draw(st.sampled_from(shared))
        return Tensor(dtype, shape, segment, True, offset, strides)
    size = draw(st.sampled_from([None, nbytes(dtype, shape)]))
    return Tensor(dtype, shape, draw(segments(number, bases, size)), False, offset, strides)


NUMBERS = [0, 1, 7]


@LAW
@given(manifest=manifests())
def test_what_is_written_reads_the_same(manifest: Manifest):
    text = dump(manifest)
    assert parse(text) == manifest
    assert dump(parse(text)) == text
    assert is_manifest(text)
    assert text.endswith(b"}}\n")
    for name, tensor in manifest.tensors.items():
        line = f"{json.dumps(name, ensure_ascii=False)}: {{".encode()
        assert sum(found.startswith(line) for found in text.split(b"\n")) >= 1
        assert manifest.tensors[name].same_as(tensor)


@LAW
@given(manifest=manifests(), name=TEXT)
def test_one_tensor_is_one_line(manifest: Manifest, name: str):
    assume(name not in manifest.tensors)
    chunk = Chunk(digest(7), 4, "dense", Place(sorted(OBJECTS)[0], 0, 1))
    tensor = Tensor("F32", (1,), Segment(chunk.digest, 4, (chunk,)))
    more = manifest._replace(tensors={**manifest.tensors, name: tensor})
    manifest, more = (with_objects(each, OBJECTS) for each in (manifest, more))
    assume(manifest.objects == more.objects)
    before, after = ([line.rstrip(b",") for line in dump(m).split(b"\n")] for m in (manifest, more))
    assert len(after) == len(before) + 1
    assert sorted(set(after) - set(before))[0].startswith(
        json.dumps(name, ensure_ascii=False).encode()
    )


# --- what is refused -----------------------------------------------------------------------------


def sample() -> Manifest:
    """A manifest with one of each: base, shared segment, many chunks, view, recipe."""
    big, small = sorted(OBJECTS, key=OBJECTS.__getitem__)[::-1][:2]
    base = Chunk(digest(1), 40, "dense", Place(big, 16, 30))
    delta = Chunk(digest(2), 40, "delta", Place(big, 46, 9), base.digest, Place(small, 20, 80))
    parts = (Chunk(digest(3), 64, "dense", Place(big, 60, 64)), delta)
    own = Segment(delta.digest, 40, (delta,))
    whole = Segment(digest(4), 104, parts)
    lone = Segment(digest(5), 8, (Chunk(digest(5), 8, "dense", Place(small, 100, 8)),))
    return with_objects(
        Manifest(
            format="safetensors",
            size=160,
            digest=digest(6),
            skeleton=lone,
            tensors={
                "a": Tensor("F32", (10,), own),
                "b": Tensor("F32", (5, 2), whole, True, 4, (1, 5)),
                "c": Tensor("F32", (26,), whole, True),
            },
            segments={whole.digest: whole},
            bases={base.digest: base},
            plugins={"git_theta.formats:x": "x 1"},
            recipe=lone,
        ),
        OBJECTS,
    )


TEXT_OF_SAMPLE = dump(sample())


def test_the_sample_is_sound():
    assert parse(TEXT_OF_SAMPLE) == sample()


def refuse(text: bytes) -> None:
    """Whatever `parse` takes, it must be able to write and read again; it raises one error."""
    try:
        manifest = parse(text)
    except ManifestError:
        return
    again = dump(manifest)
    assert parse(again) == manifest


@settings(max_examples=500)
@given(data=st.data())
def test_damaged_bytes_raise_nothing_else(data: st.DataObject):
    text = bytearray(TEXT_OF_SAMPLE)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text) - 1), "start")
        end = start + data.draw(st.integers(0, 20), "length")
        text[start:end] = data.draw(st.binary(max_size=6), "bytes")
    refuse(bytes(text))


WEIRD: list[Any] = [
    None, True, False, -1, 0, 1, 1.0, 1e300, float("nan"), 1 << 60, 1 << 200, "", "x", "\ud800",
    "0" * 64, digest(1), digest(1)[:PREFIX], "é" * 64, [], [[]], {}, {"a": 1}, [0] * 100,
    f"{sorted(OBJECTS)[0][:PREFIX]}:0+1", f"{sorted(OBJECTS)[0][:PREFIX]}:-1+1",
    f"{sorted(OBJECTS)[0][:PREFIX]}:99999999999+1", [1 << 59] * 9, "dense\n", "Dense",
]  # fmt: skip


def _leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from _leaves(value, (*path, key))


PATHS = list(_leaves(json.loads(TEXT_OF_SAMPLE)))


def laid_out(raw: dict[str, Any]) -> bytes:
    """Any JSON in the lines of a manifest."""
    lines = []
    for key, value in raw.items():
        if key in ("objects", "tensors", "segments", "bases") and isinstance(value, dict):
            body = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
            lines.append(f"{json.dumps(key)}: {{\n{body}" + ("\n" if body else "") + "}")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(value)}")
    return ("{" + ",\n".join(lines) + "}\n").encode()


def test_the_layout_of_the_tests_is_that_of_manifests():
    assert parse(laid_out(json.loads(TEXT_OF_SAMPLE))) == sample()


def mutations(path: tuple[Any, ...]) -> Iterator[bytes]:
    """The sample with another value, another key, or nothing in one place."""
    others = []
    for other in PATHS:
        found = json.loads(TEXT_OF_SAMPLE)
        for key in other:
            found = found[key]
        others.append(found)
    for how, values in (("set", [*WEIRD, *others]), ("rename", WEIRD), ("drop", [None])):
        for value in values:
            raw = json.loads(TEXT_OF_SAMPLE)
            node = raw
            for key in path[:-1]:
                node = node[key]
            if how == "set":
                node[path[-1]] = value
            elif how == "drop":
                del node[path[-1]]
            elif isinstance(node, dict):
                node[str(value)] = node.pop(path[-1])
            yield laid_out(raw)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ".".join(map(str, path))[:40])
def test_hostile_values_raise_nothing_else(path: tuple[Any, ...]):
    for text in mutations(path):
        refuse(text)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b'{"git-theta": 1,', b'{"git-theta": 1.0,', "first line"),
        (b'{"git-theta": 1,\n', b'{"git-theta": 1, ', "first line"),
        (b'"size": 160', b'"size": -160', "not a size"),
        (b'"size": 160', b'"size": true', "not a size"),
        (digest(6).encode(), b"A" * 64, "not a digest"),
        (b'"tensors": {\n', b'"tensors": {\n"a": {},\n', "do not match its entries"),
        (b'"size":104', b'"size":105', "do not add up"),
        (b'"kind":"delta"', b'"kind":"../x"', "no kind of update"),
        (b'"base":"' + digest(1)[:4].encode(), b'"base":"0000', "not in the manifest"),
        (b":16+30", b":16+99999999", "lies outside its object"),
        (b":16+30", b":016+30", "no such object"),
        (b"\n}}\n", b"\n}}\n<<<<<<< ours\n", "conflict markers"),
    ],
)
def test_what_is_refused_and_why(old: bytes, new: bytes, said: str):
    assert old in TEXT_OF_SAMPLE
    with pytest.raises(ManifestError, match=said):
        parse(TEXT_OF_SAMPLE.replace(old, new))


@pytest.mark.parametrize("old", [b'"a"', b'"safetensors"', b'"x 1"'])
def test_half_a_character_is_refused_and_a_whole_one_is_not(old: bytes):
    with pytest.raises(ManifestError, match="surrogates"):
        parse(TEXT_OF_SAMPLE.replace(old, b'"\\uD800"', 1))
    for whole in (b'"\\ud83d\\ude00"', b'"\\\\ud800"'):
        parse(TEXT_OF_SAMPLE.replace(old, whole, 1))


def test_a_chain_that_bites_its_tail_is_refused():
    first = Chunk(digest(1), 4, "delta", Place(digest(1000), 0, 1), digest(2))
    second = Chunk(digest(2), 4, "delta", Place(digest(1000), 1, 1), digest(1))
    manifest = sample()._replace(bases={c.digest: c for c in (first, second)})
    with pytest.raises(ManifestError):
        parse(dump(with_objects(manifest, OBJECTS)))


def test_a_newer_version_is_told_from_damage():
    with pytest.raises(NewerManifestError, match="version 2, this git-theta reads 1"):
        parse(TEXT_OF_SAMPLE.replace(b'{"git-theta": 1,', b'{"git-theta": 2,'))


def test_deep_nesting_is_refused():
    deep = b"[" * 100_000 + b"]" * 100_000
    with pytest.raises(ManifestError):
        parse(TEXT_OF_SAMPLE.replace(b'"size": 160', b'"size": ' + deep))
