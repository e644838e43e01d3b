"""Merged manifests put where they belong: object database, index, work tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from git_theta.commands.pull import Pending, pull
from git_theta.commands.session import Session
from git_theta.core.manifest import parse
from git_theta.errors import ThetaError
from git_theta.repo.gitrepo import Repo, StagedEntry


@dataclass(frozen=True, slots=True)
class Placed:
    """A manifest for a path."""

    path: str
    mode: str
    text: bytes


def write_blob(repo: Repo, text: bytes) -> str:
    """Put a manifest into Git's object database, as it is; returns its name."""
    return repo.git("hash-object", "-w", "--stdin", stdin=text).decode().strip()


def stage(repo: Repo, placed: Placed) -> StagedEntry:
    """Stage a manifest at stage 0, replacing a conflict."""
    oid = write_blob(repo, placed.text)
    zero = "0" * len(oid)
    lines = f"0 {zero}\t{placed.path}\0{placed.mode} {oid} 0\t{placed.path}\0"
    repo.git("update-index", "-z", "--index-info", stdin=lines.encode(errors="surrogateescape"))
    return StagedEntry(placed.mode, oid, 0, placed.path)


def place(session: Session, placed: Mapping[str, Placed]) -> None:
    """Stage manifests and write their files.

    Raises:
        ThetaError: a file cannot be written; what is staged stays staged.
    """
    repo = session.repo
    waiting = []
    for one in placed.values():
        entry = stage(repo, one)
        target = repo.cwd / one.path
        waiting.append(Pending(entry, target, one.text, parse(one.text)))
    failures: list[tuple[str, ThetaError]] = []
    pull(session, waiting, failures)
    if failures:
        raise failures[0][1]
