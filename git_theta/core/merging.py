"""What a merge has to do, tensor by tensor, planned from manifests alone.

Nothing is read here. A unit is what is merged at once: a tensor, or a storage that several tied
tensors share. Each becomes a step: take a version as it is stored, merge with a strategy, or leave
a conflict, with a reason for the user.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from git_theta.core import threeway
from git_theta.core.dtypes import DTYPES, FLOAT, SIGNED, UNSIGNED, nbytes
from git_theta.core.manifest import Manifest, Segment, Tensor
from git_theta.core.threeway import Fate, Verdict

BASE = -1
FLOATS = frozenset(
    {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}
)
Action = Literal["take", "merge", "largest", "conflict"]
Mismatch = Literal["rows", "conflict", "ours", "theirs", "base"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One tensor, or tied tensors, in all versions; None where a version has none of the names.

    `split` says that the names are tied in one version and hold different bytes in another.
    """

    name: str
    names: tuple[str, ...]
    base: Tensor | None
    models: tuple[Tensor | None, ...]
    verdict: Verdict
    split: bool = False

    def version(self, index: int) -> Tensor | None:
        """The version of a model, or of the ancestor (`BASE`)."""
        return self.base if index == BASE else self.models[index]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A strategy with its parameters, as one tensor gets it; `note` says why, if not asked for."""

    strategy: Any
    parameters: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What happens to one unit.

    A `take` is of the version `winner`. A `merge` makes a tensor of `dtype` and `shape` from the
    first `rows` rows of each version (all, where it is None); the rows behind come from `winner`.
    """

    unit: Unit
    action: Action
    winner: int = 0
    chosen: Chosen | None = None
    dtype: str = ""
    shape: tuple[int, ...] = ()
    rows: int | None = None
    reason: str = ""
    note: str = ""


Choose = Callable[[str], Chosen | None]


# --- units ---------------------------------------------------------------------------------------


def units(base: Manifest | None, models: Sequence[Manifest]) -> list[Unit]:
    """Everything that the versions name, in order of name."""
    versions = [*models] if base is None else [base, *models]
    groups = _groups(versions)
    seen: set[str] = set()
    found = []
    for name in sorted({name for version in versions for name in version.tensors}):
        if name not in seen:
            names = groups.get(name, (name,))
            seen.update(names)
            found.append(_unit(names, base, models))
    return found


def _groups(versions: Sequence[Manifest]) -> dict[str, tuple[str, ...]]:
    """Names that share bytes in any version, joined."""
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.get(name, name) != name:
            name = leader[name]
        return name

    for version in versions:
        tied: dict[str, list[str]] = {}
        for name, tensor in version.tensors.items():
            if tensor.shared:
                tied.setdefault(tensor.segment.digest, []).append(name)
        for names in tied.values():
            for name in names[1:]:
                leader[find(name)] = find(names[0])
    members: dict[str, list[str]] = {}
    for name in sorted({*leader, *leader.values()}):
        members.setdefault(find(name), []).append(name)
    return {name: tuple(names) for names in members.values() for name in names}


def _unit(names: tuple[str, ...], base: Manifest | None, models: Sequence[Manifest]) -> Unit:
    before = _version(names, base)
    sides = [_version(names, model) for model in models]
    verdict = threeway.classify(_identity(before), [_identity(side) for side in sides])
    present = [side for side in (before, *sides) if side]
    split = any(len({t.segment.digest for t in side.values()}) > 1 for side in present)
    return Unit(
        name=names[0],
        names=names,
        base=_whole(before),
        models=tuple(map(_whole, sides)),
        verdict=verdict,
        split=split or any(len(side) != len(names) for side in present),
    )


def _version(names: Sequence[str], manifest: Manifest | None) -> dict[str, Tensor]:
    if manifest is None:
        return {}
    return {name: manifest.tensors[name] for name in names if name in manifest.tensors}


def _identity(version: Mapping[str, Tensor]) -> tuple[Any, ...] | None:
    if not version:
        return None
    return tuple((name, threeway.identity(tensor)) for name, tensor in version.items())


def _whole(version: Mapping[str, Tensor]) -> Tensor | None:
    """The tensor that stands for the storage: one that fills it in order, else a flat one."""
    if not version:
        return None
    for tensor in version.values():
        if is_whole(tensor):
            return tensor
    first = next(iter(version.values()))
    if any(t.dtype != first.dtype for t in version.values()):
        return first
    known = DTYPES.get(first.dtype)
    count = 0 if known is None else first.segment.size * 8 // known.bits
    return first._replace(shape=(count,), offset=0, strides=None)


def is_whole(tensor: Tensor) -> bool:
    """Whether a tensor is all of its storage, in order."""
    plain = tensor.strides is None or tensor.strides == contiguous(tensor.shape)
    return (
        plain and tensor.offset == 0 and nbytes(tensor.dtype, tensor.shape) == tensor.segment.size
    )


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a tensor in C order."""
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(step)
        step *= max(length, 1)
    return tuple(reversed(strides))


# --- steps ---------------------------------------------------------------------------------------


def plan(
    found: Sequence[Unit], choose: Choose, *, everything: bool = False, mismatch: Mismatch = "rows"
) -> list[Step]:
    """One step for each unit.

    `choose` names the strategy for a tensor (None: there is none, so it stays a conflict).
    `everything` gives strategies what only one side changed, too.
    """
    return [_step(unit, choose, everything, mismatch) for unit in found]


def _step(unit: Unit, choose: Choose, everything: bool, mismatch: Mismatch) -> Step:
    verdict = unit.verdict
    if verdict.fate is Fate.UNCHANGED:
        return Step(unit=unit, action="take", winner=0)
    if verdict.winner is not None:
        step = _seen(unit, choose, everything, mismatch)
        if step is not None and step.action == "merge":
            return step
        return Step(unit=unit, action="take", winner=verdict.winner)
    chosen = choose(unit.name)
    if chosen is None:
        return _conflict(unit, verdict.fate.value)
    return _settle(unit, chosen, mismatch)


def _seen(unit: Unit, choose: Choose, everything: bool, mismatch: Mismatch) -> Step | None:
    """A tensor that needs no strategy, but whose strategy may ask to see it."""
    chosen = choose(unit.name)
    if chosen is None or _takes(chosen):
        return None
    needs = chosen.strategy.needs
    if not (everything or needs.every or needs.scope == "model"):
        return None
    return _settle(unit, chosen, mismatch)


def _takes(chosen: Chosen) -> str:
    """The side that a strategy takes as it is; empty for one that computes."""
    side: str = getattr(chosen.strategy, "takes", "")
    return side


def _conflict(unit: Unit, reason: str) -> Step:
    return Step(unit=unit, action="conflict", reason=reason)


def _settle(unit: Unit, chosen: Chosen, mismatch: Mismatch) -> Step:
    """What a strategy makes of a unit that it has to settle."""
    takes = _takes(chosen)
    if takes:
        return _taken(unit, takes, chosen)
    present = [t for t in unit.models if t is not None]
    versions = present if unit.base is None else [unit.base, *present]
    reason = _obstacle(unit, present)
    if reason:
        return _conflict(unit, reason)
    if any(tensor.dtype not in FLOATS for tensor in versions):
        return _not_floats(unit, versions, chosen)
    if chosen.strategy.needs.base == "required" and unit.base is None:
        name = chosen.strategy.name
        return _conflict(unit, f"added on both sides, and {name} needs an ancestor")
    if any(tensor.shape != versions[0].shape for tensor in versions):
        return _reshaped(unit, versions, chosen, mismatch)
    return _merged(unit, versions[0], chosen)


def _obstacle(unit: Unit, present: Sequence[Tensor]) -> str:
    """Why no strategy can merge a unit, or nothing."""
    if len(present) != len(unit.models):
        return f"{unit.verdict.fate.value}: it is not in every model"
    if unit.split:
        return "tied to another tensor on one side only"
    versions = present if unit.base is None else [unit.base, *present]
    if not all(map(is_whole, versions)) and len({(t.offset, t.strides) for t in versions}) > 1:
        return "it lies differently in the file on the two sides"
    return ""


def _taken(unit: Unit, takes: str, chosen: Chosen, note: str = "") -> Step:
    winner = {"ours": 0, "theirs": 1, "base": BASE}[takes]
    return Step(unit=unit, action="take", winner=winner, chosen=chosen, note=note)


def _merged(unit: Unit, like: Tensor, chosen: Chosen) -> Step:
    return Step(unit=unit, action="merge", chosen=chosen, dtype=like.dtype, shape=tuple(like.shape))


def _not_floats(unit: Unit, versions: Sequence[Tensor], chosen: Chosen) -> Step:
    kinds = {DTYPES[t.dtype].kind if t.dtype in DTYPES else "" for t in versions}
    alike = len({(t.dtype, t.shape) for t in versions}) == 1
    if kinds <= {SIGNED, UNSIGNED} and alike and math.prod(versions[0].shape) == 1:
        note = "a counter: the largest was taken"
        return Step(unit=unit, action="largest", chosen=chosen, note=note)
    dtypes = ", ".join(sorted({t.dtype for t in versions}))
    if FLOAT in kinds and len(kinds) > 1:
        return _conflict(unit, f"of different kinds ({dtypes}); choose a side")
    return _conflict(unit, f"its numbers ({dtypes}) cannot be merged; choose a side")


def _reshaped(unit: Unit, versions: Sequence[Tensor], chosen: Chosen, mismatch: Mismatch) -> Step:
    shapes = " and ".join(str(list(s)) for s in dict.fromkeys(t.shape for t in versions))
    if mismatch in ("ours", "theirs", "base"):
        return _taken(unit, mismatch, chosen, f"its shapes differ ({shapes}): {mismatch} was taken")
    same_rows = len({t.shape[1:] for t in versions}) == 1 and all(t.shape for t in versions)
    if mismatch == "conflict" or not same_rows:
        return _conflict(unit, f"its shapes differ: {shapes}")
    base = unit.base.shape[0] if unit.base is not None else None
    grown = threeway.classify(base, [t.shape[0] for t in unit.models if t is not None])
    if grown.winner is None:
        return _conflict(unit, f"both sides changed its number of rows: {shapes}")
    winner = versions[grown.winner + (unit.base is not None)]
    like = versions[0]
    return Step(
        unit=unit,
        action="merge",
        winner=grown.winner,
        chosen=chosen,
        dtype=like.dtype,
        shape=winner.shape,
        rows=min(min(t.shape[0] for t in versions), winner.shape[0]),
        note=f"merged by rows: {shapes} give {list(winner.shape)}",
    )


def segments_read(step: Step) -> list[Segment]:
    """What a step reads, besides statistics."""
    if step.action == "take" or step.action == "conflict":
        return []
    unit = step.unit
    versions = list(unit.models)
    if step.chosen is not None and step.chosen.strategy.needs.base != "unused":
        versions.append(unit.base)
    return [tensor.segment for tensor in versions if tensor is not None]
