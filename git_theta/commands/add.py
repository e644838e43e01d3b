"""`git theta add`: files staged, with an update of choice or with one from beside the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from git_theta import registry
from git_theta.commands.approximating import Wish, approximate
from git_theta.commands.options import JSON_OPTION, standing_directory
from git_theta.commands.progress import progress
from git_theta.commands.selection import select
from git_theta.commands.session import Session
from git_theta.commands.sideloading import sideload
from git_theta.commands.staging import Report, Wanted, add_file, stage
from git_theta.commands.terminal import count, note, printable, say, say_json, say_table, size_text
from git_theta.core.choice import Choice, kinds_from
from git_theta.errors import NotTrackedError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options as they were given."""

    update: str | None
    source: Path | None
    force: bool
    lossy: bool
    rank: int | None
    tolerance: float | None


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--update", metavar="KIND", help="Store changes as KIND[,KIND], or not as -KIND.")
@click.option("--from", "source", metavar="FILE", help="Apply the adapter or update in FILE.")
@click.option("--force", is_flag=True, help="Store everything anew.")
@click.option("--lossy", is_flag=True, help="Replace the weights by what a small update restores.")
@click.option(
    "--rank", type=click.IntRange(1), metavar="R", help="With --lossy: at most this rank."
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="T",
    help="With --lossy: at most this far, as a share of each tensor's norm.",
)
@JSON_OPTION
def command(paths: tuple[str, ...], source: str | None, as_json: bool, **given: Any) -> None:
    """Stage files as git add does, and say how they are to be stored.

    \b
        git theta add model.safetensors --update low-rank --from adapter/
        git theta add model.safetensors --update low-rank --rank 8 --lossy
        git theta add model.safetensors --force

    --from takes a PEFT directory (LoRA, IA3) or a file of factors or sparse entries, writes the
    new weights into the model and stores nothing but the update.

    --lossy first rewrites the model to the weights that will be restored, and says how far they
    are from what they were. Nothing else is ever lossy.

    --force stores all objects anew, even those that are known: it heals a version whose objects
    are missing.
    """
    asked = Asked(source=None if source is None else Path(source), **given)
    _check(asked)
    session = Session()
    try:
        reports = _add(session, paths, asked)
    finally:
        session.collect()
        session.close()
    if as_json:
        say_json([report.to_dict() for report in reports])
    else:
        for report in reports:
            _tell(report)


def _check(asked: Asked) -> None:
    if asked.lossy and asked.source is not None:
        raise UsageError("--lossy and --from do not go together")
    if not asked.lossy and (asked.rank is not None or asked.tolerance is not None):
        raise UsageError("--rank and --tolerance are for --lossy", hint="git theta add -h")


def _add(session: Session, paths: Sequence[str], asked: Asked) -> list[Report]:
    if session.repo.top is None:
        raise NotTrackedError("a bare repository has no files to add")
    chosen = select(session.repo, paths)
    choice = _choice(asked)
    if (asked.source or asked.lossy) and len(chosen) != 1:
        raise UsageError(f"--from and --lossy are for one file, not for {len(chosen)}")
    if asked.source is not None:
        source = standing_directory(session.repo) / asked.source
        return [sideload(session, chosen[0], source, asked.update, force=asked.force)]
    if asked.lossy:
        wish = Wish.of(asked.update, asked.rank, asked.tolerance)
        return [approximate(session, chosen[0], wish)]
    total = sum(session.path(path).stat().st_size for path in chosen)
    with progress(total, "storing") as advance:
        wanted = Wanted(choice=choice, force=asked.force)
        reports = [add_file(session, path, advance, wanted) for path in chosen]
    stage(session.repo, reports)
    return reports


def _choice(asked: Asked) -> Choice | None:
    if asked.update is None:
        return None
    return Choice(kinds=kinds_from(asked.update, registry.names("updates")))


def _tell(report: Report) -> None:
    done = "staged"
    if report.tensors:
        done = f"{count(len(report.tensors), 'tensor')} changed, staged"
    kinds = ", ".join(f"{kind} {size_text(size)}" for kind, size in sorted(report.kinds.items()))
    stored = f"{size_text(report.stored)} stored" + (f" ({kinds})" if kinds else "")
    note(f"{printable(report.path)}: {done}; {stored} for {size_text(report.size)}")
    if "lossy" in report.total:
        _tell_distance(report)


def _tell_distance(report: Report) -> None:
    if not report.tensors:
        note("no tensor has an approximation within that: all of them stay exact")
        return
    whole = {"name": "all of these", **report.total["lossy"]}
    rows = [
        (row["name"], f"{row['relative_l2']:.2e}", f"{row['max']:.2e}")
        for row in (*report.tensors, whole)
    ]
    say("Distance of the new weights from those that they replace:")
    say_table(("TENSOR", "RELATIVE L2", "LARGEST"), rows, right=(1, 2))
