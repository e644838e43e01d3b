"""Contract tests for authors of plug-ins: subclass a contract, and pytest runs the laws.

    class TestMyFormat(FormatContract):
        format = MyFormat()

        def files(self):
            return [Path("small.mine").read_bytes()]

Needs pytest and hypothesis; nothing else in git-theta imports this package.
"""

from __future__ import annotations

from git_theta.testing.chunks import Version, version, versions
from git_theta.testing.formats import BytesReader, FormatContract, SplitFormatContract, pieces
from git_theta.testing.updates import UpdateContract

__all__ = [
    "BytesReader",
    "FormatContract",
    "SplitFormatContract",
    "UpdateContract",
    "Version",
    "pieces",
    "version",
    "versions",
]
