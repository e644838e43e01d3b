"""`git_theta.open`, and `git_theta.diff` and `git_theta.log`: reports of commands as records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from git_theta.commands.diff import differences
from git_theta.commands.diff_model import ModelDiff
from git_theta.commands.history_steps import LogEntry, entries
from git_theta.commands.opened import OpenModel
from git_theta.commands.session import Session
from git_theta.errors import NotTrackedError
from git_theta.repo.gitrepo import Repo
from git_theta.repo.history import commits
from git_theta.repo.tracked import find_blob, parse_at

__all__ = ["LogEntry", "ModelDiff", "OpenModel", "diff", "log", "open"]


def open(  # noqa: A001
    path: str,
    rev: str | None = "HEAD",
    repo: str | Path = ".",
    *,
    framework: Literal["pt", "np"] = "pt",
) -> OpenModel:
    """Open a version of a checkpoint like safetensors' `safe_open`; what is touched is fetched.

    `path` is from the top of the repository, `rev` any revision, or None for what is staged.

    Raises:
        NotTrackedError: there is no repository, or no such revision or file.
        ManifestError: its manifest is damaged.
        UsageError: the framework is not installed.
    """
    session = Session(Repo.find(Path(repo)))
    try:
        return OpenModel(session, parse_at(path, find_blob(session.repo, rev, path)[1]), framework)
    except BaseException:
        session.close()
        raise


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
