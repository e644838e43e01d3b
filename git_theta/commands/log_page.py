"""The page of `git theta log --html`: the history of one model, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from git_theta import __version__
from git_theta.commands.diff_model import number
from git_theta.commands.history_steps import LogEntry, distances, tensor_lines, what_text
from git_theta.commands.pages.assemble import assemble
from git_theta.commands.session import Session
from git_theta.commands.terminal import printable
from git_theta.core.checkpoint import read_segment
from git_theta.core.manifest import parse
from git_theta.errors import ThetaError

_COMMITS = 2000
_NAMES = 40
_RECIPE = 4000


def log_page(session: Session, path: str, entries: Sequence[LogEntry]) -> str:
    """The page of some commits, given newest first."""
    shown = list(reversed(entries[:_COMMITS]))
    index = {entry.commit.oid: at for at, entry in enumerate(shown)}
    lanes = _lanes(entries[:_COMMITS])
    moved = distances(session, shown)
    data = {
        "path": printable(path),
        "version": __version__,
        "left": len(entries) - len(shown),
        "commits": [
            {
                "commit": entry.commit.oid,
                "short": entry.commit.oid[:9],
                "author": printable(entry.commit.author),
                "date": printable(entry.commit.date),
                "refs": printable(entry.commit.refs),
                "subject": printable(entry.commit.subject),
                "parents": [index[oid] for oid in entry.commit.parents if oid in index],
                "lane": lanes[entry.commit.oid],
                "merge": entry.merge,
                "recipe": _recipe(session, entry),
                "told": what_text(entry),
                "changed": len(entry.changes),
                "tensors": list(tensor_lines(entry, most=_NAMES)),
                "distance": number(distance),
                "stored": entry.stored,
            }
            for entry, distance in zip(shown, moved, strict=True)
        ],
    }
    return assemble("log", f"{printable(path)}: history", data)


def _lanes(entries: Sequence[LogEntry]) -> dict[str, int]:
    """A lane for each commit, so that lines of descent run side by side; newest first."""
    waiting: list[str | None] = []
    found: dict[str, int] = {}
    for entry in entries:
        oid = entry.commit.oid
        if oid not in waiting:
            waiting = _take(waiting, oid)
        lane = waiting.index(oid)
        found[oid] = lane
        waiting = [None if other == oid else other for other in waiting]
        for number_of, parent in enumerate(entry.commit.parents):
            if parent in waiting:
                continue
            if not number_of:
                waiting[lane] = parent
            else:
                waiting = _take(waiting, parent)
    return found


def _take(waiting: list[str | None], oid: str) -> list[str | None]:
    """Give a commit the first free lane."""
    if None in waiting:
        at = waiting.index(None)
        return [*waiting[:at], oid, *waiting[at + 1 :]]
    return [*waiting, oid]


def _recipe(session: Session, entry: LogEntry) -> str | None:
    """How a merge was made, where that is recorded; empty where it is not here."""
    if not entry.recipe or entry.commit.blob is None:
        return None
    found = session.repo.objects.read(entry.commit.blob)
    with suppress(ThetaError):
        manifest = parse(found[1]) if found is not None else None
        if manifest is not None and manifest.recipe is not None:
            read, updates = session.store.read, session.plugins.updates
            plain = read_segment(manifest.recipe, manifest, read, updates)
            text = plain[:_RECIPE].decode("utf-8", "backslashreplace")
            return "\n".join(map(printable, text.split("\n")))
    return ""
