"""Files staged by ourselves: manifests into Git, the catalog and the index, with stat data."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from git_theta.commands.clean import clean
from git_theta.commands.session import Session
from git_theta.core.choice import Choice
from git_theta.core.manifest import Chunk, Manifest, Segment, dump, is_manifest
from git_theta.errors import NotTrackedError, ThetaError
from git_theta.repo.collect import blob_id
from git_theta.repo.gitrepo import Repo
from git_theta.repo.index import restat
from git_theta.repo.streams import CountedStream, Incoming, PlainStream, open_regular

_MANIFEST_LIMIT = 256 << 20

Advance = Callable[[int], None]
Look = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was staged for a path. `stored` are the bytes that no version before had.

    `seen` is what `look` said of the file whose content was staged. `tensors` tells, for tensors
    that the command changed, what it did.
    """

    path: str
    mode: str
    blob: str
    size: int
    stored: int
    kinds: dict[str, int]
    seen: Look = ()
    tensors: tuple[dict[str, Any], ...] = ()
    total: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For a report as JSON."""
        shown = {key: getattr(self, key) for key in ("path", "blob", "size", "stored", "kinds")}
        return shown | {"tensors": list(self.tensors)} | self.total


def stored_version(session: Session, path: str) -> Manifest | None:
    """The manifest that is staged for a path, else that of HEAD; None where there is neither.

    Raises:
        ManifestError: it is damaged.
    """
    for name in (f":0:{path}", f"HEAD:{path}"):
        found = session.repo.objects.read(name, limit=_MANIFEST_LIMIT)
        if found is not None:
            if not is_manifest(found[1]):
                return None
            session.staged = {found[1]: session.parse(found[1])}
            return session.staged[found[1]]
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How a file is to be stored: by a choice of updates, all anew, some tensors marked lossy."""

    choice: Choice | None = None
    force: bool = False
    lossy: Collection[str] = ()


AS_IT_IS = Wanted()


def add_file(session: Session, path: str, advance: Advance, wanted: Wanted = AS_IT_IS) -> Report:
    """Store a work-tree file as it is, to be staged.

    Raises:
        NotTrackedError: it is gone.
    """
    full = session.path(path)
    seen = look(full)
    handle = open_regular(full)
    if handle is None:
        raise NotTrackedError(f"{path} cannot be read")
    try:
        stream = CountedStream(PlainStream(handle), advance)
        return replace(make(session, path, stream, wanted), seen=seen)
    finally:
        os.close(handle)


def make(session: Session, path: str, content: Incoming, wanted: Wanted) -> Report:
    """Store a file and give Git and the catalog its manifest; the index is left as it is.

    Every chunk that was marked as lossy before stays marked.
    """
    old: Manifest | None = None
    with suppress(ThetaError):
        old = stored_version(session, path)
    before = {c.at for c in old.all_chunks()} if old is not None else set()
    text = clean(session, path, content, choice=wanted.choice, force=wanted.force)
    manifest = session.parse(text)
    marked = _marked(manifest, old, wanted.lossy)
    if marked != manifest:
        manifest, text = marked, dump(marked)
        session.catalog.claim(manifest.objects, blob_id(session.repo, text))
        session.catalog.keep_manifest(manifest.digest, text, replace=True)
    session.staged = {text: manifest}
    oid = session.repo.git("hash-object", "-w", "--no-filters", "--stdin", stdin=text)
    fresh = {chunk.at: chunk for chunk in manifest.all_chunks() if chunk.at not in before}
    kinds: dict[str, int] = {}
    for chunk in fresh.values():
        kinds[chunk.kind] = kinds.get(chunk.kind, 0) + chunk.at.size
    return Report(
        path=path,
        mode=_mode(session.repo, path),
        blob=oid.decode().strip(),
        size=manifest.size,
        stored=sum(kinds.values()),
        kinds=kinds,
    )


def _marked(manifest: Manifest, old: Manifest | None, lossy: Collection[str]) -> Manifest:
    digests = {c.digest for name in lossy for c in manifest.tensors[name].segment.chunks}
    if old is not None:
        digests |= {chunk.digest for chunk in old.all_chunks() if chunk.lossy}
    if not digests:
        return manifest

    def chunk_in(chunk: Chunk) -> Chunk:
        return chunk._replace(lossy=True) if chunk.digest in digests else chunk

    def segment_in(segment: Segment) -> Segment:
        return segment._replace(chunks=tuple(map(chunk_in, segment.chunks)))

    segments = {digest: segment_in(segment) for digest, segment in manifest.segments.items()}
    tensors = {
        name: t._replace(segment=segments[t.segment.digest] if t.shared else segment_in(t.segment))
        for name, t in manifest.tensors.items()
    }
    return manifest._replace(tensors=tensors, segments=segments)


def _mode(repo: Repo, path: str) -> str:
    """The mode that Git would stage a file with."""
    if repo.config.get("core.filemode", "true").lower() == "false":
        staged = [entry.mode for entry in repo.staged(f":(top,literal){path}")]
        return staged[0] if staged else "100644"
    executable = (repo.cwd / path).lstat().st_mode & stat.S_IXUSR
    return "100755" if executable else "100644"


def stage(repo: Repo, made: Sequence[Report]) -> None:
    """Put manifests into the index, with the stat data of files that are still as they were."""
    lines = (f"{one.mode} {one.blob} 0\t{one.path}\0" for one in made)
    told = "".join(lines).encode(errors="surrogateescape")
    repo.git("update-index", "-z", "--index-info", stdin=told)
    repo.close()  # what reads objects goes on with the index that it read first
    same = {m.path: m.blob for m in made if m.seen and look(repo.cwd / m.path) == m.seen}
    if len(restat(repo, same)) < len(made):
        repo.git("update-index", "-q", "--refresh", check=False)


def look(path: Path) -> Look:
    """What tells one state of a file from another without reading it."""
    with suppress(OSError):
        found = path.lstat()
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode
    return ()
