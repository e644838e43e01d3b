"""How much a file may ask for: limits of which every reader knows, and which a user may move.

They hold for a whole process, like its memory: `enforce` says where to find them, `current` is what
readers ask. Nothing but a refusal depends on them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

KEYS = {
    "size": "theta.maxSize",
    "tensors": "theta.maxTensors",
    "header": "theta.maxHeader",
    "skeleton": "theta.maxSkeleton",
    "ratio": "theta.maxRatio",
    "nesting": "theta.maxNesting",
}


class Limits(NamedTuple):
    """Limits in force; the defaults fit models of some trillion parameters.

    `size` is the bytes of a file, as a manifest declares them. `tensors` counts those of one file,
    and the members of an archive. `header` is the bytes of a header, a directory or a pickle that
    is read as a whole. `skeleton` is the bytes of a file that are in no tensor. `ratio` is
    by how much a packed member of an archive may swell, `nesting` how deep objects may lie in
    one another.
    """

    size: int = 16 << 40
    tensors: int = 1_000_000
    header: int = 100_000_000
    skeleton: int = 2 << 30
    ratio: int = 200
    nesting: int = 200

    def told(self, field: str) -> str:
        """A limit as a message ends: its number and its key."""
        return f"the limit is {getattr(self, field):,} ({KEYS[field]})"


_DEFAULTS = Limits()
_source: Callable[[], Limits] = lambda: _DEFAULTS  # noqa: E731


def current() -> Limits:
    """The limits in force."""
    return _source()


def enforce(source: Callable[[], Limits]) -> None:
    """Say where the limits of this process come from; it is asked when one is needed."""
    global _source
    _source = source
