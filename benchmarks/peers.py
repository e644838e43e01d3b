"""To be written."""

from __future__ import annotations

from benchmarks.report import Section
from benchmarks.sandbox import Sandbox


def measure(box: Sandbox, rounds: int, scale: float) -> Section:
    """Nothing yet."""
    return Section("")
