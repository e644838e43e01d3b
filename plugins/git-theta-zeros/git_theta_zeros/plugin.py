"""The metric: zeros are counted block by block."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from git_theta.core.metric import Answer, Block, Facts, Meter, Need, Pair, Value


class Zeros:
    """The share of values that are zero now, where a tensor changed; for models that are pruned."""

    name: ClassVar[str] = "zeros"
    title: ClassVar[str] = "ZEROS"
    needs: ClassVar[Need] = "weights"

    def value(self, facts: Facts) -> Value | None:  # noqa: ARG002
        """Say nothing without the weights: no summary counts zeros."""
        return None

    def meter(self, pair: Pair) -> Meter | None:
        """Count in every tensor that has values."""
        return _Count() if 0 not in pair.new.shape else None

    def text(self, value: Answer) -> str:
        """What the zeros are now, in percent."""
        return f"{100 * float(value):.3g} %"


class _Count:
    """Counts zeros in the blocks that changed."""

    def __init__(self) -> None:
        self._zeros = self._values = 0

    def add(self, block: Block) -> None:
        """Count in one block."""
        self._values += len(block.new)
        self._zeros += len(block.new) - int(np.count_nonzero(block.new))

    def result(self) -> Value | None:
        """The share; unknown where no block was seen."""
        return Value(self._zeros / self._values) if self._values else None
