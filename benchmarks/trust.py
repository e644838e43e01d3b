"""Counts what the long tests survived: `python -m benchmarks.trust [RECORD...]` writes the page.

A record is the report of pytest that `make soak` leaves in .cache; of a test that is in several,
the last one counts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.report import machine, replaced, table
from benchmarks.sandbox import CACHE, RunError, Sandbox, sandbox

RECORD = CACHE / "soak.xml"
NAME = "trust"
WANTED = 200  # kills of each command
COMMANDS = {
    "test_add[200]": "`git add`",
    "test_commit[200]": "`git commit -a`",
    "test_checkout[200-git]": "`git checkout`",
    "test_checkout[200-git theta]": "`git theta checkout`",
    "test_merge[200-git]": "`git merge`",
    "test_merge[200-git theta]": "`git theta merge`",
    "test_push[200]": "`git push`",
    "test_fetch[200-fetch]": "`git theta fetch`",
    "test_fetch[200-pull]": "`git theta pull`",
    "test_prune[200]": "`git theta prune`",
    "test_killed_at_any_moment[200]": "`git theta migrate`",
}
FLIPPED = {
    "test_objects[400]": "stored objects",
    "test_loose_manifests[400]": "manifests, loose in Git",
    "test_packed_manifests[400]": "manifests in a pack of Git's",
}
FUZZED = "test_every_parser_survives[5000]"


@dataclass(frozen=True)
class Case:
    """One test of a record."""

    passed: bool
    counts: dict[str, int]

    def count(self, name: str) -> int:
        """Something that it counted."""
        return self.counts.get(name, 0)


Cases = dict[str, Case]


def read(records: list[Path]) -> tuple[str, Cases]:
    """When the last one was made, and all tests that counted something, by name.

    Raises:
        RunError: there is no record.
    """
    day, cases = "", Cases()
    for record in records:
        if not record.exists():
            raise RunError(f"{record} is not there: make soak leaves it")
        for suite in ElementTree.parse(record).getroot().iter("testsuite"):  # noqa: S314 - our own
            day = max(day, suite.get("timestamp", "")[:10])
            for case in suite.iter("testcase"):
                found = case.iter("property")
                counts = {one.get("name", ""): int(one.get("value", 0)) for one in found}
                passed = not any(case.find(end) is not None for end in ("failure", "error"))
                if counts:
                    cases[case.get("name", "")] = Case(passed, counts)
    return day, cases


def _line(*cells: object, met: bool) -> str:
    return f"| {' | '.join(map(str, cells))} | {'met' if met else '**not met**'} |"


def _kills(cases: Cases) -> Iterator[str]:
    for test, command in COMMANDS.items():
        if (case := cases.get(test)) is None:
            yield _line(command, 0, 0, "was not run", met=False)
            continue
        kills, survived = case.count("kills"), case.count("survived")
        share = f"{survived / max(1, kills):.1%} = 100%, of {WANTED} or more"
        met = case.passed and kills == survived >= WANTED
        yield _line(command, kills, survived, share, met=met)


def _flips(cases: Cases) -> Iterator[str]:
    for test, what in FLIPPED.items():
        if (case := cases.get(test)) is None:
            yield _line(what, 0, 0, 0, 0, "was not run", met=False)
            continue
        harmless = case.count("harmless")
        flips, ours, git = (case.count(key) for key in ("flips", "found", "found by Git"))
        met = case.passed and flips == ours + git + harmless > 0
        share = f"{(ours + git) / max(1, flips - harmless):.1%} = 100%"
        yield _line(what, f"{flips:,}", f"{ours:,}", f"{git:,}", harmless, share, met=met)


def _files(cases: Cases) -> Iterator[str]:
    case = cases.get(FUZZED, Case(False, {}))
    ends = ("read", "refused", "not survived")
    for name in sorted({key.rpartition(": ")[0] for key in case.counts}):
        read, refused, not_survived = (case.count(f"{name}: {end}") for end in ends)
        whole = read + refused + not_survived
        share = f"{(read + refused) / max(1, whole):.1%} = 100%"
        met = whole > 0 and not not_survived
        yield _line(name, f"{read:,}", f"{refused:,}", share, met=met)
    if not case.counts:
        yield _line("all", 0, 0, "was not run", met=False)


def written(box: Sandbox, records: list[Path]) -> str:
    """What the records count, in Markdown."""
    day, cases = read(records)
    heads = (
        "killed | while it ran: | survived: | against the bar |  ",
        "a bit flipped in | flips: | by fsck: | by Git's sum: | no damage: | against the bar |  ",
        "broken files for the reader of | read: | refused: | survived |  ",
    )
    found = (_kills(cases), _flips(cases), _files(cases))
    tables = "\n".join(table(head, lines) for head, lines in zip(heads, found, strict=True))
    return f"Counted on {day} by `make soak` on: {machine(box)}.\n\n{tables}"


def main() -> int:
    """Write the page."""
    from benchmarks.run import PAGE

    try:
        with sandbox() as box:
            text = written(box, [Path(name) for name in sys.argv[1:]] or [RECORD])
    except RunError as error:
        print(f"trust: {error}", file=sys.stderr)
        return 1
    PAGE.write_text(replaced(PAGE.read_text(), NAME, text))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
