"""Adapters: what a file of factors, scales or entries means for the tensors of a model.

Understood are PEFT's LoRA and IA3, and bare files whose tensors are called after those that they
change. Only names, shapes and the configuration are looked at here; nothing of a model is. What
cannot be understood whole is refused whole, with a list of what did not fit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from git_theta.core.layout import TensorView
from git_theta.core.peft import (
    PEFT_PREFIX,
    LoraConfig,
    Misfits,
    check_supported,
    flag,
    refuse,
)
from git_theta.core.values import is_float, is_integer

_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.(?P<adapter>[^.]+))?\.weight\Z", re.S)
_EMBEDDING = re.compile(
    r"(?P<module>.+)\.lora_embedding_(?P<side>[AB])(?:\.(?P<adapter>[^.]+))?\Z", re.S
)
_IA3 = re.compile(r"(?P<module>.+)\.ia3_l(?:\.(?P<adapter>[^.]+))?\Z", re.S)
_BARE = re.compile(r"(?P<name>.+)[./](?P<part>A|B|R|C|alpha|indices|values)\Z", re.S)


@dataclass(frozen=True, slots=True)
class LowRank:
    """`scale * up @ down` is added; both are names of tensors in the adapter.

    `turned` says that it is the transpose of the product that is added.
    """

    module: str
    down: str
    up: str
    scale: float
    turned: bool = False


@dataclass(frozen=True, slots=True)
class Scaling:
    """Rows (axis 0) or columns (axis 1) are multiplied by a vector.

    `outputs` says that it scales what comes out of the module, its bias included.
    """

    module: str
    vector: str
    axis: int
    outputs: bool


@dataclass(frozen=True, slots=True)
class Entries:
    """Values are added to some entries."""

    module: str
    indices: str
    values: str


Scalar: TypeAlias = Callable[[str], float | None]
Change: TypeAlias = LowRank | Scaling | Entries


@dataclass(frozen=True, slots=True)
class Adapter:
    """The changes of one file, by kind of update; `named` says that modules may be tensors' names.

    `kind` is that of the update that stores such changes best.
    """

    kind: str
    changes: tuple[Change, ...]
    named: bool


# --- the tensors ---------------------------------------------------------------------------------


def read_peft(config: Mapping[str, Any], tensors: Mapping[str, TensorView]) -> Adapter:
    """The changes that a PEFT adapter makes, modules named as in the base model.

    Raises:
        FormatError: the configuration is damaged.
        RefusedError: it is of a kind that is not supported, or something does not fit.
    """
    if check_supported(config) == "IA3":
        return _read_ia3(config, tensors)
    lora = LoraConfig.of(config)
    sides: dict[tuple[str, bool], dict[str, str]] = {}
    adapters: set[str] = set()
    misfits = Misfits("the adapter holds what cannot be merged:")
    for name in tensors:
        match = _LORA.match(name) or _EMBEDDING.match(name)
        if match is None:
            misfits.add(name)
            continue
        adapters.add(match["adapter"] or "")
        module = match["module"].removeprefix(PEFT_PREFIX)
        parts = sides.setdefault((module, match.re is _EMBEDDING), {})
        if match["side"] in parts:
            misfits.add(f"{name}: twice")
        parts[match["side"]] = name
    _check_one(adapters, misfits)
    changes: list[Change] = []
    for (module, embedding), parts in sides.items():
        if len(parts) != 2:
            misfits.add(f"{module}: only {' and '.join(parts.values())}")
            continue
        rank = lora.rank_of(module)
        turned = embedding or lora.turned
        change = LowRank(module, parts["A"], parts["B"], lora.scale_of(module, rank), turned)
        _check_factors(change, tensors, rank, misfits)
        changes.append(change)
    misfits.settle()
    return _adapter("low-rank", changes, named=False)


def _check_one(adapters: set[str], misfits: Misfits) -> None:
    if len(adapters) > 1:
        misfits.add(f"several adapters in one file: {', '.join(sorted(adapters))}")


def _check_factors(
    change: LowRank, tensors: Mapping[str, TensorView], rank: int | None, misfits: Misfits
) -> None:
    """See that two factors belong together and have the rank that was promised."""
    down, up = tensors[change.down], tensors[change.up]
    for factor in (down, up):
        if not is_float(factor.dtype):
            misfits.add(f"{factor.name}: {factor.dtype} numbers are not understood")
    flat = len(down.shape) >= 2 and len(up.shape) >= 2 and math.prod(up.shape[2:]) == 1
    if not flat or down.shape[0] != up.shape[1] or not down.shape[0]:
        misfits.add(f"{change.module}: factors of {list(down.shape)} and {list(up.shape)}")
    elif rank is not None and down.shape[0] != rank:
        misfits.add(f"{change.module}: rank {down.shape[0]}, but the configuration says {rank}")


def _read_ia3(config: Mapping[str, Any], tensors: Mapping[str, TensorView]) -> Adapter:
    misfits = Misfits("the adapter holds what cannot be merged:")
    changes: list[Change] = []
    adapters: set[str] = set()
    forward = config.get("feedforward_modules")
    turned = flag(config, "fan_in_fan_out")
    for name, tensor in tensors.items():
        match = _IA3.match(name)
        if match is None:
            misfits.add(name)
            continue
        adapters.add(match["adapter"] or "")
        module = match["module"].removeprefix(PEFT_PREFIX)
        axis = _axis(tensor, _listed(forward, module))
        if axis is None or not is_float(tensor.dtype):
            misfits.add(f"{name}: {tensor.dtype} {list(tensor.shape)} is no scale of its module")
            continue
        changes.append(Scaling(module, name, 1 - axis if turned else axis, axis == 0))
    _check_one(adapters, misfits)
    misfits.settle()
    return _adapter("ia3", changes, named=False)


def _listed(forward: Any, module: str) -> bool | None:
    """Whether a list of feed-forward modules names this one; None for what is no list."""
    if not isinstance(forward, list):
        return None
    return any(isinstance(name, str) and module.endswith(name) for name in forward)


def _axis(vector: TensorView, forward: bool | None) -> int | None:
    """What a vector scales: inputs are a row of numbers, outputs a column."""
    shape = vector.shape
    if len(shape) != 2 or 1 not in shape:
        return None
    if shape == (1, 1):
        return 1 if forward else 0
    axis = 1 if shape[0] == 1 else 0
    return axis if forward in (None, axis == 1) else None


def read_bare(tensors: Mapping[str, TensorView], scalar: Scalar) -> Adapter:
    """The changes of a file without a configuration: NAME.A and NAME.B, NAME.indices and so on.

    `scalar` reads a tensor of one number by its name.

    Raises:
        RefusedError: something in the file is not understood.
    """
    if any(pattern.match(name) for name in tensors for pattern in (_LORA, _EMBEDDING, _IA3)):
        refuse(
            "a PEFT adapter, whose scale is in its configuration, which is not here",
            (),
            hint="give the directory with adapter_config.json in it",
        )
    misfits = Misfits("the file holds what is not understood:")
    groups: dict[str, dict[str, str]] = {}
    for name in tensors:
        match = _BARE.match(name)
        if match is None:
            misfits.add(name)
        elif match["part"] in groups.setdefault(match["name"], {}):
            misfits.add(f"{name}: twice")
        else:
            groups[match["name"]][match["part"]] = name
    changes: list[Change] = []
    for name, parts in groups.items():
        change = _bare_change(name, parts, tensors, scalar, misfits)
        if change is not None:
            changes.append(change)
    kinds = {type(change) for change in changes}
    if len(kinds) > 1:
        misfits.add("factors and entries in one file")
    misfits.settle()
    return _adapter("sparse" if kinds == {Entries} else "low-rank", changes, named=True)


def _bare_change(
    name: str,
    parts: Mapping[str, str],
    tensors: Mapping[str, TensorView],
    scalar: Scalar,
    misfits: Misfits,
) -> Change | None:
    have = set(parts)
    if have == {"indices", "values"}:
        entries = Entries(name, parts["indices"], parts["values"])
        _check_entries(entries, tensors, misfits)
        return entries
    pair = ("B", "A") if "A" in have else ("R", "C")
    if have - {"alpha"} != set(pair):
        misfits.add(f"{name}: only {' and '.join(parts.values())}")
        return None
    low = LowRank(name, parts[pair[1]], parts[pair[0]], 1.0)
    before = len(misfits.lines)
    _check_factors(low, tensors, None, misfits)
    if "alpha" not in parts or len(misfits.lines) > before:
        return low
    alpha = scalar(parts["alpha"])
    if alpha is None:
        misfits.add(f"{parts['alpha']}: not one number")
        return None
    return LowRank(name, low.down, low.up, alpha / max(1, tensors[low.down].shape[0]))


def _check_entries(change: Entries, tensors: Mapping[str, TensorView], misfits: Misfits) -> None:
    indices, values = tensors[change.indices], tensors[change.values]
    if not is_integer(indices.dtype) or len(indices.shape) not in (1, 2):
        misfits.add(f"{indices.name}: {indices.dtype} {list(indices.shape)} are no indices")
    elif not is_float(values.dtype) or values.shape != indices.shape[:1]:
        misfits.add(f"{values.name}: {values.dtype} {list(values.shape)} for {list(indices.shape)}")


def _adapter(kind: str, changes: list[Change], *, named: bool) -> Adapter:
    if not changes:
        refuse("the adapter changes nothing: no tensor of it is understood", ())
    return Adapter(kind, tuple(changes), named)


# --- the model -----------------------------------------------------------------------------------


def targets(adapter: Adapter, model: Iterable[str]) -> dict[str, Change]:
    """Find the tensor of the model that each change is for: name -> change.

    Modules keep their names, or all lose their first part, or all get one in front, whatever the
    model has. What fits in two ways is refused like what fits in none.

    Raises:
        RefusedError: with the list of what did not fit.
    """
    names = set(model)
    modules = [change.module for change in adapter.changes]
    found = {way: _placed(modules, names, way, named=adapter.named) for way in _ways(names)}
    way, same = "", found[""]
    if len(same) < len(modules):
        whole = {w: tuple(f.values()) for w, f in found.items() if len(f) == len(modules)}
        if len(set(whole.values())) > 1:
            shown = [f"{modules[0]}: {places[0]}" for places in sorted(set(whole.values()))]
            refuse("the adapter fits the model in more than one way:", shown)
        way = next(iter(whole), max(found, key=lambda w: len(found[w])))
        same = found[way]
    missing = [module for module in modules if module not in same]
    if missing:
        refuse(f"{len(missing)} of {len(modules)} modules are not in the model:", missing)
    by_target: dict[str, Change] = {}
    for change in adapter.changes:
        target = same[change.module]
        if target in by_target:
            refuse("two parts of the adapter are for one tensor:", [target])
        by_target[target] = change
    return by_target


def _ways(names: Iterable[str]) -> list[str]:
    """How modules may be renamed: not at all, without their first part, with one in front."""
    firsts = sorted({name.partition(".")[0] for name in names if "." in name})
    return ["", "-", *firsts]


def _placed(modules: Iterable[str], names: set[str], way: str, *, named: bool) -> dict[str, str]:
    """Modules that have a tensor, renamed in one way."""
    found = {}
    for module in modules:
        renamed = module
        if way == "-":
            renamed = module.partition(".")[2]
        elif way:
            renamed = f"{way}.{module}"
        for target in ([renamed] if named else []) + [f"{renamed}.weight"]:
            if target in names:
                found[module] = target
                break
    return found
