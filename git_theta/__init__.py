"""Version model checkpoints with Git, tensor by tensor.

`open` reads a version of a checkpoint tensor by tensor; `diff` and `log` are the commands of these
names as functions that return records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from git_theta.commands.api import LogEntry, ModelDiff, OpenModel, diff, log, open  # noqa: A004

__version__ = "0.1.0"
__all__ = ["LogEntry", "ModelDiff", "OpenModel", "diff", "log", "open"]


def __getattr__(name: str) -> Any:
    """Import what is public only when it is asked for: Git starts this package all the time."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from git_theta.commands import api

    return getattr(api, name)
