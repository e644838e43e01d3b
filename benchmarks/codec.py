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


def _rate(work: Work, count: int, threads: int, rounds: int) -> float:
    """Megabytes a second over all the chunks, best of the rounds."""
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds):
            start = time.perf_counter()
            for _done in pool.map(work, range(count)):
                pass
            best = max(best, count * CHUNK / 1e6 / (time.perf_counter() - start))
    return best


def _samples(folder: Path) -> dict[str, tuple[str, planes.Bytes]]:
    """The first bytes of weights of each kind, with their dtype."""
    found = {"MiniLM fp32": ("F32", minilm())}
    for kind, dtype in (("fp32", "F32"), ("bf16", "BF16")):
        path = folder / kind
        models.make(kind, path, 0.4)
        found[f"generated {kind}"] = (dtype, path)
    samples = {}
    for name, (dtype, path) in found.items():
        start = min(entry.start for entry in models.entries(path).values())
        data = np.fromfile(path, np.uint8, count=SIZE, offset=start)
        samples[name] = (dtype, data[: len(data) // CHUNK * CHUNK])
    return samples


def _line(name: str, rates: Sequence[float], ratio: float | None = None) -> None:
    figures = "".join(f"{rate:10,.0f}" for rate in rates)
    print(f"{name:28}{figures}{'' if ratio is None else f'{ratio:10.4f}'}")


def _measure(name: str, dtype: str, data: planes.Bytes, rounds: int) -> None:
    cut = planes.grain(dtype)
    chunks = data.reshape(-1, CHUNK)
    coded = [planes.encode(chunk, cut) for chunk in chunks]
    outs = [np.empty(CHUNK, np.uint8) for _ in chunks]

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
        rates = [_rate(work, len(chunks), threads, rounds) for threads in THREADS]
        _line(f"{name}: {label}", rates, stored / len(data) if label == "encode" else None)
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
    for name, (dtype, data) in samples.items():
        _measure(name, dtype, data, given.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
