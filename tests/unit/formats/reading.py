"""Reads tensors through a layout, and tells what PyTorch or safetensors said of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from git_theta.core.dtypes import DTYPES
from git_theta.core.layout import Layout, TensorView
from git_theta.formats.safetensors import SafetensorsFormat
from git_theta.formats.torch_legacy import TorchLegacyFormat
from git_theta.formats.torch_zip import TorchZipFormat
from git_theta.testing import BytesReader

DATA = Path(__file__).parents[2] / "data" / "torch"
FORMATS = (SafetensorsFormat(), TorchZipFormat(), TorchLegacyFormat())


def locate(data: bytes) -> Layout:
    """Locate with the one format that detects the file."""
    (found,) = (known for known in FORMATS if known.detect(data[:4096]))
    return found.locate(BytesReader(data))


def tensor_bytes(data: bytes, layout: Layout, tensor: TensorView) -> bytes:
    """The bytes of a tensor in C order."""
    segment = layout.segments[tensor.segment]
    width = DTYPES[tensor.dtype].bits // 8
    raw = data[segment.offset + tensor.offset : segment.offset + segment.size]
    if 0 in tensor.shape:
        return b""
    flat = np.frombuffer(raw[: len(raw) // width * width], dtype=f"V{width}")
    if tensor.strides is None:
        return flat[: int(np.prod(tensor.shape, dtype=np.int64))].tobytes()
    steps = [step * width for step in tensor.strides]
    return np.lib.stride_tricks.as_strided(flat, tensor.shape, steps).tobytes()


def described(data: bytes) -> dict[str, dict[str, object]]:
    """What we say of every tensor of a file, in the words of the golden files."""
    layout = locate(data)
    return {
        tensor.name: {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "sha256": hashlib.sha256(tensor_bytes(data, layout, tensor)).hexdigest(),
        }
        for tensor in layout.tensors
    }


def golden(name: str) -> dict[str, dict[str, object]]:
    """What PyTorch says of every tensor of a golden file."""
    found = json.loads((DATA / f"{name}.json").read_text())
    assert isinstance(found, dict)
    return found
