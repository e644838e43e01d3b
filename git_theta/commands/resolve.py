"""`git theta resolve`: a conflict settled with a strategy."""

from __future__ import annotations

from typing import Any

import click

from git_theta.commands.conflicts import explain
from git_theta.commands.deciding import Decision, refuse_nothing
from git_theta.commands.merge_driver import CONFLICT, MERGED, tell
from git_theta.commands.merge_options import instructions_of, strategy_options
from git_theta.commands.merging import Side, merge_manifests
from git_theta.commands.options import path_from_top
from git_theta.commands.placing import Placed, place
from git_theta.commands.session import Session
from git_theta.commands.terminal import note, printable
from git_theta.commands.versions import side
from git_theta.core.recipe import Instructions
from git_theta.errors import NotTrackedError, shell_word
from git_theta.repo.gitrepo import StagedEntry

_HEADS = ("MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "REBASE_HEAD")
BASE, OURS, THEIRS = 1, 2, 3


@click.command()
@click.argument("path")
@strategy_options
def command(path: str, **options: Any) -> int:
    """Settle a conflict in PATH with a strategy, write the file, and stage it.

    \b
        git theta resolve model.safetensors --strategy average
        git theta resolve model.safetensors -s ties --set density=0.2 --for 'lm_head*' ours

    It works wherever Git has left a conflict: merge, rebase, cherry-pick, revert, stash. Commit
    the result, or continue the command that stopped.
    """
    session = Session()
    try:
        instructions = instructions_of(options, session.settings.device)
        refuse_nothing(instructions)
        return _resolve(session, path_from_top(session.repo, path), instructions)
    finally:
        session.close()


def _resolve(session: Session, path: str, instructions: Instructions) -> int:
    stages = conflicted(session, path)
    base = _side(session, stages.get(BASE), "base", None)
    ours = _side(session, stages.get(OURS), "ours", "HEAD")
    theirs = _side(session, stages.get(THEIRS), "theirs", _their_head(session))
    if ours is None or theirs is None:
        raise NotTrackedError(
            f"{path} was deleted on one side",
            hint=f"git add -- {shell_word(path)}, or git rm -- {shell_word(path)}",
        )
    outcome = merge_manifests(session, base, [ours, theirs], instructions)
    if outcome.text is None:
        decision = Decision(instructions=instructions, said_by="", real=True)
        explain(session, path, base, [ours, theirs], outcome, decision)
        return CONFLICT
    place(session, {path: Placed(path, stages[OURS].mode, outcome.text)})
    tell(path, outcome)
    note(f"staged {printable(path)}; commit it, or continue what was stopped")
    return MERGED


def conflicted(session: Session, path: str) -> dict[int, StagedEntry]:
    """The stages of a path in conflict.

    Raises:
        NotTrackedError: it is not in conflict.
    """
    found = {e.stage: e for e in session.repo.staged(f":(top,literal){path}") if e.path == path}
    if not found or 0 in found:
        raise NotTrackedError(
            f"{path} is not in conflict", hint="git status names what is; after git add, too late"
        )
    return found


def _side(
    session: Session, entry: StagedEntry | None, label: str, commit: str | None
) -> Side | None:
    return None if entry is None else side(session, entry.path, entry.oid, label, commit)


def _their_head(session: Session) -> str | None:
    """The commit whose side conflicts, where Git knows of one."""
    git_dir = session.repo.git_dir
    return next((head for head in _HEADS if (git_dir / head).exists()), None)
