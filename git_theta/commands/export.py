"""`git theta export`: a file out of history."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import click

from git_theta.commands.fetching import fetch_missing
from git_theta.commands.options import path_from_top, split_revision
from git_theta.commands.plugged import PLUGINS
from git_theta.commands.progress import progress
from git_theta.commands.terminal import note, printable, size_text
from git_theta.core.checkpoint import rebuild
from git_theta.core.manifest import Manifest
from git_theta.errors import RefusedError
from git_theta.repo.gitrepo import Repo
from git_theta.repo.objects import Store
from git_theta.repo.tracked import find_blob, parse_at
from git_theta.settings import Settings


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
    repo = Repo.find()
    rev, path = split_revision(place)
    if rev is None or path.startswith("./"):
        path = path_from_top(repo, path)
    manifest = parse_at(path, find_blob(repo, rev, path)[1])
    target = Path(output)
    if output != "-" and not force and os.path.lexists(target):
        raise RefusedError(f"{target} exists", hint="add --force to replace it")
    store = Store.of(repo.common_dir)
    fetch_missing(repo, store, [manifest])
    settings = Settings.read(repo.config)
    with progress(manifest.size, f"writing {printable(target.name)}") as advance:
        pieces = _counted(rebuild(manifest, store.read, PLUGINS, threads=settings.threads), advance)
        if output == "-":
            _write_out(pieces)
        else:
            write_whole(target, pieces)
    note(f"{printable(place)}: {size_text(manifest.size)} written to {printable(output)}")
