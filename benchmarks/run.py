"""Measures git-theta against Git LFS, and writes docs/benchmarks.md."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.report import markdown, replaced, rows
from benchmarks.sandbox import CACHE, ROOT, RunError, Sandbox, sandbox
from benchmarks.scenarios import Results, large_files, one_add, starts, whole_models

Scenario = Callable[[Sandbox, Results, str, int, float], None]
SCENARIOS: dict[str, Scenario] = {
    "starts": starts,
    "minilm": whole_models,
    "fp32": whole_models,
    "bf16": whole_models,
    "tensors": one_add,
    "large": large_files,
    "single": large_files,
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
        choices=list(SCENARIOS),
        help="measure only this (may be given again), and write no page",
    )
    parser.add_argument(
        "--quick", action="store_true", help="small models, one round, and write no page"
    )
    parser.add_argument(
        "--dir", type=Path, default=CACHE, help="where to work: 20 GB are needed (default: .cache)"
    )
    return parser.parse_args()


def _measure(box: Sandbox, given: argparse.Namespace) -> Results:
    results = Results()
    rounds = 1 if given.quick else given.rounds
    for kind in given.only or SCENARIOS:
        print(f"{kind}:", file=sys.stderr)
        SCENARIOS[kind](box, results, kind, rounds, QUICK if given.quick else 1.0)
    return results


def _bench(given: argparse.Namespace) -> int:
    given.dir.mkdir(parents=True, exist_ok=True)
    if not given.quick and shutil.disk_usage(given.dir).free < DISK:
        raise RunError(f"{given.dir} has less than 20 GB free: name another place with --dir")
    command = " ".join(["make bench", *(f"ARGS='{' '.join(sys.argv[1:])}'" for _ in sys.argv[1:2])])
    with sandbox(given.dir) as box:
        results = _measure(box, given)
        part = markdown(box, results, command)
    if given.quick:
        print("Small models under the names of the large ones, one round: no measurement.\n")
    print(part)
    if not given.quick and not given.only:
        PAGE.write_text(replaced(PAGE.read_text(), part))
        print(f"written to {PAGE.relative_to(ROOT)}")
    missed = [row for row in rows(results) if not row.met]
    print(f"{len(missed)} bars not met" if missed else "all bars met")
    return 0


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
