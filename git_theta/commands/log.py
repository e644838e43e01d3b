"""`git theta log`: the commits of a model, and what each did to it."""

from __future__ import annotations

from pathlib import Path

import click

from git_theta.commands.history_steps import LogEntry, entries, tensor_lines, what_text
from git_theta.commands.options import JSON_OPTION, path_from_top
from git_theta.commands.session import Session
from git_theta.commands.terminal import note, printable, say, say_json, say_painted
from git_theta.errors import NotTrackedError
from git_theta.repo.history import commits


@click.command()
@click.argument("words", metavar="[REV]... PATH", nargs=-1, required=True)
@click.option("--tensor", "globs", multiple=True, metavar="GLOB", help="Only tensors like this.")
@click.option("-n", "--max-count", "most", type=click.IntRange(min=1), help="At most so many.")
@click.option("--all", "everything", is_flag=True, help="All branches and tags.")
@click.option("--html", "page", metavar="FILE", help="Write a page to look at.")
@JSON_OPTION
def command(
    words: tuple[str, ...],
    globs: tuple[str, ...],
    most: int | None,
    everything: bool,
    page: str | None,
    as_json: bool,
) -> None:
    """List the commits of a model, newest first, and what each did to it.

    \b
        git theta log model.safetensors
        git theta log v1.0..main model.safetensors --tensor '*.attn.*'

    A merge is compared with its first parent. STORED counts the objects that a commit brought.
    """
    session = Session()
    try:
        *revisions, name = words
        revisions += ["--all"] if everything else []
        path = path_from_top(session.repo, name)
        found = commits(session.repo, revisions or ["HEAD"], path)
        if not found:
            raise NotTrackedError(f"no commit has a file {path!r}", hint="git theta ls-files")
        shown = []
        for entry in entries(session.repo, found, globs, places=page is not None):
            shown.append(entry)
            if not (as_json or page):
                _print(entry)
            if len(shown) == most:
                break
        if page is not None:
            _write(session, path, shown, Path(page))
    finally:
        session.close()
    if as_json:
        say_json([entry.to_dict() for entry in shown])


def _write(session: Session, path: str, shown: list[LogEntry], page: Path) -> None:
    from git_theta.commands.log_page import log_page
    from git_theta.commands.pages.assemble import write_page

    write_page(page, log_page(session, path, shown))
    note(f"written: {printable(str(page))}")


def _print(entry: LogEntry) -> None:
    commit = entry.commit
    refs = f" ({printable(commit.refs)})" if commit.refs else ""
    say_painted(f"{commit.oid[:9]}{refs} {commit.date[:10]} {printable(commit.author)}", "yellow")
    say(f"    {printable(commit.subject)}")
    say(f"    {what_text(entry)}")
    if entry.state == "changed":
        for line in tensor_lines(entry):
            say(f"      {line}")
