"""Contract tests for authors of plug-ins: subclass a contract, and pytest runs the laws.

    class TestMyFormat(FormatContract):
        format = MyFormat()

        def files(self):
            return [Path("small.mine").read_bytes()]

Needs pytest and hypothesis; nothing else in git-theta imports this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from git_theta.testing.chunks import Version, version, versions
from git_theta.testing.formats import BytesReader, FormatContract, SplitFormatContract, pieces
from git_theta.testing.metrics import MetricContract, estimated, measured
from git_theta.testing.updates import UpdateContract

if TYPE_CHECKING:
    from git_theta.testing.strategies import StrategyContract, Tensors, merged

__all__ = [
    "BytesReader",
    "FormatContract",
    "MetricContract",
    "SplitFormatContract",
    "StrategyContract",
    "Tensors",
    "UpdateContract",
    "Version",
    "estimated",
    "measured",
    "merged",
    "pieces",
    "version",
    "versions",
]


def __getattr__(name: str) -> Any:
    """Reach the laws of strategies, which need torch, only where they are asked for."""
    if name not in __all__:
        raise AttributeError(name)
    from git_theta.testing import strategies

    return getattr(strategies, name)
