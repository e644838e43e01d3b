"""`git theta export`: a file out of history."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import click

from git_theta.commands.options import path_from_top, split_revision
from git_theta.commands.progress import counted, progress
from git_theta.commands.session import Session
from git_theta.commands.terminal import note, printable, size_text
from git_theta.core.checkpoint import rebuild
from git_theta.core.manifest import Manifest
from git_theta.errors import RefusedError, UsageError
from git_theta.repo.objects import store_failed
from git_theta.repo.remotes import resolve_missing
from git_theta.repo.temporary import umask
from git_theta.repo.tracked import find_blob, parse_at


@click.command()
@click.argument("place", metavar="[REV:]PATH")
@click.option("-o", "--output", required=True, metavar="FILE", help="Where to write; - is stdout.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def command(place: str, output: str, force: bool) -> None:
    """Write a file as it was in some commit, byte for byte.

    \b
        git theta export HEAD~3:model.safetensors -o old.safetensors

    PATH alone is what is staged. Objects that are not here are fetched first. FILE appears only
    when all of it is written and proven.
    """
    session = Session()
    try:
        rev, path = split_revision(place)
        if rev is None or path.startswith("./"):
            path = path_from_top(session.repo, path)
        manifest = parse_at(path, find_blob(session.repo, rev, path)[1])
        target = Path(output)
        if output != "-" and target.is_dir():
            raise UsageError(f"{target} is a directory", hint="name the file to write")
        if output != "-" and not force and os.path.lexists(target):
            raise RefusedError(f"{target} exists", hint="add --force to replace it")
        fetch_missing(session, manifest)
        _write(session, manifest, None if output == "-" else target)
    finally:
        session.close()
    note(f"{printable(place)}: {size_text(manifest.size)} written to {printable(output)}")


def fetch_missing(session: Session, manifest: Manifest) -> None:
    """Fetch the objects of a file that are not here."""
    missing = session.store.lacking(manifest.objects)
    if missing:
        resolve_missing(session.repo, session.store, missing)


def _write(session: Session, manifest: Manifest, target: Path | None) -> None:
    threads = session.settings.threads
    with progress(manifest.size, "writing") as advance:
        pieces = rebuild(manifest, session.store.lend, session.plugins, threads=threads)
        if target is None:
            for piece in counted(pieces, advance):
                sys.stdout.buffer.write(piece)
        else:
            write_whole(target, counted(pieces, advance))


def write_whole(target: Path, pieces: Iterable[memoryview]) -> None:
    """Write a file beside its place and move it there only when it is complete.

    Raises:
        StoreError: the disk is full, or the directory cannot be written.
    """
    part: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=target.parent, prefix=f".{target.name[:100]}.", delete=False
        ) as file:
            part = Path(file.name)
            for piece in pieces:
                file.write(piece)
        part.chmod(0o666 & ~umask())
        part.replace(target)
    except BaseException as error:
        if part is not None:
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            store_failed(error, f"{target} cannot be written", owned="that directory")
        raise
