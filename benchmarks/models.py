"""Makes and changes the safetensors files that are measured. Run as a program.

Everything is deterministic and streamed, and written here by hand, so that what is measured
depends on no framework. Weights are drawn as trained ones look to an entropy coder: normal,
each tensor with a spread of its own and each row with a little of its own on top, norms near
one, small biases; bf16 is fp32 rounded to the nearest even.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

BLOCK = 1 << 22  # elements made at a time
WIDTHS = {"F32": 4, "BF16": 2}

STEP = 0.003  # how far a full fine-tune moves weights, in their spread: as MiniLM's at 2e-5
LOW_RANK = (8, 0.008)  # rank of a LoRA, and how far it moves what it is merged into
SPARSE = (0.005, 0.02)  # share of the entries that change, and how far

Floats = npt.NDArray[np.float32]
Layout = dict[str, tuple[int, ...]]
Draw = Callable[[str, tuple[int, ...], int], Iterator[Floats]]


class Entry(NamedTuple):
    """Where one tensor lies in a file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def gpt(scale: float) -> Layout:
    """292 tensors with biases, 268.9 M parameters: about 1 GiB in fp32."""
    d, layers = int(1024 * scale), 18
    shapes: Layout = {"wte.weight": (int(40000 * scale), d), "wpe.weight": (1024, d)}
    for i in range(layers):
        sizes = {"attn.q": (d, d), "attn.k": (d, d), "attn.v": (d, d), "attn.o": (d, d)}
        sizes |= {"mlp.up": (4 * d, d), "mlp.down": (d, 4 * d)}
        for part, shape in sizes.items():
            shapes[f"h.{i}.{part}.weight"] = shape
            shapes[f"h.{i}.{part}.bias"] = shape[:1]
        for part in ("ln_1", "ln_2"):
            shapes[f"h.{i}.{part}.weight"] = shapes[f"h.{i}.{part}.bias"] = (d,)
    shapes["ln_f.weight"] = shapes["ln_f.bias"] = (d,)
    return shapes


def llama(scale: float) -> Layout:
    """299 tensors without biases, 533.5 M parameters: about 1 GiB in bf16."""
    d = int(1152 * scale)
    shapes: Layout = {"model.embed_tokens.weight": (int(64000 * scale), d)}
    for i in range(33):
        at = f"model.layers.{i}"
        for part, rows in (("q", d), ("k", d // 4), ("v", d // 4), ("o", d)):
            shapes[f"{at}.self_attn.{part}_proj.weight"] = (rows, d)
        hidden = int(3072 * scale)
        shapes[f"{at}.mlp.gate_proj.weight"] = shapes[f"{at}.mlp.up_proj.weight"] = (hidden, d)
        shapes[f"{at}.mlp.down_proj.weight"] = (d, hidden)
        shapes[f"{at}.input_layernorm.weight"] = (d,)
        shapes[f"{at}.post_attention_layernorm.weight"] = (d,)
    shapes["model.norm.weight"] = (d,)
    return shapes


def entries(path: Path) -> dict[str, Entry]:
    """Read where the tensors of a file lie."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {
        name: Entry(
            fields["dtype"],
            tuple(fields["shape"]),
            8 + length + fields["data_offsets"][0],
            8 + length + fields["data_offsets"][1],
        )
        for name, fields in header.items()
    }


def _header(layout: Layout, dtype: str) -> bytes:
    fields: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in layout.items():
        end = offset + int(np.prod(shape)) * WIDTHS[dtype]
        fields[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def as_bytes(values: Floats, dtype: str) -> bytes:
    """Values as a file holds them."""
    if dtype == "F32":
        return values.tobytes()
    words = values.view(np.uint32)
    return ((words + 0x7FFF + ((words >> 16) & 1)) >> 16).astype(np.uint16).tobytes()


def as_floats(data: bytes, dtype: str) -> Floats:
    """What a file holds as values."""
    if dtype == "F32":
        singles: Floats = np.frombuffer(data, np.float32).copy()
        return singles
    words = np.frombuffer(data, np.uint16).astype(np.uint32)
    words <<= 16
    values: Floats = words.view(np.float32)
    return values


def trained(name: str, shape: tuple[int, ...], seed: int) -> Iterator[Floats]:
    """Draw a tensor's values, block by block."""
    random = np.random.Generator(np.random.SFC64([seed, zlib.crc32(name.encode())]))
    if len(shape) == 1:
        centre, spread = (0.0, 0.01) if name.endswith("bias") else (1.0, 0.05)
        yield centre + spread * random.standard_normal(shape, np.float32)
        return
    spread = 0.02 * float(np.exp(0.35 * random.standard_normal()))
    step = max(1, BLOCK // shape[1])
    for row in range(0, shape[0], step):
        rows = min(step, shape[0] - row)
        scales = spread * np.exp(0.2 * random.standard_normal((rows, 1), np.float32))
        block = random.standard_normal((rows, shape[1]), np.float32)
        block *= scales
        yield block


def cheap(name: str, shape: tuple[int, ...], seed: int) -> Iterator[Floats]:
    """Values at the speed of the disk: one drawn block, scaled anew for every block."""
    random = np.random.Generator(np.random.SFC64([seed, zlib.crc32(name.encode())]))
    block = random.standard_normal(BLOCK, np.float32) * np.float32(0.02)
    left, turn = int(np.prod(shape)), 0
    while left:
        yield block[:left] * np.float32(1 + turn / 1000)
        left, turn = left - min(left, BLOCK), turn + 1


def make(kind: str, path: Path, scale: float) -> None:
    """Write one of the files that are measured."""
    dtype: str = "F32"
    draw: Draw = trained
    if kind == "fp32":
        layout = gpt(scale)
    elif kind == "bf16":
        layout, dtype = llama(scale), "BF16"
    elif kind == "tensors":
        layout = {f"slot.{i:06}.weight": (1, 256) for i in range(int(100_000 * scale))}
    elif kind == "large":
        layout, draw = {f"w.{i:03}": (16, int((1 << 18) * scale)) for i in range(256)}, cheap
    else:
        layout, draw = {"w": (4096, int((1 << 18) * scale))}, cheap
    write(path, layout, dtype, draw)


def write(path: Path, layout: Layout, dtype: str = "F32", draw: Draw = trained) -> None:
    """Write a file of drawn values."""
    with path.open("wb") as file:
        file.write(_header(layout, dtype))
        for name, shape in layout.items():
            for block in draw(name, shape, 1):
                file.write(as_bytes(block, dtype))


def change(source: Path, target: Path, count: int) -> dict[str, int]:
    """Copy a file with some of its matrices trained a little further; their sizes in bytes."""
    shutil.copyfile(source, target)
    found = entries(source)
    matrices = sorted(n for n, e in found.items() if len(e.shape) == 2 and "emb" not in n)
    chosen = matrices[len(matrices) // 2 :][:count]
    random = np.random.Generator(np.random.SFC64(2))
    with target.open("r+b") as file:
        for name in chosen:
            entry = found[name]
            file.seek(entry.start)
            values = as_floats(file.read(entry.end - entry.start), entry.dtype)
            step = np.float32(0.05) * values.std()
            values += step * random.standard_normal(values.shape, np.float32)
            file.seek(entry.start)
            file.write(as_bytes(values, entry.dtype))
    return {name: found[name].end - found[name].start for name in chosen}


def _moved(
    kind: str, values: Floats, shape: tuple[int, ...], random: np.random.Generator
) -> Floats:
    """The values of a tensor after a fine-tune."""
    spread = values.std()
    if kind == "full":
        values += np.float32(STEP) * spread * random.standard_normal(values.shape, np.float32)
        return values
    if kind == "lora":
        rank, far = LOW_RANK
        b = random.standard_normal((shape[0], rank), np.float32)
        b *= np.float32(far / rank**0.5) * spread
        a = random.standard_normal((rank, shape[1]), np.float32)
        moved: Floats = values + (b @ a).ravel()
        return moved
    share, far = SPARSE
    chosen = random.integers(0, values.size, int(values.size * share))
    values[chosen] += np.float32(far) * spread * random.standard_normal(chosen.size, np.float32)
    return values


def tune(source: Path, target: Path, kind: str, seed: int) -> int:
    """Copy a file as a fine-tune of some kind would leave it; bytes of the tensors that differ.

    A full one moves everything, the others the matrices that are no embeddings.
    """
    shutil.copyfile(source, target)
    moved = 0
    with target.open("r+b") as file:
        for name, entry in entries(source).items():
            matrix = len(entry.shape) == 2 and not re.search("emb|wte|wpe", name)
            if not (matrix or kind == "full"):
                continue
            random = np.random.Generator(np.random.SFC64([seed, zlib.crc32(name.encode())]))
            file.seek(entry.start)
            values = as_floats(file.read(entry.end - entry.start), entry.dtype)
            file.seek(entry.start)
            file.write(as_bytes(_moved(kind, values, entry.shape, random), entry.dtype))
            moved += entry.end - entry.start
    return moved


def pick(source: Path, target: Path, part: str) -> None:
    """Write a file of the matrices alone whose names begin with something."""
    chosen = {
        name: entry
        for name, entry in entries(source).items()
        if name.startswith(part) and len(entry.shape) == 2
    }
    (dtype,) = {entry.dtype for entry in chosen.values()}
    with source.open("rb") as file, target.open("wb") as out:
        out.write(_header({name: entry.shape for name, entry in chosen.items()}, dtype))
        for entry in chosen.values():
            file.seek(entry.start)
            out.write(file.read(entry.end - entry.start))


def _whole(name: str, shape: tuple[int, ...], seed: int) -> Floats:
    """All the values of a tensor that is not too large for that."""
    return np.concatenate(list(trained(name, shape, seed)))


def wide(path: Path, side: str, scale: float) -> None:
    """Write 300 matrices of 16 MiB in bf16: `main`, or what one of two sides made of it.

    Each side changed ten, three of them both. Those three hold weights in full; of the others only
    the first row does, so that nobody waits for what plays no part.
    """
    rows, columns = 2048, int(4096 * scale)
    layout: Layout = {f"block.{i:03}.weight": (rows, columns) for i in range(300)}
    changed = {"main": range(0), "ours": range(10), "theirs": range(7, 17)}[side]
    header = _header(layout, "BF16")
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + 300 * rows * columns * 2)
        for number, name in enumerate(layout):
            shape = (rows if 7 <= number < 10 else 1, columns)
            values = _whole(name, shape, 1)
            if number in changed:
                values += np.float32(STEP) * _whole(name, shape, 2 if side == "ours" else 3)
            file.seek(len(header) + number * rows * columns * 2)
            file.write(as_bytes(values, "BF16"))


def main() -> None:
    """Make a model, or a changed copy of one."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("kind", choices=["fp32", "bf16", "tensors", "large", "single"])
    making.add_argument("path", type=Path)
    making.add_argument("--scale", type=float, default=1.0)
    changing = commands.add_parser("change")
    changing.add_argument("source", type=Path)
    changing.add_argument("target", type=Path)
    changing.add_argument("--count", type=int, default=2)
    tuning = commands.add_parser("tune")
    tuning.add_argument("source", type=Path)
    tuning.add_argument("target", type=Path)
    tuning.add_argument("kind", choices=["full", "lora", "sparse"])
    tuning.add_argument("--seed", type=int, default=1)
    spreading = commands.add_parser("wide")
    spreading.add_argument("path", type=Path)
    spreading.add_argument("side", choices=["main", "ours", "theirs"])
    spreading.add_argument("--scale", type=float, default=1.0)
    given = parser.parse_args()
    if given.command == "make":
        make(given.kind, given.path, given.scale)
    elif given.command == "wide":
        wide(given.path, given.side, given.scale)
    elif given.command == "tune":
        print(tune(given.source, given.target, given.kind, given.seed))
    else:
        print(json.dumps(change(given.source, given.target, given.count)))


if __name__ == "__main__":
    main()
