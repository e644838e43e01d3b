"""Chunks stored as updates of others: whatever the base, what comes back is what went in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from git_theta.core import planes
from git_theta.core.chain import (
    Base,
    Bytes,
    Encoded,
    Slice,
    decode_chunk,
    digest_of,
    links_of,
    sealed,
    write_record,
)
from git_theta.core.choice import LINKS, Choice, Chooser, Outcome, kinds_from
from git_theta.core.dtypes import DTYPES, nbytes
from git_theta.core.layout import Layout, Segment, TensorView
from git_theta.core.manifest import CHUNK, Chunk, Manifest, Place, dump, parse
from git_theta.core.payload import Header, header_of
from git_theta.errors import CorruptError, ManifestError, UsageError
from tests.keeper import ALL, PLUGINS, Keeper

LAW = settings(max_examples=150)
Tensors = Mapping[str, tuple[str, npt.NDArray[Any]]]


def file_of(tensors: Tensors) -> tuple[bytes, Layout]:
    """A file of tensors side by side, behind four bytes."""
    segments, views, data = [], [], b"head"
    for index, (name, (dtype, values)) in enumerate(tensors.items()):
        plain = values.tobytes()
        segments.append(Segment(offset=len(data), size=len(plain)))
        views.append(TensorView(name=name, dtype=dtype, shape=values.shape, segment=index))
        data += plain
    return data, Layout(segments=tuple(segments), tensors=tuple(views))


def kept(keeper: Keeper, tensors: Tensors) -> Manifest:
    """Keep a file with the bases that there are, prove that it comes back; it is the next base."""
    data, layout = file_of(tensors)
    keeper.choice = Choice()
    manifest = keeper.keep(data, layout)
    assert keeper.give(manifest) == data
    assert not keeper.told
    keeper.parents = [manifest]
    return manifest


def weights(*shape: int, seed: int = 1, dtype: str = "<f4") -> npt.NDArray[Any]:
    return np.random.default_rng(seed).normal(size=shape, scale=0.02).astype(dtype)


def tuned(values: npt.NDArray[Any], *, seed: int = 9, by: float = 1e-5) -> npt.NDArray[Any]:
    noise = np.random.default_rng(seed).normal(size=values.shape, scale=by)
    return (values + noise).astype(values.dtype)


def narrow(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """float32 as bf16, rounded to nearest even, in 16-bit words."""
    words = values.view("<u4").astype(np.uint64)
    return ((words + 0x7FFF + ((words >> 16) & 1)) >> 16).astype("<u2")


def parts(manifest: Manifest, name: str) -> tuple[Chunk, ...]:
    return manifest.tensors[name].segment.chunks


def share(manifest: Manifest, name: str) -> float:
    """Stored bytes of a tensor's own records for each of its bytes."""
    segment = manifest.tensors[name].segment
    return sum(chunk.at.size for chunk in segment.chunks) / segment.size


# --- any base, any tensor ------------------------------------------------------------------------

DTYPE = st.sampled_from([name for name, known in DTYPES.items() if known.bits % 8 == 0])
SHAPE = st.one_of(
    st.just(()), st.tuples(st.integers(0, 300)), st.tuples(st.integers(0, 40), st.integers(0, 40))
)


@st.composite
def tensor(draw: st.DrawFn, like: tuple[str, tuple[int, ...], bytes] | None = None) -> Any:
    dtype = draw(DTYPE)
    shape: tuple[int, ...] = draw(SHAPE)
    if like is not None and draw(st.booleans()):
        dtype = like[0]
    if like is not None and draw(st.booleans()):
        shape = like[1]
    size = nbytes(dtype, shape) or 0
    plain = np.random.default_rng(draw(st.integers(0, 3))).bytes(size)
    if draw(st.booleans()):
        plain = np.zeros(size, np.uint8).tobytes()
    if like is not None and draw(st.booleans()):
        plain = (like[2] + plain)[:size] if len(like[2]) < size else like[2][:size]
        spots = draw(st.lists(st.tuples(st.integers(0, max(0, size - 1)), st.integers(0, 255))))
        changed = bytearray(plain)
        for at, value in spots if size else ():
            changed[at] = value
        plain = bytes(changed)
    return dtype, shape, plain


@LAW
@given(data=st.data())
def test_any_tensor_over_any_base(shared: Keeper, data: st.DataObject):
    shared.choice, shared.parents, shared.others = Choice(), [], []
    old = data.draw(tensor(), "before")
    new = data.draw(tensor(old), "after")
    for dtype, shape, plain in (old, new):
        segment = Segment(offset=0, size=len(plain))
        view = TensorView(name="t", dtype=dtype, shape=shape, segment=0)
        manifest = shared.keep(plain, Layout(segments=(segment,), tensors=(view,)))
        assert shared.give(manifest) == plain
        shared.parents = [manifest]
    assert not shared.told


@LAW
@given(data=st.data())
def test_any_update_over_any_base_of_its_length(data: st.DataObject):
    """Every update either declines or comes back; large enough for each to be tried in earnest."""
    dtype = data.draw(DTYPE)
    word = DTYPES[dtype].word
    rows, columns = data.draw(st.sampled_from([(64, 64), (1, 999), (130, 31), (7, 5)]))
    rng = np.random.default_rng(data.draw(st.integers(0, 5)))
    base = rng.integers(0, 256, rows * columns * DTYPES[dtype].bits // 8, np.uint8)
    new = base.copy()
    places = rng.random(len(new)) < data.draw(st.sampled_from([0, 0.001, 0.1, 0.6, 1]))
    new[places] = rng.integers(0, 256, int(places.sum()), np.uint8)
    cut = planes.grain(dtype)
    start = data.draw(st.integers(0, 2 * columns))
    asked = Slice(data=new, cut=cut, dtype=dtype, columns=columns, start=start)
    assert word
    for update in ALL.values():
        with np.errstate(all="ignore"):
            update.estimate(asked, base)
            encoded = update.encode(asked, base if update.needs_base else None)
        if encoded is not None:
            record = write_record(asked, digest_of(new), update.name, encoded)
            out = np.full(len(new), 3, np.uint8)
            frames = (memoryview(frame) for frame in record[1:])
            update.decode(header_of(record[0]), frames, base, out)
            assert out.tobytes() == new.tobytes(), update.name


# --- what is recognised --------------------------------------------------------------------------


def test_a_fine_tune_costs_its_change(keeper: Keeper):
    first = {"a": ("F32", weights(200, 300)), "b": ("F32", weights(300, seed=2))}
    kept(keeper, first)
    after = kept(keeper, {"a": ("F32", tuned(first["a"][1])), "b": first["b"]})
    assert parts(after, "a")[0].kind == "delta"
    assert share(after, "a") < 0.6
    assert parts(after, "b")[0].kind == "dense"
    assert parts(after, "b")[0].base is None
    assert len(after.bases) == 1


def test_a_sparse_change_costs_its_entries(keeper: Keeper):
    values = weights(400, 500)
    kept(keeper, {"a": ("F32", values)})
    changed = values.copy()
    changed.ravel()[::300] *= 1.1
    after = kept(keeper, {"a": ("F32", changed)})
    assert parts(after, "a")[0].kind == "sparse"
    assert share(after, "a") < 0.02


def test_more_rows_at_the_end(keeper: Keeper):
    old = weights(500, 64)
    kept(keeper, {"e": ("F32", old)})
    after = kept(keeper, {"e": ("F32", np.concatenate([old, weights(10, 64, seed=3)]))})
    assert share(after, "e") < 0.03
    after = kept(keeper, {"e": ("F32", old[:400])})
    assert share(after, "e") < 0.01


def test_rows_put_in_front_removed_and_shuffled(keeper: Keeper):
    old = weights(500, 64)
    for rows in (
        np.concatenate([weights(10, 64, seed=3), old]),
        np.delete(old, [3, 77, 400], axis=0),
        old[np.random.default_rng(1).permutation(500)],
    ):
        keeper.parents = []
        kept(keeper, {"e": ("F32", old)})
        assert share(kept(keeper, {"e": ("F32", rows)}), "e") < 0.04


def test_an_exact_cast_costs_nothing(keeper: Keeper):
    full = weights(300, 400)
    kept(keeper, {"a": ("F32", full)})
    half = kept(keeper, {"a": ("BF16", narrow(full))})
    assert share(half, "a") < 0.002
    keeper.parents = []
    kept(keeper, {"c": ("BF16", narrow(weights(300, 400, seed=2)))})
    wide = (narrow(weights(300, 400, seed=2)).astype("<u4") << 16).view("<f4")
    assert share(kept(keeper, {"c": ("F32", wide)}), "c") < 0.002


def test_a_cast_and_more_rows(keeper: Keeper):
    full = weights(300, 100)
    kept(keeper, {"a": ("F32", full)})
    rows = np.concatenate([narrow(weights(7, 100, seed=4)), narrow(full)])
    assert share(kept(keeper, {"a": ("BF16", rows)}), "a") < 0.05


@pytest.mark.parametrize("how", ["cast", "wider", "longer", "shorter"])
def test_tensors_of_several_chunks(keeper: Keeper, how: str):
    count = CHUNK // 4 + 300_000
    full = weights(count // 1000, 1000)
    assert full.nbytes > CHUNK
    if how == "wider":
        start: tuple[str, npt.NDArray[Any]] = ("BF16", np.tile(narrow(full), (2, 1)))
        new: tuple[str, npt.NDArray[Any]] = (
            "F32", (np.tile(narrow(full), (2, 1)).astype("<u4") << 16).view("<f4")
        )  # fmt: skip
    else:
        start = ("F32", full)
        new = {
            "cast": ("BF16", narrow(full)),
            "longer": ("F32", np.concatenate([full, weights(20, 1000, seed=2)])),
            "shorter": ("F32", full[:-20]),
        }[how]
    kept(keeper, {"a": start})
    after = kept(keeper, {"a": new})
    assert keeper.written < 0.01 * new[1].nbytes
    assert all(chunk.size <= CHUNK for chunk in parts(after, "a"))
    # What follows is cut the same way, and every chunk finds its base.
    again = kept(
        keeper, {"a": (new[0], np.where(np.arange(1000) == 5, 0, new[1]).astype(new[1].dtype))}
    )
    assert [c.size for c in parts(again, "a")] == [c.size for c in parts(after, "a")]
    assert keeper.written < 0.02 * new[1].nbytes


def test_renamed_layers_are_found_by_their_sketches(keeper: Keeper):
    before = {f"layer.{n}": ("F32", weights(64, 64, seed=n)) for n in range(5)}
    kept(keeper, before)
    moved = {f"model.{n}": ("F32", tuned(before[f"layer.{n}"][1])) for n in range(5)}
    after = kept(keeper, moved)
    for n in range(5):
        (chunk,) = parts(after, f"model.{n}")
        assert chunk.base == digest_of(before[f"layer.{n}"][1].tobytes())


def test_names_that_moved_by_one_are_found_by_their_sketches(keeper: Keeper):
    before = {f"layer.{n}": ("F32", weights(64, 64, seed=n)) for n in range(5)}
    kept(keeper, before)
    after = kept(
        keeper, {f"layer.{n}": ("F32", tuned(before[f"layer.{n + 1}"][1])) for n in range(4)}
    )
    for n in range(4):
        assert parts(after, f"layer.{n}")[0].base == digest_of(
            before[f"layer.{n + 1}"][1].tobytes()
        )


def test_the_nearer_of_two_parents_is_the_base(keeper: Keeper):
    ours, theirs = weights(64, 64, seed=1), weights(64, 64, seed=2)
    one = kept(keeper, {"a": ("F32", ours)})
    keeper.parents = []
    two = kept(keeper, {"a": ("F32", theirs)})
    keeper.parents = [one, two]
    assert (
        parts(kept(keeper, {"a": ("F32", tuned(theirs))}), "a")[0].base == parts(two, "a")[0].digest
    )
    keeper.parents = [one, two]
    assert (
        parts(kept(keeper, {"a": ("F32", tuned(ours))}), "a")[0].base == parts(one, "a")[0].digest
    )


def test_the_same_name_in_another_file(keeper: Keeper):
    values = weights(64, 64)
    keeper.others = [kept(keeper, {"a": ("F32", values)})]
    keeper.parents = []
    after = kept(keeper, {"a": ("F32", tuned(values, by=1e-6))})
    assert parts(after, "a")[0].base == digest_of(values.tobytes())


def test_what_is_unlike_everything_is_dense(keeper: Keeper):
    kept(keeper, {"a": ("F32", weights(64, 64, seed=1))})
    after = kept(keeper, {"a": ("F32", weights(64, 64, seed=2))})
    assert parts(after, "a")[0].kind == "dense"
    assert not after.bases


# --- bounds --------------------------------------------------------------------------------------


def test_chains_have_at_most_eight_links_and_twice_the_bytes(keeper: Keeper):
    values = weights(100, 100)
    small = {"a": ("F32", values)}
    kinds = []
    for step in range(12):
        manifest = kept(keeper, small)
        chain = links_of(parts(manifest, "a")[0], {c.digest: c for c in manifest.all_chunks()})
        kinds.append(len(chain) - 1)
        values = values.copy()
        values[step, step] += 1
        small = {"a": ("F32", values)}
    assert kinds == [*range(LINKS + 1), 0, 1, 2]
    keeper.parents = []
    values = weights(100, 100)
    lengths = []
    for step in range(6):
        manifest = kept(keeper, {"a": ("F32", values)})
        chain = links_of(parts(manifest, "a")[0], {c.digest: c for c in manifest.all_chunks()})
        assert sum(link.at.size for link in chain) <= 2 * chain[-1].at.size
        lengths.append(len(chain))
        values = tuned(values, seed=step)
    assert max(lengths) <= 3
    assert 1 in lengths[1:], "it was stored whole again"


def test_a_longer_chain_is_refused(keeper: Keeper):
    chunks = {
        f"{n:064x}": Chunk(f"{n:064x}", 4, "delta", Place("0" * 64, 16, 9), f"{n + 1:064x}")
        for n in range(99)
    }
    with pytest.raises(CorruptError, match="too long"):
        decode_chunk(chunks[f"{0:064x}"], keeper.store.read, PLUGINS.updates, chunks)
    chunks[f"{98:064x}"] = chunks[f"{98:064x}"]._replace(base=f"{90:064x}")
    with pytest.raises(CorruptError, match="too long"):
        links_of(chunks[f"{90:064x}"], chunks)


# --- what a plug-in may do -----------------------------------------------------------------------


class Faulty:
    """An update that promises the world."""

    name: ClassVar[str] = "faulty"
    needs_base: ClassVar[bool] = True

    def __init__(self, how: str) -> None:
        self.how = how

    def estimate(self, new: Slice, base: Bytes | None) -> Any:
        if self.how == "estimate":
            raise ZeroDivisionError
        return {"text": "few", "nan": float("nan")}.get(self.how, 1.0)

    def encode(self, new: Slice, base: Bytes | None) -> Any:
        if self.how == "encode":
            raise IndexError("out of range")
        if self.how == "rubbish":
            return b"rubbish"
        extra = {"x": np.float32(1)} if self.how == "extra" else {}
        frames: Any = ["text"] if self.how == "frames" else [b"1"]
        return Encoded(frames=frames, cut=planes.Grain(1), block=1, extra=extra)

    def decode(
        self, header: Header, frames: Iterator[memoryview], base: Bytes | None, out: Bytes
    ) -> None:
        if self.how == "decode":
            raise KeyError("no")
        out[:] = 0


@pytest.mark.parametrize(
    "how",
    ["estimate", "text", "nan", "encode", "rubbish", "extra", "frames", "decode", "wrong"],
)
def test_a_faulty_plug_in_breaks_no_add(keeper: Keeper, how: str):
    values = weights(64, 64)
    kept(keeper, {"a": ("F32", values), "b": ("F32", weights(64, 64, seed=2))})
    keeper.updates = {"dense": ALL["dense"], "faulty": Faulty(how)}
    data, layout = file_of({
        "a": ("F32", tuned(values)), "b": ("F32", tuned(weights(64, 64, seed=2)))
    })  # fmt: skip
    manifest = keeper.keep(data, layout)
    assert keeper.give(manifest) == data
    assert {chunk.kind for chunk in manifest.all_chunks()} == {"dense"}
    assert len(keeper.told) == (0 if how == "nan" else 1), "one line for one fault"


class Hungry(Faulty):
    def needs(self, new: Slice) -> int:
        return 1 << 40


def test_an_update_that_needs_too_much_is_passed_over(keeper: Keeper):
    values = weights(64, 64)
    kept(keeper, {"a": ("F32", values)})
    keeper.updates = {"dense": ALL["dense"], "faulty": Hungry("wrong")}
    data, layout = file_of({"a": ("F32", tuned(values))})
    assert keeper.give(keeper.keep(data, layout)) == data
    assert len(keeper.told) == 1
    assert "theta.memory" in keeper.told[0]


def test_what_is_loaded_is_taken_if_it_is_right(keeper: Keeper):
    values, new = weights(64, 64), tuned(weights(64, 64))
    seen = []

    def loaded(chunk: Slice, base: Bytes) -> tuple[str, Encoded] | None:
        seen.append((chunk.start, chunk.columns, base.tobytes()))
        encoded = ALL["delta"].encode(chunk, base)
        return None if encoded is None else ("delta", encoded)

    kept(keeper, {"a": ("F32", values)})
    data, layout = file_of({"a": ("F32", new)})
    keeper.choice = Choice(kinds=frozenset(), loaded={"a": loaded})
    manifest = keeper.keep(data, layout)
    assert keeper.give(manifest) == data
    assert parts(manifest, "a")[0].kind == "delta"
    assert seen == [(0, 64, values.tobytes())]


# --- settings ------------------------------------------------------------------------------------

KINDS = ["delta", "dense", "low-rank", "sparse"]


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("auto", None),
        ("delta", {"delta"}),
        ("delta,sparse", {"delta", "sparse"}),
        ("delta+sparse", {"delta", "sparse"}),
        (" delta , sparse ", {"delta", "sparse"}),
        ("-low-rank", {"delta", "dense", "sparse"}),
        ("!low-rank", {"delta", "dense", "sparse"}),
        ("auto,-low-rank,-delta", {"dense", "sparse"}),
        ("delta,sparse,-sparse", {"delta"}),
        ("dense", {"dense"}),
    ],
)
def test_kinds_are_read(text: str, kinds: set[str] | None):
    assert kinds_from(text, KINDS) == kinds


@pytest.mark.parametrize("text", ["", " ", ",", "delta,sparce", "-", "-auto", "DELTA", "-nothing"])
def test_unknown_kinds_are_refused(text: str):
    with pytest.raises(UsageError) as caught:
        kinds_from(text, KINDS)
    assert "low-rank" in caught.value.hint


# --- hostile -------------------------------------------------------------------------------------


@pytest.fixture
def pair(keeper: Keeper) -> tuple[Keeper, Manifest, bytes]:
    """A file of one tensor above a base."""
    values = weights(40, 50)
    kept(keeper, {"a": ("F32", values)})
    data, layout = file_of({"a": ("F32", tuned(values))})
    manifest = keeper.keep(data, layout)
    assert manifest.bases
    return keeper, manifest, data


def test_a_chain_that_bites_its_tail_is_no_manifest(pair: tuple[Keeper, Manifest, bytes]):
    _, manifest, _ = pair
    (chunk,) = parts(manifest, "a")
    (base,) = manifest.bases.values()
    bitten = manifest._replace(bases={base.digest: base._replace(base=chunk.digest)})
    with pytest.raises(ManifestError, match="its own base"):
        parse(dump(bitten))
    lost = manifest._replace(bases={})
    with pytest.raises(ManifestError, match="not in the manifest"):
        parse(dump(lost))


def forged(keeper: Keeper, manifest: Manifest, **changes: Any) -> Manifest:
    """The manifest with another record in place of the tensor's, of the same digest."""
    (chunk,) = parts(manifest, "a")
    values = tuned(weights(40, 50))
    plain = np.frombuffer(values.tobytes(), np.uint8)
    base = np.frombuffer(weights(40, 50).tobytes(), np.uint8)
    new = Slice(data=plain, cut=planes.grain("F32"))
    encoded = ALL["delta"].encode(new, base)
    record = write_record(
        new, chunk.digest, "delta", encoded, Base(digest=changes.pop("base", chunk.base))
    )
    head = replace(header_of(record[0]), **changes)
    from git_theta.core.payload import pack

    packed = b"".join(map(bytes, pack(head, [bytes(frame) for frame in record[1:]])))
    oid = digest_of(packed)
    path = keeper.store.path(oid)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed)
    chunk = chunk._replace(at=Place(oid, 0, len(packed)))
    tensor = manifest.tensors["a"]
    segment = tensor.segment._replace(chunks=(chunk,))
    return manifest._replace(
        tensors={"a": tensor._replace(segment=segment)},
        objects={**manifest.objects, oid: len(packed)},
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"base": "ab" * 32},
        {"align": {"s": 4}},
        {"align": {"s": 1 << 50}},
        {"align": {"s": "x"}},
        {"align": {"c": ["F32", "BF16"]}},
        {"align": {"r": [16, 0, 0, 4, b""]}},
        {"align": {"r": 5}},
        {"word": 8},
        {"word": 0},
        {"block": 0},
        {"kind": "dense"},
        {"kind": "sparse"},
        {"size": 9},
    ],
)
def test_a_hostile_record_is_damage(pair: tuple[Keeper, Manifest, bytes], changes: dict[str, Any]):
    keeper, manifest, data = pair
    assert keeper.give(forged(keeper, manifest)) == data
    with pytest.raises(CorruptError):
        keeper.give(forged(keeper, manifest, **changes))


def test_a_base_of_another_size_is_damage(pair: tuple[Keeper, Manifest, bytes]):
    keeper, manifest, _ = pair
    (chunk,) = parts(manifest, "a")
    (base,) = manifest.bases.values()
    chunks = {base.digest: base._replace(size=100), chunk.digest: chunk}
    with pytest.raises(CorruptError):
        decode_chunk(chunk, keeper.store.read, PLUGINS.updates, chunks)


def test_a_seal_names_every_record_of_a_chain(pair: tuple[Keeper, Manifest, bytes]):
    _, manifest, _ = pair
    (chunk,) = parts(manifest, "a")
    (base,) = manifest.bases.values()
    moved = base._replace(at=base.at._replace(offset=99))
    seal = sealed(chunk, {base.digest: base})
    assert seal == sealed(chunk._replace(summary=None), {base.digest: base})
    assert seal != sealed(chunk, {base.digest: moved})


def test_the_choice_is_proven_before_it_is_kept():
    chooser = Chooser(ALL, Choice(), memory=1, tell=lambda line: None)
    new = Slice(data=np.zeros(4096, np.uint8), cut=planes.Grain(4))
    outcome = chooser.store(new, digest_of(new.data))
    assert isinstance(outcome, Outcome)
    assert outcome.kind == "dense"
