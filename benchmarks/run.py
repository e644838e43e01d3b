"""Measures git-theta against Git LFS and others, and writes docs/benchmarks.md, part by part."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks import (
    differences,
    environments,
    everyday,
    hundred,
    load,
    merging,
    peers,
    speed,
    switching,
    updates,
)
from benchmarks.report import Section, headed, replaced
from benchmarks.sandbox import CACHE, HERE, ROOT, RunError, Sandbox, sandbox

Part = Callable[[Sandbox, int, float], Section]
PARTS: dict[str, Part] = {
    "everyday": everyday.measure,
    "updates": updates.measure,
    "speed": speed.measure,
    "peers": peers.measure,
    "hundred": hundred.measure,
    "merging": merging.measure,
    "diff": differences.measure,
    "load": load.measure,
    "switching": switching.measure,
}
PAGE = ROOT / "docs" / "benchmarks.md"
DISK = 20e9
QUICK = 0.25  # of each dimension, so a sixteenth of a matrix


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("-n", "--rounds", type=int, default=3, help="rounds to take medians of")
    parser.add_argument(
        "-k",
        "--only",
        action="append",
        choices=[*PARTS, *everyday.SCENARIOS],
        help="measure only this part of the page, or only this model of the part 'everyday', which "
        "writes no page (may be given again)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="small models, one round, and write no page"
    )
    parser.add_argument(
        "--dir", type=Path, default=CACHE, help="where to work: 20 GB are needed (default: .cache)"
    )
    return parser.parse_args()


def _chosen(given: argparse.Namespace) -> Iterator[tuple[str, Part]]:
    """The parts to measure; models of the first one together, under a name that no page has."""
    only = given.only or list(PARTS)
    yield from ((name, PARTS[name]) for name in PARTS if name in only)
    if kinds := [kind for kind in everyday.SCENARIOS if kind in only]:
        yield "", partial(everyday.measure, kinds=kinds)


def _programs(name: str) -> Path:
    """Whose programs a part tries: where starts count, those that a user has; else ours here."""
    return environments.ours() if name in ("everyday", "") else HERE


def _bench(given: argparse.Namespace) -> int:
    given.dir.mkdir(parents=True, exist_ok=True)
    if not given.quick and shutil.disk_usage(given.dir).free < DISK:
        raise RunError(f"{given.dir} has less than 20 GB free: name another place with --dir")
    rounds, scale = (1, QUICK) if given.quick else (given.rounds, 1.0)
    missed, failed = 0, 0
    for name, part in _chosen(given):
        print(f"{name or 'models'}:", file=sys.stderr)
        try:
            with sandbox(given.dir, _programs(name)) as box:
                section = part(box, rounds, scale)
                text = headed(box, section, f"make bench ARGS='-k {name}'")
        except RunError as error:
            print(f"bench: {name}: {error}", file=sys.stderr)
            failed += 1
            continue
        print(text)
        missed += sum(not row.met for row in section.rows)
        if name and not given.quick:
            PAGE.write_text(replaced(PAGE.read_text(), name, text))
            print(f"written to {PAGE.relative_to(ROOT)}\n")
    if given.quick:
        print("Small models under the names of the large ones, one round: no measurement.")
    print(f"{missed} bars not met" if missed else "all bars met")
    if failed:
        print(f"{failed} parts could not be measured: the page keeps what it said of them")
    return 1 if failed else 0


def main() -> int:
    """Measure what was asked for."""
    try:
        return _bench(_arguments())
    except RunError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
