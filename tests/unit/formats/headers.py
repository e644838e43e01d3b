"""Writes safetensors files by hand, sound ones and others."""

from __future__ import annotations

import json
from collections.abc import Mapping

from git_theta.core.dtypes import DTYPES


def raw_file(header: bytes, data: bytes = b"", *, size: int | None = None) -> bytes:
    """A file with this header, whatever it is; `size` is a lie about the header's length."""
    return (len(header) if size is None else size).to_bytes(8, "little") + header + data


def entry(dtype: str, shape: object, begin: object, end: object) -> dict[str, object]:
    """What a header says of one tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def one(dtype: str, shape: object, begin: object, end: object, data: bytes = bytes(64)) -> bytes:
    """A file with the tensor `t`."""
    return raw_file(json.dumps({"t": entry(dtype, shape, begin, end)}).encode(), data)


def tensors_file(tensors: Mapping[str, tuple[str, list[int]]], *, gap: int = 0) -> bytes:
    """A sound file whose tensors lie `gap` bytes apart."""
    header, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = DTYPES[dtype].bits
        for length in shape:
            size *= length
        assert size % 8 == 0
        header[name] = entry(dtype, shape, at, at + size // 8)
        at += size // 8 + gap
    return raw_file(json.dumps(header).encode(), bytes(i % 251 for i in range(at)))
