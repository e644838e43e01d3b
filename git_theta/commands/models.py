"""Which files a command over a range of commits is about, and what it makes of them."""

from __future__ import annotations

from collections.abc import Sequence

from git_theta.commands.merging import Side
from git_theta.commands.options import path_from_top
from git_theta.commands.placing import Placed, place
from git_theta.commands.session import Session
from git_theta.commands.terminal import count, note, printable
from git_theta.commands.versions import side
from git_theta.core.sidecar import is_sidecar
from git_theta.errors import NotTrackedError, RefusedError, shell_word
from git_theta.repo.gitrepo import StagedEntry
from git_theta.repo.tracked import staged_paths


def chosen_models(
    session: Session, paths: Sequence[str], ends: tuple[str, str]
) -> list[StagedEntry]:
    """The models that were named, or else all that differ between two commits.

    Raises:
        NotTrackedError: there is none, or one that was named is not kept by git-theta.
    """
    named = {path_from_top(session.repo, path) for path in paths}
    entries = {e.path: e for e in staged_paths(session.repo) if e.stage == 0}
    unknown = sorted(named - entries.keys())
    if unknown:
        raise NotTrackedError(
            f"{unknown[0]} is not kept by git-theta here, or is in conflict",
            hint="git theta ls-files",
        )
    if named:
        return [entries[name] for name in sorted(named)]
    changed = session.repo.git("diff-tree", "-r", "-z", "--name-only", "--no-renames", *ends)
    names = changed.decode(errors="surrogateescape").split("\0")
    found = [entries[name] for name in names if name in entries and not is_sidecar(name)]
    if not found:
        raise NotTrackedError(
            "no model that git-theta keeps here differs between the ends of the range",
            hint="git theta ls-files",
        )
    return found


def refuse_changes(session: Session, entries: Sequence[StagedEntry]) -> None:
    """Refuse to write over what is not committed.

    Raises:
        RefusedError: a file, or what is staged for it, differs from HEAD.
    """
    names = [f":(top,literal){entry.path}" for entry in entries]
    changed = session.repo.git("status", "--porcelain", "-z", "--no-renames", "--", *names)
    if changed:
        name = changed.split(b"\0")[0][3:].decode(errors="surrogateescape")
        raise RefusedError(f"{name} has changes", hint="commit or stash them first")


def version_at(session: Session, commit: str, path: str, label: str) -> Side:
    """A model as it was in a commit.

    Raises:
        NotTrackedError: it was not there.
    """
    oid = session.repo.resolve(f"{commit}:{path}")
    if oid is None:
        raise NotTrackedError(
            f"there is no {path} in {label}", hint=f"git log -- {shell_word(path)}"
        )
    return side(session, path, oid, label, commit)


def put(session: Session, entry: StagedEntry, text: bytes) -> None:
    """Stage what was made of a model, and write its file."""
    place(session, {entry.path: Placed(entry.path, entry.mode, text)})


def told(entries: Sequence[StagedEntry]) -> None:
    """Say what the user does next."""
    names = printable(" ".join(entry.path for entry in entries))
    note(f"staged {count(len(entries), 'file')}; git commit -- {names}, or git restore -S -W")
