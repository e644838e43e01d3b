"""The report of a conflict: which tensors, how far apart they are, and what settles it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from git_theta.commands.deciding import Decision
from git_theta.commands.merging import Outcome, Side
from git_theta.commands.reading import Source
from git_theta.commands.session import Session
from git_theta.commands.terminal import complain, count, printable
from git_theta.core.manifest import Tensor
from git_theta.core.merging import Step, Unit
from git_theta.core.sketch import floats
from git_theta.core.threeway import Fate
from git_theta.errors import ThetaError, shell_word

_SHOWN = 10
_NAMED = 3
_CHEAP = 256 << 20
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Distance:
    """How two changes of one tensor lie to each other; `signs` is the share that disagrees."""

    cosine: float
    signs: float
    ours: float
    theirs: float


def explain(
    session: Session,
    path: str,
    base: Side | None,
    sides: Sequence[Side],
    outcome: Outcome,
    decision: Decision,
) -> None:
    """Tell the user what conflicts and how to settle it."""
    complain(f"git theta: {printable(path)}: both sides changed this file")
    complain(f"  {_counted(outcome)}")
    conflicts = outcome.conflicts
    readable = sum(_bytes(step.unit) for step in conflicts[:_SHOWN]) <= _CHEAP
    versions = [*sides, *([base] if base else [])]
    source = Source(session, [side.manifest for side in versions])
    for step in conflicts[:_SHOWN]:
        far = measure(source, step.unit) if readable else None
        complain(f"  {printable(step.unit.name)}: {_line(step, far)}")
    if len(conflicts) > _SHOWN:
        complain(f"  and {len(conflicts) - _SHOWN:,} more")
    _advise(path, decision)


def explain_raw(path: str) -> None:
    """The same for a file of which one side was committed without git-theta."""
    complain(f"git theta: {printable(path)}: both sides changed this file")
    complain("  One side was committed without git-theta, so no tensors of it are known.")
    _advise(path, None)


def _counted(outcome: Outcome) -> str:
    names = [step.unit.name for step in outcome.conflicts]
    shown = ", ".join(map(printable, names[:_NAMED]))
    more = ", ..." if len(names) > _NAMED else ""
    named = f" ({shown}{more})" if names else ""
    one = [s for s in outcome.steps if s.unit.verdict.fate is Fate.ONE]
    ours = sum(step.unit.verdict.winner == 0 for step in one)
    return (
        f"{count(len(names), 'tensor')} changed on both sides{named}, "
        f"{ours} only on ours, {len(one) - ours} only on theirs"
    )


def _line(step: Step, far: Distance | None) -> str:
    if far is None:
        return step.reason
    return (
        f"{step.reason}; cosine of the changes {far.cosine:+.2f}, signs disagree in "
        f"{far.signs:.0%}, norms {far.ours:.3g} and {far.theirs:.3g}"
    )


def _advise(path: str, decision: Decision | None) -> None:
    quoted = shell_word(path)
    complain("  The work tree holds our side. To settle it:")
    if decision is not None:
        complain(f"  merge:  git theta resolve {quoted} --strategy average")
        complain("          (git theta merge --list names all strategies; then git commit)")
    for side in ("ours", "theirs"):
        complain(f"  {side + ':':8}git checkout --{side} -- {quoted} && git add -- {quoted}")


def _bytes(unit: Unit) -> int:
    return sum(tensor.segment.size for tensor in (unit.base, *unit.models) if tensor is not None)


def measure(source: Source, unit: Unit) -> Distance | None:
    """Cosine and signs of two changes, read exactly; None where they cannot be compared."""
    if unit.base is None or len(unit.models) != 2 or None in unit.models:
        return None
    tensors = [unit.base, *(tensor for tensor in unit.models if tensor is not None)]
    if len({(t.dtype, t.shape, t.segment.size) for t in tensors}) > 1:
        return None
    try:
        if source.missing(tensor.segment for tensor in tensors):
            return None
        return _measured(source, tensors)
    except ThetaError:
        return None


def _measured(source: Source, tensors: Sequence[Tensor]) -> Distance | None:
    found = [floats(source.whole(tensor.segment), tensor.dtype) for tensor in tensors]
    base, ours, theirs = found
    if base is None or ours is None or theirs is None:
        return None
    sums = np.zeros(5)
    with np.errstate(all="ignore"):
        for start in range(0, len(base), _BLOCK):
            part = slice(start, start + _BLOCK)
            one, other = _change(ours[part], base[part]), _change(theirs[part], base[part])
            moved = (one != 0) & (other != 0)
            opposed = moved & ((one > 0) != (other > 0))
            sums += [one @ other, one @ one, other @ other, moved.sum(), opposed.sum()]
        norms = np.sqrt(sums[1:3])
        product = norms[0] * norms[1]
    if not np.isfinite(sums).all():
        return None
    return Distance(
        cosine=float(sums[0] / product) if product else 0.0,
        signs=float(sums[4] / sums[3]) if sums[3] else 0.0,
        ours=float(norms[0]),
        theirs=float(norms[1]),
    )


def _change(new: Any, old: Any) -> Any:
    return new.astype(np.float64) - old
