"""What version 1 wrote must be readable forever."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from git_theta import registry
from git_theta.core import payload, sketch
from git_theta.core.checkpoint import Plugins, rebuild
from git_theta.core.manifest import Place, dump, parse

DATA = Path(__file__).parents[1] / "data" / "v1"
NAMES = ("model.safetensors", "opaque.bin", "updates.safetensors")
PLUGINS = Plugins(
    updates=lambda name: registry.load("updates", name),
    formats=lambda name: registry.load("formats", name),
)


def read(place: Place) -> bytes:
    return (DATA / "objects" / place.oid).read_bytes()[place.offset :][: place.size]


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_restored(name: str):
    manifest = parse((DATA / f"{name}.manifest").read_bytes())
    restored = b"".join(bytes(piece) for piece in rebuild(manifest, read, PLUGINS))
    assert restored == (DATA / name).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_the_manifest_has_one_spelling(name: str):
    text = (DATA / f"{name}.manifest").read_bytes()
    assert dump(parse(text)) == text


def test_objects_are_what_their_names_say():
    named = {
        oid: size
        for path in DATA.glob("*.manifest")
        for oid, size in parse(path.read_bytes()).objects.items()
    }
    files = {path.name: path.read_bytes() for path in (DATA / "objects").iterdir()}
    assert {oid: len(data) for oid, data in files.items()} == named
    for oid, data in files.items():
        assert hashlib.sha256(data).hexdigest() == oid
        assert list(payload.records(data))


def test_summaries_are_readable():
    manifest = parse((DATA / "model.safetensors.manifest").read_bytes())
    (chunk,) = manifest.tensors["f32.special"].segment.chunks
    assert chunk.summary is not None
    _, frames = payload.unpack(read(chunk.summary))
    summary = sketch.unpack(bytes(next(frames)))
    assert (summary.nans, summary.infinities, summary.count) == (1, 2, 6)
