"""ZipNN's side of the comparison. Run with its own interpreter: it knows nothing of this project.

Reads lines of JSON, each a file and perhaps one that it is a change of; answers each with the bytes
that ZipNN makes of the tensors and the seconds that it took. What does not come back ends it.
"""

from __future__ import annotations

import json
import struct
import sys
import time
from pathlib import Path

import zipnn  # type: ignore[import-not-found]

KINDS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def parts(data: bytes) -> tuple[bytes, list[tuple[str, bytes]]]:
    """The header of a safetensors file, and each tensor's dtype and bytes."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    found = []
    for fields in header.values():
        start, end = (8 + length + offset for offset in fields["data_offsets"])
        found.append((fields["dtype"], data[start:end]))
    return data[: 8 + length], found


def packed(dtype: str, data: bytes, base: bytes | None) -> tuple[int, float]:
    """Bytes of one tensor and seconds; what ZipNN has no kind for counts as it is."""
    if dtype not in KINDS or not data:
        return len(data), 0.0
    options = {"delta_compressed_type": "byte"} if base is not None else {}
    coder = zipnn.ZipNN(method="AUTO", bytearray_dtype=KINDS[dtype], threads=2, **options)
    second = {"delta_second_data": base} if base is not None else {}
    given = bytes(bytearray(data))  # a copy: it works in place
    start = time.perf_counter()
    coded = coder.compress(given, **second)
    seconds = time.perf_counter() - start
    if bytes(coder.decompress(coded, **second)) != data:
        raise SystemExit("ZipNN: a tensor does not come back byte for byte")
    return min(len(coded), len(data)), seconds


def main() -> None:
    """Answer every line."""
    for line in sys.stdin:
        given = json.loads(line)
        header, tensors = parts(Path(given["file"]).read_bytes())
        bases: list[bytes | None] = [None] * len(tensors)
        if given.get("base"):
            bases = [part for _, part in parts(Path(given["base"]).read_bytes())[1]]
        found = [packed(*tensor, base) for tensor, base in zip(tensors, bases, strict=True)]
        size = len(header) + sum(length for length, _ in found)
        seconds = sum(taken for _, taken in found)
        print(json.dumps({"bytes": size, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
