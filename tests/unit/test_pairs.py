"""Two manifests read together tell what each read alone tells."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given

from git_theta.core import pairs
from git_theta.core.manifest import Chunk, Manifest, Segment, Tensor, dump, parse
from git_theta.core.pairs import parse_pair
from git_theta.errors import ManifestError
from tests.unit.test_lines import manifest, models, tensor


@pytest.fixture(autouse=True)
def _one_line_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "FEW", 1)


@given(models, models)
def test_nothing_but_the_same_is_set_aside(old: dict[str, Tensor], new: dict[str, Tensor]):
    wholes = manifest(old), manifest(new)
    found = parse_pair(*map(dump, wholes))
    for whole, side in zip(wholes, found[:2], strict=True):
        back = {name: tensor for name, tensor in whole.tensors.items() if name in found.same}
        assert side._replace(tensors=dict(sorted({**side.tensors, **back}.items()))) == parse(
            dump(whole)
        )
    kept = {name for name in old if name in new and old[name] == new[name]}
    assert set(found.same) == {name for name in kept if "{" not in name}


@given(models)
def test_a_text_and_itself(tensors: dict[str, Tensor]):
    text = dump(manifest(tensors))
    found = parse_pair(text, text)
    assert set(found.same) | set(found.old.tensors) == set(tensors)
    assert all("{" in name for name in found.old.tensors)


def _based(on: str) -> Manifest:
    """A manifest in which the update of one tensor builds on another tensor."""
    one, other = tensor(1), tensor(2)
    (chunk,) = one.segment.chunks
    update = chunk._replace(kind="delta", base=other.segment.digest)
    segment = one.segment._replace(chunks=(update,))
    return manifest({"w": one._replace(segment=segment), on: other})


def test_a_line_that_an_update_builds_on_is_read():
    plain = manifest({"w": tensor(3), "b": tensor(2)})
    found = parse_pair(dump(plain), dump(_based("b")))
    assert found.same == ()
    assert found.new == _based("b")
    assert found.old == plain


@pytest.mark.parametrize("change", ["skeleton", "digest"])
def test_what_takes_all_tensors_gets_them(change: str):
    old = manifest({"w": tensor(1), "b": tensor(2)})
    if change == "digest":
        new = old._replace(digest="")
    else:
        chunk = Chunk("9" * 64, 5, "dense", old.skeleton.chunks[0].at)
        new = old._replace(skeleton=Segment("9" * 64, 5, (chunk,)))
    assert parse_pair(dump(old), dump(new)) == (old, new, ())


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace(b'"b": {', b'"a": {"dtype":"F32"},"b": {'),
        lambda text: text.replace(b'"a": {', b'"b": {'),
        lambda text: text.replace(b'"kind":"dense"', b'"kind":"De nse"', 2),
        lambda text: text[:-40],
    ],
)
def test_hostile_texts_are_refused_as_ever(damage: Callable[[bytes], bytes]):
    good = dump(manifest({"a": tensor(1), "b": tensor(2), "w": tensor(3)}))
    bad = damage(good)
    assert bad != good
    with pytest.raises(ManifestError):
        parse(bad)
    for sides in ((good, bad), (bad, good)):
        with pytest.raises(ManifestError):
            parse_pair(*sides)
