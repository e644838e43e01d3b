"""`git theta average`: the mean of a model's versions along a branch."""

from __future__ import annotations

from contextlib import closing

import click

from git_theta.commands.merge_driver import tell
from git_theta.commands.merging import Side, merge_manifests
from git_theta.commands.models import chosen_models, put, refuse_changes, told
from git_theta.commands.session import Session
from git_theta.commands.snapshots import Snapshot, ends_of, snapshots
from git_theta.commands.stats import RANK, write_moments
from git_theta.core.manifest import parse
from git_theta.core.recipe import Instructions, Rule
from git_theta.core.sidecar import sidecar_path
from git_theta.errors import MergeError, shell_word
from git_theta.repo.gitrepo import StagedEntry


@click.command()
@click.argument("commits", metavar="A..B")
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option("--moments", is_flag=True, help="Write PATH's moments (SWAG) beside it too.")
@click.option("--rank", default=RANK, show_default=True, help="With --moments: deviations to keep.")
@click.option("--device", metavar="NAME", help="Where to compute: auto, cpu, cuda, mps.")
def command(
    commits: str, paths: tuple[str, ...], moments: bool, rank: int, device: str | None
) -> None:
    """Average the versions that the commits in A..B made of a model (SWA); stage the result.

    \b
        git theta average main~10..main
        git theta average main~10..main model.safetensors --moments

    Each version counts once; commits that did not change the model do not count, and of merges
    only the first parent is followed. Without PATH it is every model that the range changed.
    Statistics of batch normalisation are averaged as they are: estimate them anew afterwards.
    """
    with closing(Session()) as session:
        entries = chosen_models(session, paths, ends_of(session, commits))
        refuse_changes(session, entries)
        found = {entry.path: snapshots(session, commits, entry.path) for entry in entries}
        made = {
            entry.path: _averaged(session, entry, found[entry.path], device) for entry in entries
        }
        for entry in entries:
            put(session, entry, made[entry.path])
            if moments:
                target = session.path(sidecar_path(entry.path, "moments"))
                model = parse(made[entry.path])
                write_moments(session, target, model, found[entry.path], rank)
        told(entries)


def _averaged(
    session: Session, entry: StagedEntry, versions: list[Snapshot], device: str | None
) -> bytes:
    instructions = Instructions(
        rules=(Rule(strategy="average"),), scope="all", device=device or session.settings.device
    )
    models = [
        Side(
            manifest=version.manifest,
            label=version.commit[:12],
            text=version.text,
            place=(version.commit, entry.path),
        )
        for version in versions
    ]
    if len(models) < 2:
        raise MergeError(
            f"the range holds one version of {entry.path}: there is nothing to average",
            hint=f"git log --oneline -- {shell_word(entry.path)}",
        )
    outcome = merge_manifests(session, None, models, instructions)
    if outcome.text is None:
        step = outcome.conflicts[0]
        raise MergeError(f"{entry.path}: {step.unit.name}: {step.reason}")
    tell(entry.path, outcome)
    return outcome.text
