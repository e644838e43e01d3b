"""What was built from `_loops.c`, which knows no numpy: who only writes files can have it alone."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def _built() -> ModuleType | None:
    try:
        return import_module("git_theta.core._loops")
    except ImportError:
        return None


LOOPS = _built()
"""The module, or None where no compiler built it."""
