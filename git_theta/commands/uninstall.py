"""`git theta uninstall`: take back what `install` did, in one scope."""

from __future__ import annotations

import click

from git_theta.commands.install import find_repository
from git_theta.commands.options import chosen_scope, scope_options
from git_theta.commands.terminal import say
from git_theta.repo import hooks
from git_theta.repo.configuration import AUTO_HOOKS, WANTED, write


@click.command()
@scope_options
def command(scope: str | None) -> None:
    """Take git-theta out of Git's configuration.

    Only of the scope that is named (--global unless told otherwise). With --local, the hooks
    that this repository had before come back as they were. Stored objects, .gitattributes and
    commits stay as they are.
    """
    where = chosen_scope(scope)
    repo = find_repository(where)
    removed = [key for key in (*WANTED, AUTO_HOOKS) if write(where, key, None, repo)]
    restored = hooks.uninstall(repo) if repo is not None and where == "local" else []
    if removed:
        say(f"git-theta is no longer in the {where} configuration.")
    if restored:
        say(f"Hooks removed from this repository: {', '.join(restored)}.")
    if not removed and not restored:
        say(f"There was nothing of git-theta in the {where} configuration.")
