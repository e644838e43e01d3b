"""A model at large: parameters, dtypes, kinds of updates, largest tensors, a tree of modules."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from git_theta.commands.terminal import count, printable, size_text
from git_theta.core.folding import fold
from git_theta.core.manifest import Manifest, Tensor

_LARGEST = 5
_DEEPEST = 40


@dataclass(slots=True)
class _Sum:
    tensors: int = 0
    parameters: int = 0
    size: int = 0

    def add(self, tensor: Tensor) -> None:
        self.tensors += 1
        self.parameters += math.prod(tensor.shape)
        self.size += tensor.segment.size

    def to_dict(self) -> dict[str, int]:
        return {"tensors": self.tensors, "parameters": self.parameters, "bytes": self.size}


def totals(manifest: Manifest) -> dict[str, Any]:
    """Sums over all tensors, for JSON and for the last lines of `show`.

    Tensors that share their bytes count once among the parameters.
    """
    whole = _Sum()
    dtypes: dict[str, _Sum] = defaultdict(_Sum)
    kinds: dict[str, _Sum] = defaultdict(_Sum)
    seen: set[tuple[Any, ...]] = set()
    for tensor in manifest.tensors.values():
        key = (tensor.segment.digest, tensor.offset, tensor.shape, tensor.strides)
        if tensor.shared and key in seen:
            continue
        seen.add(key)
        whole.add(tensor)
        dtypes[tensor.dtype].add(tensor)
        for kind in {chunk.kind for chunk in tensor.segment.chunks}:
            kinds[kind].add(tensor)
    largest = sorted(manifest.tensors.items(), key=lambda item: (-item[1].segment.size, item[0]))
    return {
        "parameters": whole.parameters,
        "dtypes": {name: dtypes[name].to_dict() for name in sorted(dtypes)},
        "updates": {name: kinds[name].to_dict() for name in sorted(kinds)},
        "largest": [name for name, _ in largest[:_LARGEST]],
    }


def total_lines(manifest: Manifest) -> Iterator[str]:
    """The totals for people."""
    found = totals(manifest)
    if not manifest.tensors:
        return
    told = [
        f"{printable(name)} {count_text(sums['parameters'])} in {count(sums['tensors'], 'tensor')}"
        for name, sums in found["dtypes"].items()
    ]
    yield f"{count_text(found['parameters'])} parameters: {', '.join(told)}"
    kinds = ", ".join(f"{entry['tensors']:,} {name}" for name, entry in found["updates"].items())
    yield f"stored as: {kinds}"
    named = (
        f"{printable(name)} ({size_text(manifest.tensors[name].segment.size)})"
        for name in found["largest"]
    )
    yield f"largest: {', '.join(named)}"


def count_text(number: int) -> str:
    """A count for people: 768, 22.7 M, 1.5 B."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**4)):
        if number >= size:
            return f"{number / (1000 if unit == 'k' else size):.1f} {unit}"
    return f"{number:,}"


# --- by module -----------------------------------------------------------------------------------


@dataclass(eq=False)
class _Node:
    """A module: what is in it, and the tensor if it is one."""

    name: str
    sum: _Sum = field(default_factory=_Sum)
    below: dict[str, _Node] = field(default_factory=dict)
    tensor: Tensor | None = None

    def alike(self) -> tuple[Any, ...]:
        """What two numbered blocks must have in common to be shown as one."""
        own = (self.tensor.dtype, self.tensor.shape) if self.tensor is not None else None
        return (own, tuple((name, node.alike()) for name, node in self.below.items()))


def tree_lines(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """The model as a tree of modules; numbered blocks that are alike share a line."""
    root = _Node("")
    for name, tensor in sorted(tensors.items()):
        at = root
        at.sum.add(tensor)
        for part in name.split(".", _DEEPEST):
            at = at.below.setdefault(part, _Node(part))
            at.sum.add(tensor)
        at.tensor = tensor
    yield from _below(root, "")


def _below(node: _Node, indent: str) -> Iterator[str]:
    children = fold(
        sorted(node.below.values(), key=lambda child: _natural(child.name)),
        lambda child: child.name,
        _Node.alike,
    )
    for folded in children:
        first, name = folded.items[0], printable(folded.name)
        while first.tensor is None and len(first.below) == 1 and len(folded.items) == 1:
            (first,) = first.below.values()
            name += f".{printable(first.name)}"
        if len(folded.items) > 1:
            name += f" ({len(folded.items)} alike)"
        yield f"{indent}{name}  {_told(first, [child.sum for child in folded.items])}"
        yield from _below(first, indent + "  ")


def _natural(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdecimal() and len(name) < 10 else (-1, name)


def _told(node: _Node, sums: list[_Sum]) -> str:
    size = size_text(sum(one.size for one in sums))
    if node.tensor is not None and not node.below:
        shape = "x".join(map(str, node.tensor.shape)) or "scalar"
        return f"{shape} {printable(node.tensor.dtype)}, {size}"
    parameters = count_text(sum(one.parameters for one in sums))
    return f"{count(sum(one.tensors for one in sums), 'tensor')}, {parameters} parameters, {size}"
