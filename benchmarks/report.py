"""Tables with a bar and a verdict in every row, and the page that they stand in."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import psutil

from benchmarks.sandbox import Sandbox

BEGIN, END = "<!-- measured {}: begin -->", "<!-- measured {}: end -->"


@dataclass(frozen=True)
class Row:
    """One line of the table: ours against a bar, and Git LFS beside it where it compares."""

    work: str
    model: str
    theirs: str
    ours: str
    value: float
    """What is held against the bar."""
    bar: float
    shown: str
    """The value and its bar, in words."""
    strict: bool = False
    """Whether the bar itself is too much."""

    @property
    def met(self) -> bool:
        """Whether the row holds."""
        return self.value < self.bar if self.strict else self.value <= self.bar

    def line(self) -> str:
        """The row in Markdown."""
        verdict = "met" if self.met else "**not met**"
        cells = (self.work, self.model, self.theirs, self.ours, self.shown, verdict)
        return f"| {' | '.join(cells)} |"


@dataclass(frozen=True)
class Section:
    """What one part of the benchmark found."""

    text: str
    """In Markdown, tables included."""
    rows: Sequence[Row] = field(default=())
    """All that is held against a bar, whether or not the text shows it so."""


def table(head: str, lines: Iterable[str]) -> str:
    """A Markdown table; the columns of `head` that end in a colon are figures."""
    titles = [title.strip() for title in head.split("|")]
    rule = ("---:" if title.endswith(":") else "---" for title in titles)
    top = " | ".join(title.rstrip(":") for title in titles)
    return "\n".join((f"| {top} |", f"|{'|'.join(rule)}|", *lines)) + "\n"


def in_megabytes(count: float) -> str:
    """A number of bytes in words."""
    return f"{count / 1e6:,.2f} MB"


def _processor() -> str:
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def machine(box: Sandbox) -> str:
    """Where and with what it was measured."""

    def version(*argv: str) -> str:
        text = subprocess.run(argv, env=box.env, check=True, capture_output=True, text=True).stdout
        return text.strip().removeprefix("git version ").split(" (")[0]

    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{_processor()}, {psutil.cpu_count()} cores, {memory:.0f} GiB of memory, "
        f"{platform.system()} {platform.release()}; Python {platform.python_version()}, "
        f"git {version('git', '--version')}, {version('git', 'lfs', 'version')}, "
        f"{version('git', 'theta', '--version')}"
    )


def headed(box: Sandbox, section: Section, command: str) -> str:
    """What was found, with when, how and where."""
    today = datetime.now(timezone.utc).date().isoformat()
    return f"Measured on {today} by `{command}` on: {machine(box)}.\n\n{section.text}"


def replaced(page: str, part: str, text: str) -> str:
    """The page with what one part measured exchanged."""
    begin, end = BEGIN.format(part), END.format(part)
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{text}{end}{after}"
