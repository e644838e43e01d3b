"""`git theta install`: Git's configuration and the repository's hooks."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from git_theta.commands.options import chosen_scope, scope_options
from git_theta.commands.terminal import complain, note, say
from git_theta.errors import NotTrackedError
from git_theta.repo import hooks
from git_theta.repo.configuration import AUTO_HOOKS, WANTED, Scope, values_in, write
from git_theta.repo.gitrepo import Repo


@click.command()
@scope_options
@click.option("--no-hooks", is_flag=True, help="Install no hooks, now or later.")
def command(scope: str | None, no_hooks: bool) -> None:
    """Tell Git about git-theta: once for each machine and user.

    Sets filter.theta, merge.theta and diff.theta in Git's configuration (--global unless told
    otherwise). Inside a repository it also adds the hooks that upload objects on push; hooks
    that are already there are kept and still run. In other repositories the hooks come by
    themselves with the first tracked file, unless --no-hooks was given.

    Running it again changes nothing.
    """
    where = chosen_scope(scope)
    repo = find_repository(where)
    changed = [key for key, value in WANTED.items() if write(where, key, value, repo)]
    if no_hooks:
        changed += [AUTO_HOOKS] if write(where, AUTO_HOOKS, "false", repo) else []
    elif values_in(where, AUTO_HOOKS, repo) == ["false"]:
        write(where, AUTO_HOOKS, None, repo)
    say(f"git-theta is {'now' if changed else 'already'} set up ({where} configuration).")
    if repo is not None and not no_hooks:
        _install_hooks(repo)
    warn_of_programs()


def find_repository(scope: Scope) -> Repo | None:
    """The repository around us, which only --local needs."""
    try:
        return Repo.find()
    except NotTrackedError:
        if scope == "local":
            raise
        return None


def _install_hooks(repo: Repo) -> None:
    names = hooks.install(repo)
    if names:
        say(f"Hooks added in this repository: {', '.join(names)}.")


def warn_of_programs() -> None:
    """Say what Git will miss when it runs us."""
    if shutil.which("git-theta") is None:
        complain(
            "warning: git-theta is not on your PATH, so Git cannot run it; add this directory: "
            f"{Path(sys.argv[0]).resolve().parent}"
        )
    if shutil.which("git-lfs") is None:
        note("note: git-lfs is not installed; it is needed to push and to fetch")
