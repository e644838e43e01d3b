"""Files read along a layout: whatever the layout says, what comes back is what went in."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from git_theta.core.checkpoint import rebuild
from git_theta.core.clean import OPAQUE
from git_theta.core.layout import Layout, Segment, TensorView
from git_theta.core.manifest import CHUNK, Manifest
from git_theta.core.payload import OBJECT_MAGIC
from git_theta.core.units import GAP
from git_theta.errors import CorruptError, MissingError
from tests.keeper import ALL, PLUGINS, Keeper

LAW = settings(max_examples=80)


@dataclass(frozen=True)
class Made:
    """A layout, and the bytes of a file that has it."""

    layout: Layout
    data: bytes


def made(*parts: tuple[int, int, int], tail: int = 0, seed: int = 1) -> Made:
    """A file of segments: the gap before each, its size, and how many tensors view it."""
    segments, views, end = [], [], 0
    for index, (gap, size, count) in enumerate(parts):
        segments.append(Segment(offset=end + gap, size=size, word=(1, 2, 4, 8)[index % 4]))
        views += [_view(index, number, size) for number in range(count)]
        end += gap + size
    layout = Layout(segments=tuple(segments), tensors=tuple(views))
    return Made(layout, np.random.default_rng(seed).bytes(end + tail))


def _view(segment: int, number: int, size: int) -> TensorView:
    """The first view is the whole segment; others are slices, transposed, and repeat bytes."""
    name, dtype = f"t{segment}.{number}", ("U8", "F16", "F32", "F64")[segment % 4]
    if number == 0:
        return TensorView(name=name, dtype="U8", shape=(size,), segment=segment)
    count = size // 8
    if number == 1:
        return TensorView(name=name, dtype=dtype, shape=(count // 2,), segment=segment, offset=0)
    return TensorView(
        name=name, dtype=dtype, shape=(2, count // 2), strides=(0, 1), segment=segment
    )


GAPS = st.one_of(st.just(0), st.integers(0, 300), st.sampled_from([GAP, GAP + 1, 2 * GAP + 3]))
SIZES = st.one_of(st.just(0), st.integers(0, 3000), st.sampled_from([64 << 10, 1 << 20]))
FILES = st.builds(
    lambda parts, tail, seed: made(*parts, tail=tail, seed=seed),
    st.lists(st.tuples(GAPS, SIZES, st.integers(0, 3)), max_size=6),
    st.one_of(st.just(0), st.integers(0, 300), st.just(GAP + 5)),
    st.integers(0, 2),
)


@LAW
@given(file=FILES)
@example(file=made())
@example(file=made(tail=9))
@example(file=made((0, 0, 1)))
@example(file=made((0, 0, 2), (0, 0, 2), (5, 0, 0)))
@example(file=made((0, CHUNK, 1), (0, 1, 1)))
@example(file=made((3, CHUNK + 1, 2), tail=CHUNK + 2))
@example(file=made((CHUNK + 8, 8, 0), tail=CHUNK))
def test_files_come_back(shared: Keeper, file: Made):
    manifest = shared.keep(file.data, file.layout)
    assert shared.give(manifest) == file.data
    assert set(manifest.tensors) == {view.name for view in file.layout.tensors}
    for view in file.layout.tensors:
        tensor, segment = manifest.tensors[view.name], file.layout.segments[view.segment]
        assert (tensor.dtype, tensor.shape) == (view.dtype, view.shape)
        assert (tensor.offset, tensor.strides) == (view.offset, view.strides)
        assert tensor.segment.size == segment.size
        views = sum(other.segment == view.segment for other in file.layout.tensors)
        assert tensor.shared == (views > 1)


@LAW
@given(file=FILES, data=st.data())
def test_a_file_cut_short_is_opaque(shared: Keeper, file: Made, data: st.DataObject):
    size = data.draw(st.integers(0, len(file.data)), "size")
    manifest = shared.keep(file.data[:size], file.layout)
    assert shared.give(manifest) == file.data[:size]
    whole = size >= file.layout.end
    assert manifest.format == ("test" if whole else OPAQUE)
    assert bool(manifest.tensors) == (whole and bool(file.layout.tensors))


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, CHUNK + 9])
def test_a_large_segment_cut_short(keeper: Keeper, size: int):
    file = made((0, CHUNK + 10, 1), (0, 5, 1))
    manifest = keeper.keep(file.data[:size], file.layout)
    assert manifest.format == OPAQUE
    assert keeper.give(manifest) == file.data[:size]


def test_equal_segments_are_stored_once(keeper: Keeper):
    part = np.random.default_rng(1).bytes(300_000)
    layout = made((0, len(part), 1), (0, len(part), 0), (0, len(part), 2)).layout
    manifest = keeper.keep(part * 3, layout)
    assert keeper.give(manifest) == part * 3
    assert keeper.written < 1.2 * len(part)


def test_a_changed_tensor_is_stored_alone(keeper: Keeper):
    file = made((10, 2 * CHUNK + 5, 1), (4, 500_000, 1), (0, 500_000, 2), tail=7)
    before = keeper.keep(file.data, file.layout)
    changed = bytearray(file.data)
    changed[10 + CHUNK + 3] ^= 1
    after = keeper.keep(bytes(changed), file.layout)
    assert keeper.give(after) == bytes(changed)
    assert keeper.written < CHUNK + (1 << 16)
    assert after.tensors["t1.0"] == before.tensors["t1.0"]
    assert after.tensors["t2.1"] == before.tensors["t2.1"]
    old, new = (m.tensors["t0.0"].segment.chunks for m in (before, after))
    assert [a == b for a, b in zip(old, new, strict=True)] == [True, False, True]


def test_a_changed_header_stores_the_skeleton_alone(keeper: Keeper):
    file = made((100, 400_000, 1))
    keeper.keep(file.data, file.layout)
    changed = bytes(100) + file.data[100:]
    after = keeper.keep(changed, file.layout)
    assert keeper.give(after) == changed
    assert keeper.written < 1000


# --- damage --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Keeper, Manifest, bytes]:
    """A file with compressed, raw and empty chunks, shared and not."""
    keeper = Keeper(tmp_path_factory.mktemp("damaged"))
    file = made((60, 4000, 1), (0, 900, 2), (3, 0, 1), (0, 8000, 1), tail=20)
    data = bytearray(file.data)
    data[100:3000] = np.random.default_rng(2).normal(size=725).astype("<f4").tobytes()
    data[5000:9000] = bytes(4000)
    manifest = keeper.keep(bytes(data), file.layout)
    assert keeper.give(manifest) == data
    return keeper, manifest, bytes(data)


@settings(max_examples=400)
@given(data=st.data())
def test_a_flipped_bit_never_gives_other_bytes(
    kept: tuple[Keeper, Manifest, bytes], data: st.DataObject
):
    keeper, manifest, plain = kept
    oid = data.draw(st.sampled_from(sorted(manifest.objects)), "object")
    stored = keeper.store.path(oid).read_bytes()
    at = data.draw(st.integers(0, len(stored) - 1), "byte")
    flipped = bytearray(stored)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7), "bit")
    assert hashlib.sha256(flipped).hexdigest() != oid
    keeper.store.path(oid).write_bytes(flipped)
    try:
        given_back = keeper.give(manifest)
    except CorruptError:
        return
    finally:
        keeper.store.path(oid).write_bytes(stored)
    assert given_back == plain


def test_a_flipped_bit_of_plain_bytes_is_found(kept: tuple[Keeper, Manifest, bytes]):
    keeper, manifest, _ = kept
    chunk = manifest.tensors["t0.0"].segment.chunks[0]
    path = keeper.store.path(chunk.at.oid)
    stored = path.read_bytes()
    flipped = bytearray(stored)
    flipped[chunk.at.offset + chunk.at.size - 1] ^= 4
    path.write_bytes(flipped)
    with pytest.raises(CorruptError):
        keeper.give(manifest)
    path.write_bytes(stored)


def test_the_last_bytes_come_only_after_the_proof(keeper: Keeper):
    """Records that are sound, but of another file: of a single unit, nothing may leave."""
    file = made((0, 5000, 1), (0, 5000, 1))
    manifest = keeper.keep(file.data, file.layout)
    first, second = manifest.tensors["t0.0"], manifest.tensors["t1.0"]
    swapped = {"t0.0": second, "t1.0": first}
    forged = Manifest(
        format=manifest.format,
        size=manifest.size,
        digest=manifest.digest,
        skeleton=manifest.skeleton,
        tensors=swapped,
        objects=manifest.objects,
    )
    left: list[bytes] = []
    with pytest.raises(CorruptError, match="do not make up the file"):
        left.extend(map(bytes, rebuild(forged, keeper.store.read, PLUGINS)))
    assert not left


@pytest.mark.parametrize("size", [9999, 10_001])
def test_a_wrong_size_is_found(keeper: Keeper, size: int):
    file = made((0, 5000, 1), (0, 5000, 1))
    manifest = keeper.keep(file.data, file.layout)
    forged = Manifest(
        format=manifest.format,
        size=size,
        digest=manifest.digest,
        skeleton=manifest.skeleton,
        tensors=manifest.tensors,
        objects=manifest.objects,
    )
    with pytest.raises(CorruptError, match="than its manifest says"):
        keeper.give(forged)


def test_an_object_cut_short_or_gone(keeper: Keeper):
    file = made((0, 50_000, 1))
    manifest = keeper.keep(file.data, file.layout)
    path = keeper.store.path(manifest.tensors["t0.0"].segment.chunks[0].at.oid)
    path.write_bytes(path.read_bytes()[: len(OBJECT_MAGIC) + 100])
    with pytest.raises(MissingError):
        keeper.give(manifest)
    path.unlink()
    with pytest.raises(MissingError):
        Keeper(keeper.root).give(manifest)


class OneByOne:
    """The dense update without its way to encode many chunks at once."""

    name = "dense"
    needs_base = False

    def __init__(self) -> None:
        dense = ALL["dense"]
        self.estimate, self.encode, self.decode = dense.estimate, dense.encode, dense.decode


def small_tensors(count: int) -> Made:
    """Runs of small tensors that are alike, some of them twice, and others between."""
    rng = np.random.default_rng(7)
    kinds = [("F32", 256, 4), ("BF16", 64, 2), ("F32", 3, 4), ("I64", 20, 8), ("NEW", 40, 1)]
    segments, views, end = [], [], 0
    data: list[bytes] = []
    for index in range(count):
        dtype, length, word = kinds[index // 50 % len(kinds)] if index % 37 else ("U8", 90_000, 1)
        part = rng.normal(size=length).astype("<f4").tobytes()[: length * word]
        part = part.ljust(length * word, b"x")
        if index % 11 == 10 and len(data[-1]) == len(part):
            part = data[-1]
        segments.append(Segment(offset=end, size=len(part), word=word))
        views.append(TensorView(name=f"t{index}", dtype=dtype, shape=(length,), segment=index))
        data.append(part)
        end += len(part)
    return Made(Layout(segments=tuple(segments), tensors=tuple(views)), b"".join(data))


def test_many_small_tensors_are_stored_as_each_alone(tmp_path: Path):
    file = small_tensors(600)
    found = []
    for update in (ALL["dense"], OneByOne()):
        for known in (False, True):
            keeper = Keeper(tmp_path / f"{type(update).__name__}-{known}", dense=update, plain=True)
            first = keeper.keep(file.data, file.layout)
            if not known:
                keeper.known.clear()
            changed = bytearray(file.data)
            changed[9000::50_000] = bytes(len(changed[9000::50_000]))
            second = keeper.keep(bytes(changed), file.layout)
            assert keeper.give(first) == file.data
            assert keeper.give(second) == bytes(changed)
            found.append((known, first, second))
    assert found[:2] == found[2:]
