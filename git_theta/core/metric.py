"""What a metric of a difference is given, and what it answers. Metrics are plug-ins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from git_theta.core.manifest import Tensor

Numbers: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Answer: TypeAlias = float | int | str | bool

MANIFEST: Literal["manifest"] = "manifest"
SUMMARIES: Literal["summaries"] = "summaries"
WEIGHTS: Literal["weights"] = "weights"
Need: TypeAlias = Literal["manifest", "summaries", "weights"]


@dataclass(frozen=True, slots=True)
class Value:
    """What a metric says of one tensor.

    `error` is one standard deviation relative to the value; 0 says that the value is exact.
    """

    value: Answer
    error: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a tensor in two versions; None is what is not known.

    `count` is the number of values that were compared; `differing` counts those whose bits
    differ, `flips` those whose sign turned. `square`, `old_square` and `new_square` are the sums
    of squares of the difference and of both sides, over finite values; `largest` is the greatest
    absolute difference. `error` is one standard deviation of the norm of the difference relative
    to it, 0 where it was computed from the weights. `exact` says that the weights were read.
    `updates` maps each kind of update that stores the new side to its own parameters.
    """

    exact: bool
    count: int
    differing: int | None = None
    square: float | None = None
    old_square: float | None = None
    new_square: float | None = None
    largest: float | None = None
    flips: int | None = None
    old_nans: int | None = None
    new_nans: int | None = None
    old_infinities: int | None = None
    new_infinities: int | None = None
    error: float = 0.0
    updates: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One tensor in two versions, as a metric sees it. The shapes are the same."""

    name: str
    old: Tensor
    new: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The same run of elements of both sides, in C order; `start` is the index of the first.

    `difference` is new minus old. Values that are not finite stand as they are.
    """

    start: int
    old: Numbers
    new: Numbers
    difference: Numbers


class Meter(Protocol):
    """Sees one tensor block by block. Blocks that did not change may be left out."""

    def add(self, block: Block) -> None:
        """Look at a block; the arrays may not be kept or changed."""
        ...

    def result(self) -> Value | None:
        """What was found, once all blocks were seen."""
        ...


class Metric(Protocol):
    """One column of a difference.

    `name` is the key in JSON and a promise; `title` heads the column. `needs` says what the value
    is made from: the manifests alone, the summaries, or the weights. A metric that needs weights
    is asked only where they were read.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    needs: ClassVar[Need]

    def value(self, facts: Facts) -> Value | None:
        """The value from what is known, or None where that is too little."""
        ...

    def text(self, value: Answer) -> str:
        """The value as people read it."""
        ...


@runtime_checkable
class BlockMetric(Protocol):
    """A metric that looks at the weights itself; its meter's answer stands before `value`."""

    def meter(self, pair: Pair) -> Meter | None:
        """Begin with one tensor, or decline."""
        ...
