"""What each commit of a history did to a model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from git_theta.commands.session import Session
from git_theta.commands.terminal import printable, size_text
from git_theta.core.changes import KINDS
from git_theta.core.folding import fold, joined_old_name, renamed_like
from git_theta.core.lines import Step, step
from git_theta.core.manifest import Place
from git_theta.repo.gitrepo import Repo
from git_theta.repo.history import Commit, Manifests
from git_theta.repo.summaries import read_summaries

_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """A commit and what it did to the model, compared with its first parent.

    `changes` maps tensors to kinds of change, `renamed` new names to old ones. `stored` are the
    bytes of the objects that it brought. `places` are the summaries, before and after, of the
    chunks that changed, and `objects` where they lie, with sizes. `state` is `changed`, `added`,
    `removed`, or `raw` where a side is no manifest.
    """

    commit: Commit
    changes: dict[str, str]
    renamed: dict[str, str]
    stored: int
    state: str
    merge: bool
    recipe: bool
    places: tuple[tuple[Place, Place], ...] = ()
    objects: Mapping[str, int] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """How many tensors changed in which way."""
        found = Counter(self.changes.values())
        return {what: found[what] for what in KINDS if found[what]}

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `docs/commands.md` names the keys."""
        commit = self.commit
        return {
            "commit": commit.oid,
            "parents": list(commit.parents),
            "author": commit.author,
            "date": commit.date,
            "refs": commit.refs,
            "subject": commit.subject,
            "path": commit.path,
            "state": self.state,
            "merge": self.merge,
            "recipe": self.recipe,
            "stored": self.stored,
            "counts": self.counts(),
            "tensors": [
                {"name": name, "what": what, "old_name": self.renamed.get(name)}
                for name, what in self.changes.items()
            ],
        }


def entries(
    repo: Repo, found: Sequence[Commit], globs: Sequence[str] = (), *, places: bool = False
) -> Iterator[LogEntry]:
    """What each commit did; with `globs` only commits that touched such a tensor."""
    blobs = (blob for commit in found for blob in (commit.blob, commit.before))
    manifests = Manifests(repo, blobs)
    for commit in found:
        new, old = manifests.take(commit.blob), manifests.take(commit.before)
        raw = (new is None and commit.blob) or (old is None and commit.before)
        did = (
            step(old, new, summaries=places)
            if not raw
            else Step(changes={}, renamed={}, stored=0, summaries=(), sizes={})
        )
        changes = {
            name: what
            for name, what in did.changes.items()
            if not globs or _is_like((name, did.renamed.get(name, name)), globs)
        }
        if globs and not changes:
            continue
        state = "added" if commit.before is None else "changed"
        yield LogEntry(
            commit=commit,
            changes=changes,
            renamed={name: was for name, was in did.renamed.items() if name in changes},
            stored=did.stored,
            state="raw" if raw else "removed" if commit.blob is None else state,
            places=did.summaries,
            objects=did.sizes,
            merge=len(commit.parents) > 1,
            recipe=new is not None and new.merged,
        )


def _is_like(names: Sequence[str], globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for name in names for glob in globs)


def what_text(entry: LogEntry) -> str:
    """What a commit did, in one line."""
    merged = "merge; " if entry.merge else ""
    if entry.state == "raw":
        return f"{merged}a side is no manifest: committed before the file was tracked"
    if entry.state == "removed":
        return f"{merged}the file was removed"
    counts = ", ".join(f"{number:,} {what}" for what, number in entry.counts().items())
    added = "the file was added; " if entry.state == "added" else ""
    return f"{merged}{added}{counts or 'no tensor changed'}; stored {size_text(entry.stored)}"


def tensor_lines(entry: LogEntry, *, most: int = _SHOWN) -> Iterator[str]:
    """The tensors that a commit changed; numbered blocks share a line."""
    lines = [
        (f"{what} ", folded)
        for what in KINDS
        for folded in fold(
            [name for name, kind in entry.changes.items() if kind == what],
            lambda name: name,
            lambda name: name in entry.renamed and renamed_like(entry.renamed[name], name),
        )
    ]
    for what, folded in lines[:most]:
        number = f" ({len(folded.items)})" if len(folded.items) > 1 else ""
        name, first = printable(folded.name), folded.items[0]
        if first in entry.renamed:
            was = joined_old_name(folded.name, entry.renamed[first], first)
            name = f"{printable(was)} -> {name}"
        yield f"{what}{name}{number}"
    if len(lines) > most:
        yield f"... and {sum(len(f.items) for _, f in lines[most:]):,} more (--json has all)"


def distances(session: Session, entries: Sequence[LogEntry]) -> list[float | None]:
    """How far each commit moved the model, as far as the summaries that are here tell."""
    wanted = {place for entry in entries for pair in entry.places for place in pair}
    found = read_summaries(session.store, wanted)
    moved: list[float | None] = []
    for entry in entries:
        square, known = 0.0, entry.state == "changed" and not entry.changes
        for old, new in entry.places:
            one, other = found.get(old), found.get(new)
            away = one.distance(other) if one is not None and other is not None else None
            if away is not None and math.isfinite(away):
                square, known = square + away * away, True
        moved.append(math.sqrt(square) if known else None)
    return moved
