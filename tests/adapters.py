"""Adapters for tests, written by hand: PEFT directories, bare files, sparse files."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

_NAMES = {
    np.dtype("<f8"): "F64",
    np.dtype("<f4"): "F32",
    np.dtype("<f2"): "F16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
    np.dtype("<i8"): "I64",
    np.dtype("<i4"): "I32",
    np.dtype("u1"): "U8",
}

Array = npt.NDArray[Any]


def safetensors(tensors: Mapping[str, Array]) -> bytes:
    """A safetensors file of any dtypes."""
    header: dict[str, Any] = {}
    body = b""
    for name, values in tensors.items():
        data = np.ascontiguousarray(values).tobytes()
        ends = [len(body), len(body) + len(data)]
        kind = _NAMES[values.dtype]
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": ends}
        body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def read(data: bytes) -> dict[str, Array]:
    """The tensors of a safetensors file."""
    kinds = {name: kind for kind, name in _NAMES.items()}
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        raw = data[8 + size + begin : 8 + size + end]
        found[name] = np.frombuffer(raw, kinds[entry["dtype"]]).reshape(entry["shape"])
    return found


def lora(folder: Path, factors: Mapping[str, tuple[Array, Array]], **config: Any) -> Path:
    """A PEFT directory: module -> (A, B)."""
    tensors = {}
    for module, (down, up) in factors.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = down
        tensors[f"base_model.model.{module}.lora_B.weight"] = up
    rank = next(iter(factors.values()))[0].shape[0] if factors else 8
    return peft(folder, tensors, **{"r": rank, "lora_alpha": 2 * rank, **config})


def peft(folder: Path, tensors: Mapping[str, Array], **config: Any) -> Path:
    """A PEFT directory with these tensors, LoRA unless the configuration says something else."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(safetensors(tensors))
    told = {"peft_type": "LORA", "bias": "none", "modules_to_save": None, **config}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return folder
