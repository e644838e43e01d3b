"""What a merge strategy is: its parameters, its needs, and a function of one tensor's versions.

A strategy is a frozen dataclass whose fields are its parameters. It sees one tensor at a time,
never a model, so that what a merge holds in memory is bounded. The engine reads the tensors,
brings them to the compute dtype and device, and rounds the result once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a strategy cannot do without, so that it can be refused before anything is read.

    `models` is the least and the greatest number of models (None: any). `scope` is what it must
    see at once: "element" any slice of a tensor, and each entry of the result depends on the same
    entry of the inputs alone; "tensor" a whole tensor; "model" something of every tensor before
    the first can be merged (it then has `survey` and `conclude`). `statistics` names side-cars
    that each model must have ("fisher", "gram"). `double` asks for float64 instead of float32.
    `ordered` says that the order of the models matters, `seeded` that it draws random numbers,
    `every` that it must be given tensors that only one side changed as well. `widens` asks for
    whole tensors in the dtype in which they are stored: the strategy widens them itself, block by
    block, which takes half the memory where they are stored in two bytes.

    `arrays` says that torch is not needed on the CPU. A strategy of scope "element" is then given
    numpy arrays there, of entries in any order; it uses operators that do the same, bit for bit,
    to arrays and to torch tensors, and lets a NaN or an infinity among its inputs show in the
    result. One of scope "tensor" is a sum of the models times factors, and has a method `factors`
    that works these out from their inner products, a list of rows.
    """

    base: Literal["required", "optional", "unused"] = "unused"
    models: tuple[int, int | None] = (2, None)
    scope: Literal["element", "tensor", "model"] = "element"
    statistics: tuple[str, ...] = ()
    double: bool = False
    ordered: bool = False
    seeded: bool = False
    every: bool = False
    widens: bool = False
    arrays: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """One tensor in all versions that are merged, in the compute dtype and on the device.

    For scope "element" the tensors are 1-D slices that begin at entry `start` of the flattened
    tensor; otherwise they have the tensor's `shape` and `start` is 0. `base` is None where there
    is no ancestor. `statistics` has, per kind, one tensor (or None) for each model. `gathered` is
    what `conclude` returned. `uniform(i)` draws numbers in [0, 1) for model i, shaped like it:
    a function of seed, tensor name, model and entry alone, so neither device, nor order, nor
    slicing changes a bit. All tensors are lent for one call.
    """

    name: str
    shape: tuple[int, ...]
    models: tuple[Tensor, ...]
    base: Tensor | None = None
    start: int = 0
    statistics: Mapping[str, tuple[Tensor | None, ...]] = field(default_factory=dict)
    gathered: Any = None
    uniform: Callable[[int, int, int], Tensor] | None = None


class Strategy(Protocol):
    """A way to merge. `name` and `version` go into recipes: same version, same numbers.

    A plug-in is a frozen dataclass of JSON values with defaults; a parameter without a default is
    one the user must set. `version` rises whenever results change.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    needs: ClassVar[Needs]

    def merge(self, versions: Versions) -> Tensor:
        """The merged tensor (or slice), shaped like the inputs, in the compute dtype.

        Raises:
            MergeError: these tensors cannot be merged so; the message says why.
        """
        ...


class Surveying(Strategy, Protocol):
    """A strategy that looks at every tensor before it merges the first, `rounds` times.

    `rounds` may depend on the parameters; with 0, `merge` finds None in `gathered`. In one round
    the engine calls `survey` for every tensor that will be merged, in order of name, then
    `conclude` once; what that returns is `gathered` in the next round and, after the last, in
    `merge`.
    """

    @property
    def rounds(self) -> int: ...

    def survey(self, versions: Versions, so_far: Any) -> Any:
        """What is known after one more whole tensor; `so_far` is None at the first of a round.

        What it returns stays in memory, so it is small: sums and counts, not entries.
        """
        ...

    def conclude(self, so_far: Any) -> Any:
        """What one round says; `so_far` is None where there was no tensor."""
        ...
