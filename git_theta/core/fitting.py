"""An adapter laid on a model: every change checked against its tensor, then made an edit."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from git_theta.core.adapters import Adapter, Change, Entries, LowRank, Scaling, targets
from git_theta.core.dtypes import nbytes
from git_theta.core.edits import (
    Added,
    Edit,
    FactorUpdate,
    Multiplied,
    Product,
    Scaled,
    ScaleUpdate,
)
from git_theta.core.layout import Layout, TensorView
from git_theta.core.peft import Misfits
from git_theta.core.values import Doubles, Integers, is_float

_WEIGHT, _BIAS = ".weight", ".bias"


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """The adapter's tensors: what they are, how to read them, and the updates that store them."""

    tensors: Mapping[str, TensorView]
    floats: Callable[[str], Doubles]
    integers: Callable[[str], Integers]
    low_rank: Callable[[], FactorUpdate]
    ia3: Callable[[], ScaleUpdate]


def why_not_editable(layout: Layout) -> dict[str, str]:
    """Tensors that cannot be written on their own, with the reason."""
    sharers = Counter(tensor.segment for tensor in layout.tensors)
    found = {}
    for tensor in layout.tensors:
        size = layout.segments[tensor.segment].size
        if sharers[tensor.segment] > 1:
            found[tensor.name] = "shares its bytes with another tensor"
        elif not is_float(tensor.dtype):
            found[tensor.name] = f"has {tensor.dtype} numbers"
        elif tensor.strides is not None or tensor.offset:
            found[tensor.name] = "is a view of other bytes"
        elif nbytes(tensor.dtype, tensor.shape) != size:
            found[tensor.name] = "does not fill its bytes"
    return found


def lay(adapter: Adapter, layout: Layout, material: Material) -> dict[str, Edit]:
    """The edits that an adapter makes, by name of the tensor.

    Raises:
        RefusedError: something does not fit; the message lists all that does not.
    """
    model = {tensor.name: tensor for tensor in layout.tensors}
    found = targets(adapter, model)
    _check_all(found, layout, model, material)
    edits: dict[str, Edit] = {}
    misfits = Misfits("the adapter's numbers cannot be used:")
    for name, change in found.items():
        edits.update(_edits(change, model[name], model, material, misfits))
    misfits.settle()
    return edits


def _check_all(
    found: Mapping[str, Change],
    layout: Layout,
    model: Mapping[str, TensorView],
    material: Material,
) -> None:
    fixed = why_not_editable(layout)
    misfits = Misfits("the adapter does not fit the model:")
    for name, change in found.items():
        reason = fixed.get(name) or _misfit(change, model[name], material.tensors)
        if reason:
            misfits.add(f"{name} {reason}")
        bias = _bias_of(change, name, model)
        if bias is not None and bias.name in fixed:
            misfits.add(f"{bias.name} {fixed[bias.name]}")
    misfits.settle()


def _misfit(change: Change, target: TensorView, tensors: Mapping[str, TensorView]) -> str | None:
    """Why a change cannot be made to a tensor of this shape."""
    shape = target.shape
    if isinstance(change, LowRank):
        down, up = tensors[change.down].shape, tensors[change.up].shape
        made = (up[0], *down[1:])
        if change.turned:
            made = (*down[1:], up[0])
        same = made == shape if len(down) > 2 else _matrix(shape) == made
        return None if same else f"is {list(shape)}, the product {list(made)}"
    if isinstance(change, Scaling):
        length = math.prod(tensors[change.vector].shape)
        if len(shape) != 2 or shape[change.axis] != length:
            return f"is {list(shape)}, the scale has {length} numbers for dimension {change.axis}"
        return None
    indices = tensors[change.indices].shape
    if len(indices) == 2 and indices[1] != len(shape):
        return f"has {len(shape)} dimensions, the indices {indices[1]}"
    return None


def _matrix(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape with all dimensions after the first in one; a convolution of 1 x 1, say."""
    return (shape[0], math.prod(shape[1:])) if len(shape) >= 2 else shape


def _bias_of(change: Change, name: str, model: Mapping[str, TensorView]) -> TensorView | None:
    """The bias of a module whose outputs are scaled: it is an output too."""
    if not isinstance(change, Scaling) or not name.endswith(_WEIGHT):
        return None
    bias = model.get(name.removesuffix(_WEIGHT) + _BIAS)
    if bias is None or not change.outputs:
        return None
    return bias if bias.shape == model[name].shape[change.axis : change.axis + 1] else None


def _edits(
    change: Change,
    target: TensorView,
    model: Mapping[str, TensorView],
    material: Material,
    misfits: Misfits,
) -> dict[str, Edit]:
    if isinstance(change, Entries):
        added = _added(change, target, material, misfits)
        return {} if added is None else {target.name: added}
    names = [change.down, change.up] if isinstance(change, LowRank) else [change.vector]
    arrays = [material.floats(name) for name in names]
    for name, array in zip(names, arrays, strict=True):
        if not np.isfinite(array).all():
            misfits.add(f"{name} has numbers that are not finite")
    if isinstance(change, LowRank):
        down, up = arrays
        rank = material.tensors[change.down].shape[0]
        left, right = up.reshape(-1, rank), down.reshape(rank, -1)
        if change.turned:
            left, right = right.T, left.T
        return {target.name: Product(material.low_rank(), left * change.scale, right)}
    scale = arrays[0].reshape(-1)
    edits: dict[str, Edit] = {target.name: Scaled(material.ia3(), scale, change.axis)}
    bias = _bias_of(change, target.name, model)
    if bias is not None:
        edits[bias.name] = Multiplied(scale)
    return edits


def _added(
    change: Entries, target: TensorView, material: Material, misfits: Misfits
) -> Added | None:
    indices = material.integers(change.indices)
    values = material.floats(change.values)
    shape = target.shape
    counted = material.tensors[change.indices].shape
    many = indices.reshape(counted) if len(counted) == 2 else indices.reshape(-1, 1)
    lengths = np.array(shape if len(counted) == 2 else (math.prod(shape),), np.int64)
    if ((many < 0) | (many >= lengths)).any():
        misfits.add(f"{change.indices} points outside of {target.name}")
        return None
    steps = [math.prod(lengths[axis + 1 :].tolist()) for axis in range(len(lengths))]
    places = many @ np.array(steps, np.int64)
    order = np.argsort(places, kind="stable")
    places, values = places[order], values[order]
    if (np.diff(places) == 0).any():
        misfits.add(f"{change.indices} names an entry twice")
        return None
    if not np.isfinite(values).all():
        misfits.add(f"{change.values} has numbers that are not finite")
        return None
    return Added(places, values)
