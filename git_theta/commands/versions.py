"""The versions of a path that go into a merge: manifests from the index and from commits."""

from __future__ import annotations

from dataclasses import dataclass

from git_theta.commands.merging import Side
from git_theta.commands.session import Session
from git_theta.errors import MergeError
from git_theta.repo.tracked import manifest_text, parse_at


@dataclass(frozen=True, slots=True)
class Blob:
    """A file of one version: its mode and its blob."""

    mode: str
    oid: str


def side(session: Session, path: str, oid: str, label: str, commit: str | None = None) -> Side:
    """One version of a path by its blob; statistics are looked for beside it in its commit.

    Raises:
        MergeError: it was committed without git-theta.
        ManifestError: it is damaged.
    """
    text = manifest_text(session.repo, oid)
    if text is None:
        raise MergeError(f"{label}: {path} was committed without git-theta")
    manifest = parse_at(path, text)
    place = (commit, path) if commit else None
    return Side(manifest=manifest, label=label, text=text, place=place)


def tree(session: Session, rev: str) -> dict[str, Blob]:
    """The regular files of a revision by path."""
    listing = session.repo.git("ls-tree", "-r", "-z", "--full-tree", rev)
    found = {}
    for item in listing.split(b"\0"):
        meta, _, path = item.partition(b"\t")
        fields = meta.decode().split()
        if fields and fields[0].startswith("100"):
            found[path.decode(errors="surrogateescape")] = Blob(fields[0], fields[2])
    return found
