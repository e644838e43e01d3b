"""Manifests merged: several in, one out, and an account of what was done.

What no side changed, or one side alone, is taken as it is stored and never read. Only what a
strategy has to settle is read, merged and stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from git_theta.commands.session import Session
from git_theta.commands.sides import NOTHING_ELSE, Outcome, Side, Wanted
from git_theta.commands.strategies import Chooser, strategy_needs
from git_theta.core.clean import OPAQUE
from git_theta.core.merging import Step, plan, units
from git_theta.core.recipe import Instructions
from git_theta.errors import MergeError

__all__ = ["Outcome", "Side", "merge_manifests", "plan_merge"]


def merge_manifests(
    session: Session,
    base: Side | None,
    models: Sequence[Side],
    instructions: Instructions,
    wanted: Wanted = NOTHING_ELSE,
) -> Outcome:
    """Merge models that came of one ancestor (None: they have none).

    Raises:
        MergeError: the files as wholes cannot be merged.
        UsageError: a strategy is not what the instructions take it for.
        MissingError: objects that must be read are nowhere.
    """
    _refuse_unlike(base, models)
    models = [_with_statistics(session, model, instructions) for model in models]
    outcome = plan_merge(base, models, instructions)
    if not outcome.conflicts:
        from git_theta.commands.merger import Merger

        Merger(session, base, models, instructions, outcome, wanted).run()
    return outcome


def _with_statistics(session: Session, side: Side, instructions: Instructions) -> Side:
    """A version with the side-cars that the strategies need, as far as they are known of."""
    kinds = {kind for rule in instructions.rules for kind in strategy_needs(rule).statistics}
    found = dict(side.statistics)
    read = (session.store.read, session.plugins.updates)
    for kind in sorted(kinds - found.keys()):
        if side.place is not None:
            from git_theta.repo.sidecars import require_sidecar

            beside = require_sidecar(session.repo, side.place, kind, side.manifest, read)
            found[kind] = beside.manifest
    return replace(side, statistics=found)


def plan_merge(base: Side | None, models: Sequence[Side], instructions: Instructions) -> Outcome:
    """What a merge would do, without reading a tensor."""
    found = units(base.manifest if base else None, [model.manifest for model in models])
    choose = Chooser(instructions, [name for unit in found for name in unit.names])
    _refuse_needs(instructions, base, models)
    everything = instructions.scope == "all"
    steps = plan(found, choose, everything=everything, mismatch=instructions.mismatch)
    outcome = Outcome(steps=steps)
    outcome.conflicts = [step for step in steps if step.action == "conflict"]
    outcome.notes = _notes(steps)
    return outcome


def _notes(steps: Sequence[Step]) -> list[str]:
    """What is to be known of tensors, each thing once with the first of them."""
    found: dict[str, list[str]] = {}
    for step in steps:
        note = step.note or (step.chosen.note if step.chosen is not None else "")
        if note:
            found.setdefault(note, []).append(step.unit.name)
    return [
        f"{names[0]}{f' and {len(names) - 1:,} more' if len(names) > 1 else ''}: {note}"
        for note, names in found.items()
    ]


def _refuse_unlike(base: Side | None, models: Sequence[Side]) -> None:
    formats = sorted({side.manifest.format for side in (*models, *([base] if base else []))})
    if len(formats) > 1:
        raise MergeError(f"the versions are of different formats: {', '.join(formats)}")
    if formats[0] == OPAQUE:
        raise MergeError("the file is kept as a whole: no tensors of it are known")


def _refuse_needs(instructions: Instructions, base: Side | None, models: Sequence[Side]) -> None:
    """Say what a strategy lacks before anything is read."""
    for rule in instructions.rules:
        needs = strategy_needs(rule)
        least, most = needs.models
        number = len(models)
        if number < least or (most is not None and number > most):
            wanted = f"{least}" if least == most else f"{least} to {most or 'any number of'}"
            raise MergeError(f"{rule.strategy} merges {wanted} models, not {number}")
        if needs.base == "required" and base is None:
            raise MergeError(
                f"{rule.strategy} needs a common ancestor, and there is none",
                hint="choose one that does not: git theta merge --list",
            )
        for kind in needs.statistics:
            without = [model.label for model in models if kind not in model.statistics]
            if without:
                raise MergeError(
                    f"{rule.strategy} needs {kind} statistics, which {' and '.join(without)} lacks",
                    hint=f"git theta stats {kind}, on each branch, and commit what it writes",
                )
