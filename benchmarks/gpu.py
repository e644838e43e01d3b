"""Measures `ties` and `tsvm` on a CUDA device, on tensors of the shapes that 7B models have.

    python -m benchmarks.gpu [--rounds N] [--json]

Prints, for each, elements merged per second; for `ties` also the share of the memory bandwidth
that a copy of the same tensors reaches. Where there is no CUDA device it says so and ends well.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

SHAPES = {
    "attention": (4096, 4096),
    "mlp": (11008, 4096),
    "embedding": (32000, 4096),
}
MATRICES = ("attention", "mlp")
MODELS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One strategy on one shape."""

    strategy: str
    shape: tuple[int, ...]
    seconds: float
    elements_per_second: float
    bytes_per_second: float
    share_of_bandwidth: float | None


def seconds(work: Callable[[], Any], rounds: int) -> float:
    """The median time of some work on the device, once warm."""
    import torch

    work()
    found = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        found.append(begin.elapsed_time(end) / 1000)
    return float(statistics.median(found))


def bandwidth(rounds: int) -> float:
    """Bytes per second that a copy reads and writes."""
    import torch

    source = torch.empty(1 << 28, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    moved = float(2 * source.nbytes)
    return moved / seconds(lambda: target.copy_(source), rounds)


def measured(name: str, shape: tuple[int, ...], rounds: int, copy: float) -> Row:
    """One strategy on bfloat16 models of a shape.

    What it must read and write at least is each version once and the result in float32.
    """
    import torch

    from git_theta import registry
    from git_theta.core.strategy import Versions

    strategy = registry.find("merges", name).load()()
    base = torch.randn(shape, device="cuda").mul_(0.02).bfloat16()
    models = tuple(base + (0.002 * torch.randn_like(base)) for _ in range(MODELS))
    if strategy.needs.double:
        base, models = base.double(), tuple(model.double() for model in models)
    given = Versions(name="w", shape=shape, models=models, base=base)
    taken = seconds(lambda: strategy.merge(given), rounds)
    size = base.numel()
    least = (MODELS + 1) * base.nbytes + size * max(4, base.element_size())
    return Row(
        strategy=name,
        shape=shape,
        seconds=taken,
        elements_per_second=size / taken,
        bytes_per_second=least / taken,
        share_of_bandwidth=None if strategy.needs.double else least / taken / copy,
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("-n", "--rounds", type=int, default=5, help="rounds to take medians of")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    try:
        import torch
    except ImportError:
        print("torch is not installed: nothing was measured", file=sys.stderr)
        return 0
    if not torch.cuda.is_available():
        print("there is no CUDA device here: nothing was measured", file=sys.stderr)
        return 0
    copy = bandwidth(given.rounds)
    rows = [measured("ties", shape, given.rounds, copy) for shape in SHAPES.values()]
    rows += [measured("tsvm", SHAPES[name], 1, copy) for name in MATRICES]
    if given.json:
        print(json.dumps({"device": torch.cuda.get_device_name(), "rows": [*map(asdict, rows)]}))
        return 0
    print(f"{torch.cuda.get_device_name()}: a copy moves {copy / 1e9:.0f} GB/s")
    for row in rows:
        share = "" if row.share_of_bandwidth is None else f", {row.share_of_bandwidth:.0%} of it"
        print(
            f"{row.strategy} {row.shape}: {row.seconds * 1000:.1f} ms, "
            f"{row.elements_per_second / 1e6:.0f} M elements/s, "
            f"{row.bytes_per_second / 1e9:.1f} GB/s{share}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
