"""`git theta push`: objects to a remote; the same for the pre-push hook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from git_theta.commands.options import JSON_OPTION
from git_theta.commands.session import Session
from git_theta.commands.terminal import count, note, printable, say_json, size_text
from git_theta.errors import MissingError, TransferError
from git_theta.repo import remotes
from git_theta.repo.closure import Closure, describe, of_commits
from git_theta.repo.gitrepo import Repo
from git_theta.repo.lfs import Lfs
from git_theta.repo.neighbours import is_named

_NAMED = 5


@click.command()
@click.argument("remote", required=False)
@click.option("--all", "everything", is_flag=True, help="For all branches and tags, not only HEAD.")
@JSON_OPTION
def command(remote: str | None, everything: bool, as_json: bool) -> None:
    """Upload the objects that a remote lacks.

    git push does this by itself, through a hook. This command repairs what was pushed past the
    hook, with --no-verify or by somebody without git-theta: with --all it makes sure that the
    remote (by default that of the branch, or origin) has every object of every commit here.

    Objects that are not here are fetched from other remotes first.
    """
    session = Session()
    try:
        target = remote or remotes.default(session.repo)
        closure = _wanted(session.repo, target, everything)
        sent = upload(session, target, closure)
    finally:
        session.close()
    if as_json:
        report = {"remote": target, "manifests": closure.manifests}
        objects = {"objects": len(closure.objects), "bytes": closure.size, "offered": sent}
        say_json(report | objects)
    else:
        note(
            f"{count(closure.manifests, 'manifest')}: "
            f"{count(len(closure.objects), 'object')} ({size_text(closure.size)}) "
            f"on {printable(target)}"
        )


def _wanted(repo: Repo, target: str, everything: bool) -> Closure:
    named = target if is_named(repo, target) else None
    if not everything:
        head = repo.resolve("HEAD")
        return of_commits(repo, [head] if head else [], remote=named)
    patterns = ["refs/heads", "refs/tags"] + ([f"refs/remotes/{named}"] if named else [])
    tips = repo.text("for-each-ref", "--format=%(objectname)", *patterns).split()
    head = repo.resolve("HEAD")
    return of_commits(repo, [*tips, head] if head else tips)


def upload(session: Session, target: str, closure: Closure) -> int:
    """See to it that a remote has all objects of a closure; returns how many it was offered.

    Raises:
        MissingError: neither this repository nor any remote has some of them.
        TransferError: the remote did not take them.
    """
    lfs = Lfs(session.repo, session.store)
    session.store.hold()
    absent = session.store.lacking(closure.objects)
    there = _found_there(session, lfs, target, absent, closure) if absent else set()
    return lfs.push(target, {o: n for o, n in closure.objects.items() if o not in there})


def _found_there(
    session: Session, lfs: Lfs, target: str, absent: Mapping[str, int], closure: Closure
) -> set[str]:
    """What is not here: what the target has already; the rest is fetched from other remotes."""
    repo = session.repo
    asked = found = lfs.lacking_at(target, absent)
    problems = [found]
    for other in remotes.preferred(repo):
        if found.missing and other != target:
            found = remotes.collect(repo, session.store, found.missing, remote=other)
            problems.append(found)
    if found.missing:
        unreachable = any(problem.unreachable for problem in problems)
        said = "".join(f"\n{problem.said}" for problem in problems if problem.said)
        kind = TransferError if unreachable else MissingError
        raise kind(_complaint(repo, target, closure, list(found.missing)) + said)
    return set(absent) - set(asked.missing)


def _complaint(repo: Repo, target: str, closure: Closure, oids: Sequence[str]) -> str:
    places = list(dict.fromkeys(describe(repo, closure, oid) for oid in oids[:_NAMED]))
    more = f"\n  and {len(oids) - _NAMED:,} more" if len(oids) > _NAMED else ""
    return (
        f"{count(len(oids), 'object')} neither here nor on {target} nor on any other remote:\n  "
        + "\n  ".join(places)
        + more
    )
