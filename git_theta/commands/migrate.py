"""`git theta migrate`: files moved into git-theta over all of history, and out of it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from git_theta.commands.migrate_lines import INTO_GIT, INTO_LFS, INTO_THETA, Target
from git_theta.commands.migrate_refs import Move, Moves, check_safe, looks_of, ref_named
from git_theta.commands.migrate_work import Report, Wish, migrate
from git_theta.commands.options import JSON_OPTION
from git_theta.commands.session import Session
from git_theta.commands.terminal import complain, count, note, printable, say, say_json, size_text
from git_theta.errors import NotTrackedError, UsageError
from git_theta.repo.attributes import check_pattern
from git_theta.repo.gitrepo import Repo

Function = TypeVar("Function", bound=Callable[..., Any])


@click.group(no_args_is_help=True)
def command() -> None:
    """Move files into git-theta over all of history, or out of it.

    \b
        git theta migrate import '*.safetensors'       from Git LFS, or from plain Git
        git theta migrate export                       back to Git LFS
        git theta migrate undo                         the refs as they were before

    Every version is restored and compared by SHA-256 before any ref moves. Commits get new ids:
    afterwards a force push is needed, and everybody clones anew.
    """


def _shared_options(function: Function) -> Function:
    for option in (
        JSON_OPTION,
        click.option("-n", "--dry-run", is_flag=True, help="Only say what would be done."),
        click.option(
            "--exclude-ref", "excluded", multiple=True, metavar="REF",
            help="Leave the commits that REF reaches as they are.",
        ),
        click.option(
            "--include-ref", "included", multiple=True, metavar="REF",
            help="Rewrite only this branch or tag, and others that are named.",
        ),
        click.option(
            "--everything", is_flag=True,
            help="Rewrite all refs of this repository, not only branches and tags.",
        ),
        click.option(
            "-X", "--exclude", multiple=True, metavar="PATTERNS",
            help="Leave out files that match one of these, separated by commas.",
        ),
        click.option(
            "-I", "--include", multiple=True, metavar="PATTERNS",
            help="Move the files that match one of these, separated by commas.",
        ),
        click.argument("words", nargs=-1, metavar="[PATTERN|REF]..."),
    ):  # fmt: skip
        function = option(function)
    return function


@command.command("import")
@_shared_options
@click.option(
    "--leave-missing", is_flag=True, help="Leave pointers whose file is nowhere as they are."
)
def import_command(**given: Any) -> int:
    """Move files from Git LFS or plain Git into git-theta, in every commit.

    \b
        git theta migrate import '*.safetensors'                   all branches and tags
        git theta migrate import --include='*.pt,*.bin' main v1.0  these refs only

    A word is a ref if there is one of that name, else a pattern as in .gitattributes; beside
    --include, words are refs. Pointers of Git LFS become the files that they stand for; what is
    not here is fetched with Git LFS. Lines for the patterns are written into .gitattributes.
    """
    wish = _wish(INTO_THETA, "import", given)
    if not wish.include:
        raise UsageError(
            "which files? name a pattern", hint="git theta migrate import '*.safetensors'"
        )
    return _run(wish, given)


@command.command("export")
@_shared_options
@click.option(
    "--to", "where", type=click.Choice(["lfs", "git"]), default="lfs", show_default=True,
    help="Pointers of Git LFS, or plain blobs.",
)  # fmt: skip
def export_command(*, where: str, **given: Any) -> int:
    """Move files out of git-theta, in every commit: to Git LFS, or to plain Git.

    Without a pattern, all files that git-theta keeps. Objects that are not here are fetched.
    """
    target = INTO_LFS if where == "lfs" else INTO_GIT
    return _run(_wish(target, f"export --to {where}", given), given)


@command.command("undo")
def undo_command() -> None:
    """Move the refs back to where they were before the last import or export.

    Refused if one of them has moved since.
    """
    session = Session()
    try:
        _undo(session)
    finally:
        session.close()


def _wish(target: Target, what: str, given: Mapping[str, Any]) -> Wish:
    """What is asked for; words that are no patterns are refs."""
    patterns, refs = _split(given["include"]), list(given["included"])
    repo = Repo.find()
    for word in given["words"]:
        is_ref = bool(given["include"]) or ref_named(repo, word) is not None
        (refs if is_ref else patterns).append(word)
    if refs and given["everything"]:
        raise UsageError("--everything and single refs exclude one another")
    return Wish(
        target=target,
        what=what,
        include=tuple(map(check_pattern, patterns)),
        exclude=tuple(map(check_pattern, _split(given["exclude"]))),
        refs=tuple(refs),
        excluded_refs=tuple(given["excluded"]),
        everything=given["everything"],
        dry_run=given["dry_run"],
        leave_missing=given.get("leave_missing", False),
    )


def _split(lists: Sequence[str]) -> list[str]:
    return [pattern.strip() for text in lists for pattern in text.split(",") if pattern.strip()]


def _run(wish: Wish, given: Mapping[str, Any]) -> int:
    session = Session()
    try:
        report = migrate(session, wish)
    finally:
        session.close()
    if given["as_json"]:
        say_json(report.to_dict())
    else:
        _print(report)
    for line in report.warnings:
        complain(f"warning: {line}")
    if report.refs and not wish.dry_run:
        _advise(wish, report)
    return 0


def _print(report: Report) -> None:
    if report.dry_run:
        say(
            f"would rewrite {count(report.rewritten, 'commit')} of {report.commits:,} and move "
            f"{count(len(report.refs), 'ref')}"
        )
        say(f"would convert {count(report.versions, 'version')}, {size_text(report.bytes)}")
        for path, number, size in report.paths:
            say(f"  {printable(path)}: {count(number, 'version')}, {size_text(size)}")
        if report.to_fetch:
            say(f"would first fetch {count(report.to_fetch, 'file')} with Git LFS")
        return
    if not report.refs:
        say("nothing to rewrite")
        return
    say(
        f"{count(report.versions, 'version')} converted and proven, {size_text(report.bytes)}; "
        f"stored: {size_text(report.stored)}"
    )
    say(
        f"{count(report.rewritten, 'commit')} of {report.commits:,} rewritten, "
        f"{count(len(report.refs), 'ref')} moved"
    )


def _advise(wish: Wish, report: Report) -> None:
    """What to do next."""
    lines = ["the refs as they were are under " + report.backup + "; what comes next:"]
    if wish.target is INTO_LFS:
        lines.append("  git lfs install --skip-repo, git lfs push --all origin    the files")
    lines += [
        "  git push --force --all && git push --force --tags    then everybody clones anew",
        "  git theta migrate undo    to go back",
        "  docs/migrating.md says how to free the space of the old history",
    ]
    for line in lines:
        note(line)


def _undo(session: Session) -> None:
    repo = session.repo
    moves = Moves(repo)
    pending = moves.pending()
    if pending is not None:
        moves.run(pending)
        note(f"finished git theta migrate {pending.what}, which was interrupted")
        if pending.undoes:
            return
    check_safe(repo)
    last = moves.last()
    if last is None:
        raise NotTrackedError("no migration is left to undo", hint="git reflog")
    back = Move(
        last.number,
        "undo",
        [(name, new, old) for name, old, new in last.refs],
        (last.head[1], last.head[0]) if last.head else None,
        undoes=True,
    )
    looks = looks_of(repo, back.head[0]) if back.head else {}
    moves.run(back, looks)
    say(f"{count(len(back.refs), 'ref')} moved back")
