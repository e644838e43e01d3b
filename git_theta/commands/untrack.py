"""`git theta untrack`: patterns out of `.gitattributes`."""

from __future__ import annotations

import click

from git_theta.commands.options import attributes_file
from git_theta.commands.terminal import note, printable, say
from git_theta.errors import NotTrackedError
from git_theta.repo.attributes import AttributesFile, check_pattern
from git_theta.repo.gitrepo import Repo


@click.command()
@click.argument("patterns", nargs=-1, required=True, metavar="PATTERN...")
def command(patterns: tuple[str, ...]) -> None:
    """Stop keeping the files that match a PATTERN with git-theta.

    Takes the lines out of the .gitattributes of the current directory; PATTERN must be written
    as it was for `git theta track`. What is committed stays as it is: a file becomes an ordinary
    one, with all its bytes in Git, when it is next added.
    """
    repo = Repo.find()
    attributes = AttributesFile(attributes_file(repo))
    gone = [p for p in map(check_pattern, patterns) if attributes.untrack(p)]
    if not gone:
        raise NotTrackedError(
            f"no such pattern in {attributes.path}", hint="git theta track lists the patterns"
        )
    attributes.save()
    for pattern in gone:
        say(f"No longer tracking {printable(pattern)}")
    note("hint: to put files already committed back into Git whole: git add --renormalize -- PATH")
