"""A new version of a large file made out of the old one: only what differs is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from git_theta.commands.session import Session
from git_theta.core.manifest import Manifest, parse
from git_theta.core.patching import digest_of_parts, patches
from git_theta.errors import ManifestError
from git_theta.repo.exchange import put_in_place
from git_theta.repo.keeping import Kept, alone_with, digest_of_file, find
from git_theta.repo.streams import write_at
from git_theta.repo.temporary import umask


def write_by_patching(
    session: Session,
    path: str,
    text: bytes,
    target: Path,
    advance: Callable[[int], None],
) -> bool:
    """Make a kept old file into a new one and move it to its place; says whether that was done.

    What is kept may be the new file already: a merge writes it as it goes.

    It is not done where nothing was kept, where somebody still has the old file open, or where
    the old file turns out not to have been what its manifest said.

    Raises:
        CorruptError: what is stored is not what the manifest names.
        MissingError: an object is not here.
    """
    if (path, text) not in session.ahead:
        make_ahead(session, path, text)
    made = session.ahead.pop((path, text), None)
    if made is None:
        return False
    advance(made.stat().st_size)
    put_in_place(made, target)
    return True


def make_ahead(session: Session, path: str, text: bytes) -> None:
    """Make a kept old file into a new one, to be moved to its place later, if that can be done.

    Raises:
        CorruptError: what is stored is not what the manifest names.
        MissingError: an object is not here.
    """
    kept = find(session.settings.kept, path)
    if kept is None:
        return
    manifest = parse(text)
    with alone_with(kept.file) as handle:
        if handle is None or not _patch(session, kept, manifest, handle):
            return
        digest = _proven(session, manifest, handle)
        if digest is None:
            return
        if not manifest.digest:
            session.catalog.keep_manifest(digest, text)
        os.fchmod(handle, 0o666 & ~umask())
    session.ahead[path, text] = kept.file


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
    return True


def _proven(session: Session, manifest: Manifest, handle: int) -> str | None:
    """The digest of a file that is what its manifest says, else None.

    A merged file has no digest to be compared; all of its parts have.
    """
    if manifest.digest:
        right = digest_of_file(handle, manifest.size) == manifest.digest
        return manifest.digest if right else None

    def fill(view: memoryview, at: int) -> int:
        return os.preadv(handle, [view], at)

    if os.fstat(handle).st_size != manifest.size:
        return None
    return digest_of_parts(manifest, fill, session.store.lend, session.plugins)
