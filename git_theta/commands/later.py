"""The merge driver while `git theta merge` has Git merge the other files: nothing to do, fast."""

from __future__ import annotations

from collections.abc import Sequence

from git_theta.settings import LATER, asked_to_merge

_WORDS = 5
_OUTERMOST = 7


def is_left(words: Sequence[str]) -> bool:
    """Whether what the driver is asked is to be left a conflict, which the caller settles itself.

    `words` are the driver's arguments. What is not as plain as that is left to the driver.
    """
    if asked_to_merge() != LATER or len(words) != _WORDS or not words[3].isdigit():
        return False
    from git_theta.core.sidecar import is_sidecar

    return int(words[3]) <= _OUTERMOST and not is_sidecar(words[4])
