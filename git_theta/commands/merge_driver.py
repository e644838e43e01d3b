"""`git theta merge-driver`: what Git runs when both sides changed a tracked file.

It never asks, and never writes conflict markers. What it cannot settle stays a conflict: our side
in the work tree, all three versions in the index, and a report with the commands that settle it.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import click

from git_theta.commands.clean import clean
from git_theta.commands.conflicts import explain, explain_raw
from git_theta.commands.deciding import Decision, decide
from git_theta.commands.merging import Outcome, Side, merge_manifests
from git_theta.commands.session import Session
from git_theta.commands.terminal import complain, count, note, printable
from git_theta.core.manifest import MAGIC, is_manifest, parse
from git_theta.core.recipe import Instructions
from git_theta.core.sidecar import is_sidecar
from git_theta.core.threeway import Fate
from git_theta.errors import MergeError
from git_theta.repo.streams import PlainStream
from git_theta.settings import LATER, asked_to_merge, merged_heads

MERGED, CONFLICT = 0, 1
_OUTERMOST = 7


@click.command()
@click.argument("base")
@click.argument("ours")
@click.argument("theirs")
@click.argument("marker_size", type=int)
@click.argument("path")
def command(base: str, ours: str, theirs: str, marker_size: int, path: str) -> int:
    """Run by Git when both sides of a merge changed a tracked file; not for use by hand.

    `git theta install` puts it into Git's configuration as merge.theta.
    """
    if marker_size > _OUTERMOST:
        # Two merge bases are being merged into one that nobody will see. Like Git's own driver
        # for binary files, keep their ancestor: then neither side can win by looking unchanged.
        Path(ours).write_bytes(Path(base).read_bytes())
        return MERGED
    if is_sidecar(path):
        note(f"git theta: {printable(path)}: statistics of our side; the merged model has none yet")
        return MERGED
    if asked_to_merge() == LATER:  # git theta merge sees to it itself
        return CONFLICT
    session = Session()
    try:
        sides = _sides(session, path, (base, ours, theirs))
        if sides[1] is None or sides[2] is None:
            explain_raw(path)
            return CONFLICT
        return _merge(session, path, Path(ours), sides[0], [sides[1], sides[2]])
    finally:
        session.close()


def _sides(
    session: Session, path: str, files: tuple[str, str, str]
) -> tuple[Side | None, Side | None, Side | None]:
    heads = list(merged_heads().items())
    commit, name = heads[0] if len(heads) == 1 else (None, "theirs")
    base, ours, theirs = map(Path, files)
    there = (commit, path) if commit else None
    return (
        _read(session, path, base, "base", None),
        _read(session, path, ours, "ours", ("HEAD", path)),
        _read(session, path, theirs, name, there),
    )


def _read(
    session: Session, path: str, file: Path, label: str, place: tuple[str, str] | None
) -> Side | None:
    """One version; one that was committed before the path was tracked is stored now."""
    with file.open("rb") as opened:
        head = opened.read(len(MAGIC))
    if not head:
        return None
    if is_manifest(head):
        text = file.read_bytes()
    else:
        found = session.repo.attributes([path], ["filter"])
        if found.get(path, {}).get("filter") != "theta":
            return None
        with file.open("rb") as opened:
            text = clean(session, path, PlainStream(opened.fileno()))
    return Side(manifest=parse(text), label=label, text=text, place=place)


def _merge(session: Session, path: str, target: Path, base: Side | None, sides: list[Side]) -> int:
    decision = decide(session, path)
    try:
        outcome = merge_manifests(session, base, sides, decision.instructions)
    except MergeError as error:
        complain(f"git theta: {printable(path)}: {error}")
        if error.hint:
            complain(f"hint: {error.hint}")
        outcome = _unmerged(base, sides)
    if outcome.text is None:
        explain(session, path, base, sides, outcome, decision)
        return CONFLICT
    target.write_bytes(outcome.text)
    tell(path, outcome, decision)
    return MERGED


def _unmerged(base: Side | None, sides: list[Side]) -> Outcome:
    """What conflicts, where the merge that was asked for is not possible at all."""
    from git_theta.commands.merging import plan_merge

    with suppress(MergeError):
        return plan_merge(base, sides, Instructions())
    return Outcome(steps=[])


def tell(path: str, outcome: Outcome, decision: Decision | None = None) -> None:
    """Say in a line what a merge did, and what the user should know of it."""
    merged = [step for step in outcome.steps if step.chosen is not None]
    names = sorted({step.chosen.strategy.name for step in merged if step.chosen is not None})
    why = f" ({decision.said_by})" if decision is not None and decision.said_by else ""
    done = f"{count(len(merged), 'tensor')} merged with {', '.join(names)}{why}" if merged else ""
    taken = sum(
        step.chosen is None and step.unit.verdict.fate is not Fate.UNCHANGED
        for step in outcome.steps
    )
    parts = [done, f"{taken:,} taken from one side" if taken else ""]
    note(f"git theta: {printable(path)}: {', '.join(p for p in parts if p) or 'merged'}")
    for line in outcome.notes:
        note(f"  {printable(line)}")
