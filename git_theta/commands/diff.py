"""`git theta diff`: what changed between two versions of the models, tensor by tensor."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from git_theta.commands.comparing import Watch, metrics
from git_theta.commands.diff_model import ModelDiff, compare_versions
from git_theta.commands.diff_pairs import Model, models, paired
from git_theta.commands.diff_sides import Sides
from git_theta.commands.diff_text import lines, markdown, title
from git_theta.commands.options import JSON_OPTION, path_from_top
from git_theta.commands.session import Session
from git_theta.commands.terminal import note, printable, say, say_json, say_painted
from git_theta.errors import NotTrackedError, UsageError
from git_theta.repo.gitrepo import Repo
from git_theta.repo.raw_diff import changed_files

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

_PATHS = "git_theta.paths"
_OID = re.compile(r"\b[0-9a-f]{40}\b")


class _WithPaths(click.Command):
    """A command whose words behind `--` are paths, as Git's are."""

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.meta[_PATHS] = args[at + 1 :]
            args = args[:at]
        return super().parse_args(ctx, args)


@click.command(cls=_WithPaths)
@click.argument("words", metavar="[A [B]] [--] [PATH]...", nargs=-1)
@click.option("--cached", "--staged", "staged", is_flag=True, help="What is staged, against A.")
@click.option("--exact", is_flag=True, help="Read the weights of what changed, fetching them.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Report as Markdown.")
@click.option("--html", "page", metavar="FILE", help="Write a page to look at.")
@click.option("--exit-code", is_flag=True, help="End with 1 when something differs.")
@JSON_OPTION
@click.pass_context
def command(  # noqa: PLR0913
    context: click.Context,
    words: tuple[str, ...],
    staged: bool,
    exact: bool,
    as_markdown: bool,
    page: str | None,
    exit_code: bool,
    as_json: bool,
) -> int:
    """Show what changed in the models, tensor by tensor.

    \b
        git theta diff                      the work tree against what is staged
        git theta diff HEAD~3               the work tree against a commit
        git theta diff main topic           two commits; main...topic from where they parted
        git theta diff v1:a.pt v2:b.safetensors     two files, whatever their names and formats

    Distances are estimated from the summaries that are stored beside the weights; --exact
    reads the weights of the tensors that changed.
    """
    session = Session()
    with ExitStack() as stack:
        stack.callback(session.close)
        sides = Sides(session, stack)
        pairs = _pairs(sides, words, context.meta.get(_PATHS), staged)
        if page is not None:
            told = " -> ".join(map(_short, words[:2])) or "the work tree"
            return int(_write(sides, pairs, page, told, exact=exact) and exit_code)
        found = list(_compared(sides, pairs, exact=exact))
    differing = [diff for diff in found if diff.differs]
    if as_json:
        say_json(report(differing, exact=exact))
    elif as_markdown:
        for diff in differing:
            for line in markdown(diff):
                say(line)
    else:
        _print(differing)
    return int(exit_code and bool(differing))


def _write(sides: Sides, pairs: Sequence[Model], page: str, told: str, *, exact: bool) -> bool:
    """Write the page, and say whether anything differs.

    The weights of what changed are read where they are here.
    """
    from git_theta.commands.diff_page import diff_page
    from git_theta.commands.pages.assemble import write_page
    from git_theta.commands.watching import Pictures

    made = []
    for model in pairs:
        pictures = Pictures()
        (diff,) = _compared(sides, [model], exact=exact, watch=pictures)
        if diff.differs:
            made.append((diff, pictures.found))
    write_page(Path(page), diff_page(made, told, exact=exact))
    note(f"written: {printable(page)}")
    return bool(made)


def _short(word: str) -> str:
    """A revision as people write it: the id of a commit has few digits."""
    return _OID.sub(lambda found: found[0][:9], word)


def differences(
    session: Session, words: Sequence[str], paths: Sequence[str] | None, *, exact: bool
) -> list[ModelDiff]:
    """The models that differ, for whoever wants records rather than a report."""
    with ExitStack() as stack:
        sides = Sides(session, stack)
        pairs = _pairs(sides, words, paths, staged=False)
        return [diff for diff in _compared(sides, pairs, exact=exact) if diff.differs]


def _print(diffs: Sequence[ModelDiff]) -> None:
    for number, diff in enumerate(diffs):
        if number:
            say("")
        say_painted(title(diff), "bold")
        for line in lines(diff):
            say(line)


def report(diffs: Sequence[ModelDiff], *, exact: bool) -> dict[str, Any]:
    """The answer for JSON."""
    return {
        "exact": exact,
        "metrics": [
            {"name": name, "title": metric.title, "needs": metric.needs}
            for name, metric in metrics().items()
        ],
        "models": [diff.to_dict() for diff in diffs],
    }


def _compared(
    sides: Sides, pairs: Sequence[Model], *, exact: bool, watch: Watch | None = None
) -> Iterator[ModelDiff]:
    threads = sides.session.settings.threads
    for model in pairs:
        old, new = sides.versions(model.old, model.new)
        notes = sides.fetch(old, new, exact=exact)
        yield compare_versions(
            model.name,
            old,
            new,
            exact=exact or watch is not None,
            threads=threads,
            notes=notes,
            watch=watch,
        )


def _pairs(
    sides: Sides, words: Sequence[str], paths: Sequence[str] | None, staged: bool
) -> list[Model]:
    """What is to be compared with what."""
    repo = sides.session.repo
    if len(words) == 2 and paths is None and all(_is_place(repo, word) for word in words):
        old, new = map(sides.place, words)
        return [Model(new[0].path, old, new)]
    revisions, named = _split(repo, words, paths)
    specs = [f":(top,literal){path_from_top(repo, path)}" for path in named]
    changed = changed_files(repo, revisions, specs, staged=staged)
    found = models(changed)
    lonely = [e for m in found if not (m.old and m.new) for e in (*m.old, *m.new)]
    names = {entry.path: sides.tensor_names(entry) for entry in lonely}
    return paired(found, names)


def _is_place(repo: Repo, word: str) -> bool:
    """Whether a word is REV:PATH rather than a revision or a path."""
    rev, colon, path = word.partition(":")
    return bool(colon and path) and (not rev or repo.resolve(rev) is not None)


def _split(
    repo: Repo, words: Sequence[str], paths: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Revisions and paths; without `--`, a word that is no revision is a path, as with Git.

    Raises:
        NotTrackedError: a word is neither.
    """
    if paths is not None:
        if len(words) > 2:
            raise UsageError("there are at most two revisions to compare")
        return list(words), list(paths)
    revisions = list(words)
    named: list[str] = []
    for at, word in enumerate(words):
        if at == 2 or not _is_revision(repo, word):
            revisions, named = list(words[:at]), list(words[at:])
            break
    for word in named:
        if not os.path.lexists(repo.cwd / word):
            raise NotTrackedError(
                f"{word!r} is no revision, and no file in the work tree",
                hint="put -- before paths of files that are gone",
            )
    return revisions, named


def _is_revision(repo: Repo, word: str) -> bool:
    ends = word.replace("...", "..").split("..")
    return all(not end or repo.resolve(end) is not None for end in ends)
