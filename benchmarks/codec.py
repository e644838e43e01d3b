"""How fast bytes are digested, encoded and decoded, without Git around it."""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import blake3
import numpy as np

from benchmarks import models
from benchmarks.minilm import minilm
from git_theta.core import planes

CHUNK = 4 << 20
SIZE = 128 << 20
THREADS = (1, 2)

Work = Callable[[int], object]


def _seconds(work: Work, count: int, threads: int, rounds: int) -> float:
    """Time over all the chunks, best of the rounds."""
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds):
            start = time.perf_counter()
            for _done in pool.map(work, range(count)):
                pass
            best = min(best, time.perf_counter() - start)
    return best


def _chunks(path: Path, dtype: str) -> list[planes.Bytes]:
    """The tensors at the front of a file, the larger ones in pieces."""
    chunks: list[planes.Bytes] = []
    total = 0
    for entry in models.entries(path).values():
        if entry.dtype == dtype and total < SIZE:
            size = entry.end - entry.start
            data = np.fromfile(path, np.uint8, count=size, offset=entry.start)
            chunks += [data[at : at + CHUNK] for at in range(0, size, CHUNK)]
            total += size
    return chunks


def _samples(folder: Path) -> dict[str, tuple[str, list[planes.Bytes]]]:
    """Chunks of weights of each kind, with their dtype."""
    found = {"MiniLM fp32": ("F32", minilm())}
    for kind, dtype in (("fp32", "F32"), ("bf16", "BF16")):
        path = folder / kind
        models.make(kind, path, 0.4)
        found[f"generated {kind}"] = (dtype, path)
    return {name: (dtype, _chunks(path, dtype)) for name, (dtype, path) in found.items()}


def _line(name: str, rates: Sequence[float], ratio: float | None = None) -> None:
    figures = "".join(f"{rate:10,.0f}" for rate in rates)
    print(f"{name:28}{figures}{'' if ratio is None else f'{ratio:10.4f}'}")


def _measure(name: str, dtype: str, chunks: list[planes.Bytes], rounds: int) -> None:
    cut = planes.grain(dtype)
    size = sum(len(chunk) for chunk in chunks)
    coded = [planes.encode(chunk, cut) for chunk in chunks]
    outs = [np.empty_like(chunk) for chunk in chunks]

    def decode(index: int) -> None:
        frames = (memoryview(frame) for frame in coded[index])
        planes.decode(frames, outs[index], cut, planes.BLOCK)

    works: dict[str, Work] = {
        "blake3": lambda index: blake3.blake3(chunks[index].data).digest(),
        "sha256": lambda index: hashlib.sha256(chunks[index].data).digest(),
        "encode": lambda index: planes.encode(chunks[index], cut),
        "decode": decode,
    }
    stored = sum(len(frame) for frames in coded for frame in frames)
    for label, work in works.items():
        times = [_seconds(work, len(chunks), threads, rounds) for threads in THREADS]
        rates = [size / 1e6 / seconds for seconds in times]
        _line(f"{name}: {label}", rates, stored / size if label == "encode" else None)
    assert all(np.array_equal(out, chunk) for out, chunk in zip(outs, chunks, strict=True))


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", "--rounds", type=int, default=3)
    given = parser.parse_args()
    titles = "".join(f"{f'{threads} thr.':>10}" for threads in THREADS)
    print(f"{'MB/s of plain bytes, best':28}{titles}{'ratio':>10}")
    with tempfile.TemporaryDirectory() as folder:
        samples = _samples(Path(folder))
    for name, (dtype, chunks) in samples.items():
        _measure(name, dtype, chunks, given.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
