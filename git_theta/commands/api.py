"""`git_theta.diff` and `git_theta.log`: the reports of the commands as records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from git_theta.commands.diff import differences
from git_theta.commands.diff_model import ModelDiff
from git_theta.commands.history_steps import LogEntry, entries
from git_theta.commands.session import Session
from git_theta.errors import NotTrackedError
from git_theta.repo.gitrepo import Repo
from git_theta.repo.history import commits

__all__ = ["LogEntry", "ModelDiff", "diff", "log"]


def diff(
    *revisions: str,
    paths: Sequence[str] | None = None,
    repo: str | Path = ".",
    exact: bool = False,
) -> tuple[ModelDiff, ...]:
    """What changed between two versions of the models, as `git theta diff` finds it.

    `revisions` are what the command takes: none for the work tree against what is staged, one or
    two commits, or two times `REV:PATH`; `paths` are relative to `repo`. Distances are estimates
    unless `exact` is true. `to_dict()` of a record gives what `--json` prints.

    Raises:
        NotTrackedError: there is no repository, or no such revision or file.
        MissingError: `exact` is true, and weights are nowhere to be had.
    """
    session = Session(Repo.find(Path(repo)))
    here = Path(repo).resolve()
    named = None if paths is None else [str(here / path) for path in paths]
    try:
        return tuple(differences(session, revisions, named, exact=exact))
    finally:
        session.close()


def log(
    path: str, *revisions: str, repo: str | Path = ".", tensors: Sequence[str] = ()
) -> tuple[LogEntry, ...]:
    """The commits of a model, newest first, and what each did to it.

    `path` is from the top of the repository, `revisions` are as for `git log` (HEAD if none are
    given); with `tensors`, patterns of names, only commits that touched one of them.

    Raises:
        NotTrackedError: no commit has such a file.
    """
    session = Session(Repo.find(Path(repo)))
    try:
        found = commits(session.repo, revisions or ["HEAD"], path)
        if not found:
            raise NotTrackedError(f"no commit has a file {path!r}", hint="git theta ls-files")
        return tuple(entries(session.repo, found, tensors))
    finally:
        session.close()
