"""Help for the commands that Git runs as filters; `cli` runs them without this module."""

from __future__ import annotations

import click

from git_theta.errors import UsageError


@click.command()
@click.argument("words", nargs=-1)
def command(words: tuple[str, ...]) -> None:  # noqa: ARG001
    """Run by Git as the filter of tracked files; not for use by hand.

    `git theta install` puts it into Git's configuration as filter.theta.
    """
    raise UsageError("the filters are run by Git", hint="git theta install")
