"""`git theta ls-files`: the files that git-theta keeps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from git_theta.commands.options import JSON_OPTION
from git_theta.commands.terminal import note, printable, say, say_json, say_table, size_text
from git_theta.repo.gitrepo import Repo
from git_theta.repo.tracked import (
    TrackedBlob,
    is_left_as_manifest,
    parse_at,
    staged_blobs,
    tree_blobs,
)

_MARKS = {"full": "*", "manifest": "-", "raw": "!", "absent": " "}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One tracked file: `state` is full, manifest, raw (not kept by us yet) or absent."""

    path: str
    blob: str
    state: str
    size: int | None = None
    format: str | None = None
    tensors: int | None = None
    digest: str | None = None


@click.command()
@click.argument("rev", required=False)
@click.option("-l", "--long", "is_long", is_flag=True, help="Show format and number of tensors.")
@JSON_OPTION
def command(rev: str | None, is_long: bool, as_json: bool) -> None:
    """List the files that git-theta keeps, in the index or in the revision REV.

    \b
    *  the file is in the work tree
    -  the work tree holds only its manifest (git theta pull writes the file)
    !  committed raw, before it was tracked (git add --renormalize)
    """
    repo = Repo.find()
    blobs = staged_blobs(repo) if rev is None else tree_blobs(repo, rev)
    rows = [describe(repo, blob) for blob in blobs]
    if as_json:
        say_json([{name: getattr(row, name) for name in Row.__slots__} for row in rows])
    elif is_long:
        say_table(("", "SIZE", "TENSORS", "FORMAT", "PATH"), map(_cells, rows), right=(1, 2))
    else:
        for row in rows:
            told = "" if row.size is None else f" ({size_text(row.size)})"
            say(f"{_MARKS[row.state]} {printable(row.path)}{told}")
    if not rows:
        note("git-theta keeps no file here; for example: git theta track '*.safetensors'")


def describe(repo: Repo, blob: TrackedBlob) -> Row:
    """What is known of a tracked file from its manifest and the work tree."""
    if blob.text is None:
        return Row(path=blob.path, blob=blob.oid, state="raw")
    manifest = parse_at(blob.path, blob.text)
    return Row(
        path=blob.path,
        blob=blob.oid,
        state=_state(repo.top / blob.path if repo.top else None),
        size=manifest.size,
        format=manifest.format,
        tensors=len(manifest.tensors),
        digest=manifest.digest or None,
    )


def _state(path: Path | None) -> str:
    if path is None or not path.is_file():
        return "absent"
    return "manifest" if is_left_as_manifest(path) else "full"


def _cells(row: Row) -> tuple[str, ...]:
    size = "" if row.size is None else size_text(row.size)
    tensors = "" if row.tensors is None else str(row.tensors)
    return _MARKS[row.state], size, tensors, row.format or "", row.path
