"""A new version of a large file made out of the old one: only what differs is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from git_theta.commands.export import umask
from git_theta.commands.session import Session
from git_theta.core.manifest import Manifest, parse
from git_theta.core.patching import patches
from git_theta.errors import ManifestError
from git_theta.repo.keeping import Kept, alone_with, digest_of_file, find
from git_theta.repo.streams import write_at


def write_by_patching(
    session: Session, path: str, manifest: Manifest, target: Path, advance: Callable[[int], None]
) -> bool:
    """Make a kept old file into a new one and move it to its place; says whether that was done.

    It is not done where nothing was kept, where somebody still has the old file open, or where
    the old file turns out not to have been what its manifest said.

    Raises:
        CorruptError: what is stored is not what the manifest names.
        MissingError: an object is not here.
    """
    kept = find(session.settings.kept, path)
    if kept is None or not manifest.digest:
        return False
    with alone_with(kept.file) as handle:
        if handle is None or not _patch(session, kept, manifest, handle):
            return False
        os.fchmod(handle, 0o666 & ~umask())
    advance(manifest.size)
    kept.file.replace(target)
    return True


def _patch(session: Session, kept: Kept, manifest: Manifest, handle: int) -> bool:
    try:
        old = parse(kept.text)
    except ManifestError:
        return False
    if os.fstat(handle).st_size != old.size:
        return False
    found = patches(
        old, manifest, session.store.lend, session.plugins, threads=session.settings.threads
    )
    if found is None:
        return False
    for patch in found:
        write_at(handle, patch.data, patch.offset)
    os.ftruncate(handle, manifest.size)
    return digest_of_file(handle, manifest.size) == manifest.digest
