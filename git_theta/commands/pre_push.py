"""What the pre-push hook runs: the objects go before the commits that need them."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import click

from git_theta.commands.push import upload
from git_theta.commands.session import Session
from git_theta.errors import ManifestError, ThetaError
from git_theta.repo.closure import of_commits
from git_theta.repo.gitrepo import Repo
from git_theta.repo.neighbours import is_named

_HALF = (
    "nobody could check it out: add the file again and amend the commit; "
    "git push --no-verify pushes it as it is"
)


@click.command(hidden=True)
@click.argument("remote")
@click.argument("url", required=False)
def command(remote: str, url: str | None) -> None:
    """Run by Git before a push, with what is pushed on standard input.

    Uploads the objects of all manifests that are new to the remote; the push fails if that fails.
    """
    lines = sys.stdin.buffer.read().decode(errors="surrogateescape").split("\n")
    tips, known = pushed(filter(None, lines))
    if not tips:
        return
    session = Session()
    try:
        target, named = _target(session.repo, remote, url)
        closure = of_commits(session.repo, tips, known=known, remote=named, newest_whole=True)
        if closure.objects:
            upload(session, target, closure)
    except ManifestError as error:
        error.hint = error.hint or _HALF
        raise
    except ThetaError as error:
        error.hint = error.hint or "git push --no-verify leaves the objects behind"
        raise
    finally:
        session.close()


def pushed(lines: Iterable[str]) -> tuple[list[str], list[str]]:
    """The commits that a push brings, and those that it finds there."""
    tips, known = [], []
    for line in lines:
        _, local, _, there = line.rsplit(" ", 3)  # the first may be any expression, spaces and all
        if local.strip("0"):
            tips.append(local)
        if there.strip("0"):
            known.append(there)
    return tips, known


def _target(repo: Repo, remote: str, url: str | None) -> tuple[str, str | None]:
    """Whom the objects go to, and the remote whose branches tell what is there already.

    A remote with several push URLs is pushed to once for each, under one name; Git LFS would take
    the last of them every time. After the first, its branches tell what was pushed just now.
    """
    if not is_named(repo, remote):
        return remote, None
    if f"remote.{remote}.lfspushurl" in repo.config or f"remote.{remote}.lfsurl" in repo.config:
        return remote, remote
    urls = repo.lines("remote", "get-url", "--push", "--all", remote, check=False)
    if url is None or len(urls) < 2:
        return remote, remote
    return url, remote if url == urls[0] else None
