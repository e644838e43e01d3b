"""All figures of all experiments: `python -m tests.science.report` prints the tables of the note.

With a folder as argument it draws the plots there, too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.science import experiments
from tests.science.experiments import Figures
from tests.science.plots import bars, lines

SEEDS = (0, 1, 2)
Rows = list[tuple[str, list[float]]]


def gathered(experiment: Callable[[int], Figures]) -> dict[str, list[float]]:
    """Each figure for every seed."""
    found = [experiment(seed) for seed in SEEDS]
    return {label: [f[label] for f in found] for label in found[0]}


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    head = [f"| {' | '.join(columns)} |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    return "\n".join([f"\n{title}\n", *head, *(f"| {' | '.join(row)} |" for row in rows)])


def spread(values: Sequence[float]) -> str:
    """Mean, and the figures of the seeds."""
    each = ", ".join(f"{value:.1f}" for value in values)
    return f"{sum(values) / len(values):.1f} ({each})"


def by_count(
    experiment: Callable[[int, int], Figures], labels: Sequence[str] = ()
) -> dict[int, dict[str, list[float]]]:
    """Figures for two and for four models."""
    found = {}
    for count in (2, 4):
        all_of_them = gathered(lambda seed, count=count: experiment(seed, count))  # type: ignore[misc]
        found[count] = {k: v for k, v in all_of_them.items() if not labels or k in labels}
    return found


def counted(title: str, found: dict[int, dict[str, list[float]]]) -> str:
    """A table with a column for each number of models."""
    rows = [[label, *(spread(found[n][label]) for n in found)] for label in found[2]]
    return table(title, ["", "2 models", "4 models"], rows)


def averages(found: dict[int, dict[str, list[float]]]) -> dict[str, list[float]]:
    """Means over seeds, by label."""
    return {label: [sum(found[n][label]) / len(SEEDS) for n in found] for label in found[2]}


def show(text: str) -> None:
    """Print."""
    sys.stdout.write(f"{text}\n")


def main() -> None:
    """Run everything and print it."""
    weighted = by_count(experiments.weighted)
    show(counted("R3, R4: averages", weighted))
    show(counted("MaTS, by rounds", by_count(experiments.mats)))
    spectral = by_count(experiments.spectral)
    show(counted("R10, R11: task vectors, scale chosen on validation images", spectral))
    for title, experiment in (("R5", experiments.dropped), ("R6", experiments.forgotten)):
        found = gathered(experiment)
        show(table(title, ["", "accuracy"], [[k, spread(v)] for k, v in found.items()]))
    robust = gathered(experiments.robust)
    show(table("R7", ["", "accuracy"], [[k, spread(v)] for k, v in robust.items()]))
    if len(sys.argv) > 1:
        draw(Path(sys.argv[1]), averages(weighted), averages(spectral), robust)


def draw(
    folder: Path,
    weighted: dict[str, list[float]],
    spectral: dict[str, list[float]],
    robust: dict[str, list[float]],
) -> None:
    """The two plots of the note."""
    shown = {k: weighted[k] for k in ("base", "average")}
    shown |= {k: spectral[k] for k in ("task arithmetic", "ties", "iso-c", "tsv-m")}
    shown |= {k: weighted[k] for k in ("fisher", "regmean 0.9", "specialists")}
    title = "One model for several domains of digits: mean accuracy (%), 3 seeds"
    (folder / "merging-digits.svg").write_text(bars(title, ("2 models", "4 models"), shown))
    series = {
        kind: [
            (float(label.split()[1]), sum(values) / len(values))
            for label, values in robust.items()
            if label.startswith(kind)
        ]
        for kind in ("clean", "corrupted")
    }
    title = "From a robust base (0) to a model tuned to clean digits (1): accuracy (%), 3 seeds"
    (folder / "interpolation-digits.svg").write_text(lines(title, "alpha", series))


if __name__ == "__main__":
    main()
