"""`git theta fetch`: objects that are missing here, from the remotes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from git_theta.commands.options import JSON_OPTION
from git_theta.commands.session import Session
from git_theta.commands.terminal import count, note, say_json, size_text
from git_theta.errors import UsageError
from git_theta.repo import remotes
from git_theta.repo.closure import Closure, of_commits, of_index, of_tree, union
from git_theta.repo.gitrepo import Repo
from git_theta.repo.lfs import Fetched
from git_theta.repo.neighbours import is_named


@click.command()
@click.argument("remote", required=False)
@click.argument("revisions", metavar="[REF]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="For every commit of all refs.")
@JSON_OPTION
def command(
    remote: str | None, revisions: tuple[str, ...], everything: bool, as_json: bool
) -> None:
    """Download the objects that are missing here.

    \b
        git theta fetch                 for HEAD and what is staged
        git theta fetch v1.0 main~3     for the files of these commits
        git theta fetch --all origin    for all commits here, from origin

    Without a REMOTE, that of the branch is asked first, then the others.
    """
    session = Session()
    try:
        source, named = _split(session.repo, remote, revisions)
        closure = _wanted(session.repo, named, everything)
        report = fetch(session, closure, remote=source)
    finally:
        session.close()
    if as_json:
        say_json(report)
    else:
        note(
            f"{count(report['fetched'], 'object')} fetched ({size_text(report['bytes'])}), "
            f"{report['here']:,} were here"
        )


def _split(
    repo: Repo, first: str | None, rest: tuple[str, ...]
) -> tuple[str | None, tuple[str, ...]]:
    """The first word may be a remote, by name or URL, or a revision already."""
    if first is None or is_named(repo, first):
        return first, rest
    if repo.resolve(first) is not None:
        return None, (first, *rest)
    if "/" in first or ":" in first:
        return first, rest
    raise UsageError(f"{first!r} is no remote and no revision", hint="git remote -v")


def _wanted(repo: Repo, revisions: Sequence[str], everything: bool) -> Closure:
    if everything:
        return union([of_commits(repo, _all_refs(repo)), of_index(repo)])
    trees = [_tree(repo, rev) for rev in revisions]
    if trees:
        return union(of_tree(repo, tree) for tree in trees)
    head = repo.resolve("HEAD^{tree}")
    return union([of_index(repo), *([of_tree(repo, head)] if head else [])])


def _all_refs(repo: Repo) -> list[str]:
    head = repo.resolve("HEAD")
    return repo.text("for-each-ref", "--format=%(objectname)").split() + ([head] if head else [])


def _tree(repo: Repo, rev: str) -> str:
    tree = repo.resolve(rev + "^{tree}")
    if tree is None:
        raise UsageError(f"there is no revision {rev!r}", hint="git log --all --oneline")
    return tree


def fetch(session: Session, closure: Closure, *, remote: str | None = None) -> dict[str, Any]:
    """Fetch what a closure needs and is not here.

    Raises:
        MissingError: some of it is nowhere.
        TransferError: a remote could not be asked.
    """
    missing = session.store.lacking(closure.objects)
    found = Fetched()
    if missing:
        found = remotes.collect(session.repo, session.store, missing, remote=remote)
    if found.missing:
        raise remotes.failure(found)
    return {
        "manifests": closure.manifests,
        "objects": len(closure.objects),
        "here": len(closure.objects) - len(missing),
        "fetched": len(missing),
        "bytes": sum(missing.values()),
    }
