"""Help for the filters and drivers that Git runs; `cli` runs them without this module."""

from __future__ import annotations

import click

from git_theta.errors import UsageError


@click.command()
@click.argument("words", nargs=-1)
def command(words: tuple[str, ...]) -> None:  # noqa: ARG001
    """Run by Git as a filter or driver of tracked files; not for use by hand.

    `git theta install` puts them into Git's configuration as filter.theta and diff.theta.
    """
    raise UsageError("the filters and drivers are run by Git", hint="git theta install")
