"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from git_theta.errors import NotTrackedError, UsageError
from git_theta.repo.attributes import FILE
from git_theta.repo.configuration import Scope
from git_theta.repo.gitrepo import Repo
from git_theta.settings import caller_directory, names_work_tree

Function = TypeVar("Function", bound=Callable[..., Any])

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Report as JSON.")
_SCOPES: dict[str, tuple[Scope, str]] = {
    "local": ("local", "Only this repository."),
    "global": ("global", "This user, on this machine (the default)."),
    "system": ("system", "All users of this machine."),
}


def scope_options(function: Function) -> Function:
    """Add --local, --global and --system."""
    for name, (_, text) in reversed(_SCOPES.items()):
        function = click.option(f"--{name}", "scope", flag_value=name, help=text)(function)
    return function


def chosen_scope(name: str | None) -> Scope:
    """The scope that was named, or the user's own."""
    return _SCOPES[name or "global"][0]


def standing_directory(repo: Repo) -> Path:
    """The directory in which the user stands, also when called through an alias of Git's."""
    here = Path.cwd()
    if repo.top is None:
        return here
    top = repo.top.resolve()
    if not here.is_relative_to(top) and names_work_tree():
        return top  # as Git has it, where somebody else's directory is the work tree
    told = caller_directory()
    return here / told if here == top and (here / told).is_dir() else here


def attributes_file(repo: Repo) -> Path:
    """The file of attributes of the directory in which the user stands.

    Raises:
        NotTrackedError: it is in no work tree, and Git would read no such file there.
    """
    where = standing_directory(repo)
    if repo.top is None or not where.is_relative_to(repo.top.resolve()):
        raise NotTrackedError("this is no directory of a work tree", hint="cd into one")
    return where / FILE


def path_from_top(repo: Repo, path: str) -> str:
    """A path as the user writes it, as Git names it: from the top, with slashes.

    Raises:
        UsageError: it lies outside the work tree.
    """
    if repo.top is None:
        return path
    top = repo.top.resolve()
    full = Path(standing_directory(repo), path)
    # The last part may itself be a link, which Git tracks as such; only its directory is resolved.
    full = full.parent.resolve() / full.name
    if not full.is_relative_to(top):
        raise UsageError(f"{path} is outside the repository {top}")
    return full.relative_to(top).as_posix()


def split_revision(text: str) -> tuple[str | None, str]:
    """`REV:PATH` in its parts; the revision is None where only a path is given, or `:PATH`."""
    rev, colon, path = text.partition(":")
    if not colon or os.path.exists(text):  # noqa: PTH110 - False for what can be no path
        return None, text
    return rev or None, path
