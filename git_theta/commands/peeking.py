"""A work-tree file looked at for `git diff`: one pass, and nothing of it is stored.

Git has a changed file cleaned before it calls the diff driver. What the pass found is left in
the scratch directory, for the driver that comes next and would otherwise read the file again.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgpack

from git_theta.commands.scratch import NOWHERE, Found, Scratch
from git_theta.commands.session import Session
from git_theta.core.compact import with_objects
from git_theta.core.identity import same_content
from git_theta.core.manifest import Chunk, Manifest, dump, is_manifest, parse
from git_theta.errors import ManifestError, ThetaError
from git_theta.repo.candidates import Candidates
from git_theta.repo.streams import Incoming, open_regular

_SETTLED = 0.1
_ROOM = 1 << 40


Texts = Sequence[tuple[bytes, Manifest]]


def peek(session: Session, path: str, handle: int, before: Texts | None = None) -> Scratch:
    """An open work-tree file seen as a manifest; read again only if nobody has just done so.

    `before` are the manifests that stand for the path now, if they were read already.
    """
    place, stamp = _place(session, path), _stamp(handle)
    known = _known(_candidates(session, path) if before is None else before)
    with suppress(OSError, ValueError, TypeError, KeyError, msgpack.UnpackException, ThetaError):
        held = msgpack.unpackb(place.read_bytes(), use_list=False, strict_map_key=False)
        if held["stamp"] == stamp:
            return Scratch(session, path, handle, known=known, found=Found.read(held))
    scratch = Scratch(session, path, handle, known=known)
    if _stamp(handle) == stamp and time.time_ns() - stamp[2] > _SETTLED * 1e9:
        _leave(place, stamp, scratch)
    return scratch


def answer(session: Session, path: str, content: Incoming) -> bytes | None:
    """The manifest for Git to compare, or None where the file cannot be looked at.

    It is the one that stands for the path now if the file is what that says, else one whose
    new chunks lie nowhere.
    """
    if is_manifest(content.head(64)):
        return None
    handle = open_regular(session.path(path))
    if handle is None:
        return None
    try:
        if os.fstat(handle).st_size and os.pread(handle, 4096, 0) != content.head(4096):
            return None
        before = _candidates(session, path)
        scratch = peek(session, path, handle, before)
        content.drain()
        for text, manifest in before:
            if _same(manifest, scratch.manifest):
                return text
        return dump(_described(scratch.manifest, before))
    finally:
        os.close(handle)


def _same(known: Manifest, found: Manifest) -> bool:
    if known.digest and found.digest:
        return (known.digest, known.size) == (found.digest, found.size)
    return same_content(known, found)


def _candidates(session: Session, path: str) -> Texts:
    found = []
    for text in Candidates(session.repo).of_path(path):
        with suppress(ManifestError):
            found.append((text, parse(text)))
    return found


def _known(before: Texts) -> Mapping[str, Chunk]:
    """Chunks that stand for the path now, so that what did not change looks as it did."""
    return {
        chunk.digest: chunk for _, manifest in reversed(before) for chunk in manifest.all_chunks()
    }


def _described(manifest: Manifest, before: Texts) -> Manifest:
    """A manifest that can be written: with its bases and its objects."""
    known = _known(before)
    own = {chunk.digest for chunk in manifest.all_chunks()}
    bases: dict[str, Chunk] = {}
    for chunk in list(manifest.all_chunks()):
        base = chunk.base
        while base is not None and base not in own and base not in bases:
            bases[base] = known[base]._replace(summary=None)
            base = bases[base].base
    sizes = {NOWHERE: _ROOM}
    for _, other in before:
        sizes |= other.objects
    return with_objects(manifest._replace(bases=bases), sizes)


# --- what is left for the driver -----------------------------------------------------------------


def _place(session: Session, path: str) -> Path:
    where = f"{session.repo.git_dir}\0{path}".encode(errors="surrogateescape")
    return session.store.scratch / f"diff-{hashlib.sha256(where).hexdigest()[:32]}"


def _stamp(handle: int) -> tuple[int, int, int, int]:
    stat = os.fstat(handle)
    return (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size)


def _leave(place: Path, stamp: tuple[int, int, int, int], scratch: Scratch) -> None:
    """Keep what the pass found; whoever tidies up may take it away."""
    found = scratch.found()
    if found is None:
        return
    with suppress(OSError, ValueError):
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f"{place.name}.{os.getpid()}")
        part.write_bytes(msgpack.packb({"stamp": stamp, **found.to_dict()}))
        part.replace(place)
