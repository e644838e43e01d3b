"""`git theta scan`: what a checkpoint would run if somebody loaded it."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import click

from git_theta.commands.export import fetch_missing
from git_theta.commands.options import JSON_OPTION, path_from_top, split_revision
from git_theta.commands.session import Session
from git_theta.commands.terminal import count, note, printable, say, say_json
from git_theta.core.checkpoint import rebuild
from git_theta.core.manifest import Manifest
from git_theta.errors import NotTrackedError
from git_theta.formats.scanning import Finding, scan
from git_theta.repo.streams import FileReader, open_regular, write_fully
from git_theta.repo.tracked import find_blob, parse_at, staged_blobs, tree_blobs

FOUND = 1


@click.command()
@click.argument("places", nargs=-1, metavar="[PATH | REV:PATH | REV]...")
@JSON_OPTION
def command(places: tuple[str, ...], as_json: bool) -> int:
    """Say what files would run if somebody loaded them, without loading any.

    PATH is a file on disk, tracked or not; REV:PATH one out of history; REV all tracked files of
    that revision. Without arguments: what is staged. Pickles (PyTorch's too), TorchScript, Keras's
    Lambda layers and NumPy's arrays of objects are looked into. Ends with 1 when something was
    found that is not known to be harmless.

    git add looks too and warns; theta.scan = warn, refuse or off.
    """
    found: dict[str, list[Finding]] = {}
    session: Session | None = None
    try:
        for place in places or (":",):
            if place != ":" and os.path.isfile(place):  # noqa: PTH113 - False for what can be no path
                found[place] = scan_file(Path(place))
                continue
            session = session or Session()
            for name, manifest in _named(session, place):
                found[name] = _scan_stored(session, manifest)
    finally:
        if session is not None:
            session.close()
    if as_json:
        say_json([{"path": path, "findings": list(map(asdict, f))} for path, f in found.items()])
    else:
        _print(found)
    return FOUND if any(found.values()) else 0


def scan_file(path: Path) -> list[Finding]:
    """What a file on disk would run; a file that is no regular one runs nothing."""
    handle = open_regular(path)
    if handle is None:
        return []
    try:
        return scan(FileReader(handle))
    finally:
        os.close(handle)


def _named(session: Session, place: str) -> list[tuple[str, Manifest]]:
    """The manifests that an argument stands for."""
    repo = session.repo
    rev, path = split_revision(place)
    if place != ":" and ":" in place:
        path = path_from_top(repo, path) if rev is None or path.startswith("./") else path
        return [(place, parse_at(path, find_blob(repo, rev, path)[1]))]
    if place != ":" and repo.resolve(place) is None:
        raise NotTrackedError(f"{place} is neither a file nor a revision")
    blobs = staged_blobs(repo) if place == ":" else tree_blobs(repo, place)
    prefix = "" if place == ":" else f"{place}:"
    return [(prefix + b.path, parse_at(b.path, b.text)) for b in blobs if b.text is not None]


def _scan_stored(session: Session, manifest: Manifest) -> list[Finding]:
    """Rebuild a stored file beside the store, and look at it."""
    store = session.store
    fetch_missing(session, manifest)
    handle, name = store.temporary()
    try:
        for piece in rebuild(manifest, store.read, session.plugins):
            write_fully(handle, piece)
        return scan(FileReader(handle))
    finally:
        name.unlink(missing_ok=True)
        os.close(handle)


def _print(found: dict[str, list[Finding]]) -> None:
    for path, findings in found.items():
        for finding in findings:
            inside = f" in {printable(finding.where)}" if finding.where else ""
            what = f"{printable(finding.what)}{inside}: {printable(finding.message)}"
            say(f"{printable(path)}: {finding.verdict}: {what}")
    bad = sum(bool(findings) for findings in found.values())
    said = "nothing that would run" if not bad else f"{bad} of them would run code"
    note(f"{count(len(found), 'file')} looked at: {said}")
