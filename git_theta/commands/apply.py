"""`git theta apply`: what a range of commits taught a model, added here or taken away."""

from __future__ import annotations

from contextlib import closing

import click

from git_theta.commands.merge_driver import tell
from git_theta.commands.merging import Side, merge_manifests, plan_merge
from git_theta.commands.models import chosen_models, put, refuse_changes, told, version_at
from git_theta.commands.session import Session
from git_theta.commands.snapshots import ends_of
from git_theta.core.recipe import Instructions, Rule
from git_theta.core.threeway import Fate
from git_theta.errors import MergeError
from git_theta.repo.gitrepo import StagedEntry


@click.command()
@click.argument("commits", metavar="A..B")
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option("--scale", default=1.0, show_default=True, help="How much of it; -1 forgets it.")
@click.option("--device", metavar="NAME", help="Where to compute: auto, cpu, cuda, mps.")
def command(commits: str, paths: tuple[str, ...], scale: float, device: str | None) -> None:
    """Add to the model here what the commits in A..B changed: scale times (B minus A).

    \b
        git theta apply main..math                  what math learned, here
        git theta apply main..toxic --scale -1      forget what toxic learned

    It is cherry-pick and revert for abilities: the difference of the weights is applied, not the
    weights. The result is staged. Without PATH it is every model that differs between A and B.
    """
    with closing(Session()) as session:
        ends = ends_of(session, commits)
        entries = chosen_models(session, paths, ends)
        refuse_changes(session, entries)
        made = {entry.path: _applied(session, entry, ends, scale, device) for entry in entries}
        for entry in entries:
            put(session, entry, made[entry.path])
        told(entries)


def _applied(
    session: Session, entry: StagedEntry, ends: tuple[str, str], scale: float, device: str | None
) -> bytes:
    base, there = (version_at(session, rev, entry.path, rev[:12]) for rev in ends)
    here = version_at(session, "HEAD", entry.path, "HEAD")
    outcome = merge_manifests(
        session, base, [here, there], _instructions(session, base, [here, there], scale, device)
    )
    if outcome.text is None:
        step = outcome.conflicts[0]
        raise MergeError(f"{entry.path}: {step.unit.name}: {step.reason}")
    tell(entry.path, outcome)
    return outcome.text


def _instructions(
    session: Session, base: Side, models: list[Side], scale: float, device: str | None
) -> Instructions:
    """The whole difference, of tensors that are here as they were, is their other version.

    Any other has to be computed: for these the strategy sees all that was changed.

    Raises:
        MergeError: the range added or removed a tensor, which cannot be scaled.
    """
    rules = (Rule(strategy="apply", parameters={"scale": scale}),)
    device = device or session.settings.device
    steps = plan_merge(base, models, Instructions(rules=rules)).steps
    changed = [step.unit for step in steps if step.unit.base != step.unit.models[1]]
    if scale == 1 and all(unit.verdict.fate is not Fate.AGREED for unit in changed):
        return Instructions(rules=rules, device=device)
    for unit in changed:
        if scale != 1 and (unit.base is None) != (unit.models[1] is None):
            word = "added" if unit.base is None else "removed"
            raise MergeError(
                f"{unit.name} was {word} in the range: there is no difference to scale",
                hint="--scale 1, or a range in which the model keeps its tensors",
            )
    return Instructions(rules=rules, scope="all", device=device)
