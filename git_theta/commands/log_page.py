"""The page of `git theta log --html`: the history of one model, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from git_theta import __version__
from git_theta.commands.diff_model import number
from git_theta.commands.history_steps import LogEntry, distances, tensor_lines, what_text
from git_theta.commands.pages.assemble import assemble
from git_theta.commands.session import Session
from git_theta.commands.terminal import complain, printable
from git_theta.core.checkpoint import read_segment
from git_theta.core.manifest import Manifest, parse
from git_theta.errors import ThetaError
from git_theta.repo.remotes import collect

_COMMITS = 2000
_NAMES = 40
_RECIPE = 4000
# A recipe lies in a pack of its own or of small things; larger packs are not fetched for it.
_SMALL = 1 << 20


def log_page(session: Session, path: str, entries: Sequence[LogEntry]) -> str:
    """The page of some commits, given newest first."""
    shown = list(reversed(entries[:_COMMITS]))
    index = {entry.commit.oid: at for at, entry in enumerate(shown)}
    lanes = _lanes(entries[:_COMMITS])
    recipes = {entry.commit.oid: _recipe_of(session, entry) for entry in shown if entry.recipe}
    _fetch(session, shown, [found for found in recipes.values() if found is not None])
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
                "recipe": _recipe(session, recipes[entry.commit.oid]) if entry.recipe else None,
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


def _fetch(session: Session, entries: Sequence[LogEntry], recipes: Sequence[Manifest]) -> None:
    """Fetch the summaries and recipes that are not here; weights never."""
    wanted = {oid: size for entry in entries for oid, size in entry.objects.items()}
    for manifest in recipes:
        for chunk in manifest.recipe.chunks if manifest.recipe is not None else ():
            size = manifest.objects[chunk.at.oid]
            if size <= _SMALL:
                wanted[chunk.at.oid] = size
    missing = session.store.lacking(wanted)
    if missing and collect(session.repo, session.store, missing).missing:
        complain("git theta: some summaries could not be fetched: not every distance is known")


def _recipe_of(session: Session, entry: LogEntry) -> Manifest | None:
    """The manifest of a merge that says how it was made."""
    if entry.commit.blob is None:
        return None
    found = session.repo.objects.read(entry.commit.blob)
    with suppress(ThetaError):
        return parse(found[1]) if found is not None else None
    return None


def _recipe(session: Session, manifest: Manifest | None) -> str:
    """How a merge was made; empty where that is not here."""
    if manifest is None or manifest.recipe is None:
        return ""
    read, updates = session.store.read, session.plugins.updates
    with suppress(ThetaError):
        plain = read_segment(manifest.recipe, manifest, read, updates)
        text = plain[:_RECIPE].decode("utf-8", "backslashreplace")
        return "\n".join(map(printable, text.split("\n")))
    return ""
