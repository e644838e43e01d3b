"""Both sides of a difference brought to hand: manifests, raw files, and what must be fetched."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack

from git_theta.commands.model_versions import File, Source, Stored, Version, parse_versions
from git_theta.commands.options import path_from_top
from git_theta.commands.session import Session
from git_theta.core.changes import RENAMED, compare
from git_theta.core.manifest import Chunk, is_manifest
from git_theta.errors import MissingError, NotTrackedError
from git_theta.repo.raw_diff import Entry
from git_theta.repo.remotes import collect, failure
from git_theta.repo.streams import open_regular
from git_theta.repo.tracked import manifest_text, parse_at


class Sides:
    """Opens versions of models; what it opens is closed with the stack."""

    def __init__(self, session: Session, stack: ExitStack) -> None:
        self.session = session
        self._stack = stack
        self._sources: dict[tuple[str, str | None], Source] = {}

    def version(self, entries: Sequence[Entry]) -> Version | None:
        """The model that some files make, or None where there are none."""
        if not entries:
            return None
        return Version(File(entry.path, self._source(entry)) for entry in entries)

    def versions(
        self, old: Sequence[Entry], new: Sequence[Entry]
    ) -> tuple[Version | None, Version | None]:
        """Both sides of a comparison."""
        if len(old) == len(new) == 1 and not self._opened(*old, *new):
            texts = [e.blob and self._manifest(e.blob) for e in (*old, *new)]
            if texts[0] and texts[1]:
                paths = old[0].path, new[0].path
                return parse_versions(self.session, paths, (texts[0], texts[1]))
        return self.version(old), self.version(new)

    def _opened(self, *entries: Entry) -> bool:
        return any((entry.path, entry.blob) in self._sources for entry in entries)

    def tensor_names(self, entry: Entry) -> frozenset[str]:
        """The names of the tensors of one file."""
        return frozenset(self._source(entry).manifest.tensors)

    def place(self, text: str) -> list[Entry]:
        """The files that `REV:PATH` names: one, or all below a directory.

        Raises:
            NotTrackedError: there is no such file.
        """
        rev, _, path = text.partition(":")
        repo = self.session.repo
        if path.startswith("./"):
            path = path_from_top(repo, path)
        if not rev:
            found = [Entry(e.path, e.mode, e.oid) for e in repo.staged(f":(top,literal){path}")]
        else:
            found = self._in_tree(rev, path)
        if not found:
            raise NotTrackedError(f"there is no file {text!r}", hint="git theta ls-files")
        return found

    def _in_tree(self, rev: str, path: str) -> list[Entry]:
        repo = self.session.repo
        listing = repo.git("ls-tree", "-r", "-z", "--full-tree", rev, "--", path)
        found = []
        for item in listing.decode(errors="surrogateescape").split("\0"):
            meta, _, name = item.partition("\t")
            fields = meta.split()
            if fields and fields[0].startswith("100"):
                found.append(Entry(name, fields[0], fields[2]))
        if len(found) > 1:  # of a directory, what git-theta keeps
            ours = repo.attributes([entry.path for entry in found], ["filter"])
            found = [e for e in found if ours.get(e.path, {}).get("filter") == "theta"]
        return found

    def _source(self, entry: Entry) -> Source:
        key = (entry.path, entry.blob)
        if key not in self._sources:
            self._sources[key] = self._open(entry)
        return self._sources[key]

    def _open(self, entry: Entry) -> Source:
        if entry.blob is not None:
            text = self._manifest(entry.blob)
            if text is not None:
                return Stored(self.session, parse_at(entry.path, text))
            return self._scratch(entry.path, self._spooled(entry.blob))
        handle = open_regular(self.session.path(entry.path))
        if handle is None:
            raise NotTrackedError(f"{entry.path!r} is no file in the work tree")
        self._stack.callback(os.close, handle)
        if is_manifest(os.pread(handle, 64, 0)):
            size = os.fstat(handle).st_size
            return Stored(self.session, parse_at(entry.path, os.pread(handle, size, 0)))
        from git_theta.commands.peeking import peek

        return peek(self.session, entry.path, handle)

    def _manifest(self, blob: str) -> bytes | None:
        begin = self.session.repo.objects.read(blob, limit=64)
        if begin is None:
            raise MissingError(f"Git has no blob {blob}", hint="git fetch")
        return manifest_text(self.session.repo, blob) if is_manifest(begin[1]) else None

    def _spooled(self, blob: str) -> int:
        """A file that was committed raw, written out, since it is read out of order."""
        from git_theta.repo.streams import blob_into

        file = self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        blob_into(self.session.repo.cwd, blob, file.fileno())
        return file.fileno()

    def _scratch(self, path: str, handle: int) -> Source:
        from git_theta.commands.scratch import Scratch

        return Scratch(self.session, path, handle)

    # --- fetching --------------------------------------------------------------------------------

    def fetch(self, old: Version | None, new: Version | None, *, exact: bool) -> list[str]:
        """Fetch the summaries of what changed, or its weights; what could not be had is told.

        Raises:
            MissingError: weights are wanted, and no remote has them.
            TransferError: weights are wanted, and a remote could not be asked.
        """
        if old is None or new is None:
            return []
        wanted: dict[str, int] = {}
        for source, chunk in _changed_chunks(old, new):
            if exact:
                wanted |= source.objects([chunk])
            if chunk.summary is not None and isinstance(source, Stored):
                oid = chunk.summary.oid
                wanted[oid] = source.manifest.objects[oid]
        store = self.session.store
        missing = store.lacking(wanted)
        if not missing:
            return []
        found = collect(self.session.repo, store, missing)
        for file in (*old.files, *new.files):
            if isinstance(file.source, Stored):
                file.source.forget()
        if not found.missing:
            return []
        if exact:
            raise failure(found)
        return ["some summaries are not here and could not be fetched: distances are not known"]


def _changed_chunks(old: Version, new: Version) -> Iterator[tuple[Source, Chunk]]:
    for change in compare(old.tensors, new.tensors).changes:
        if change.old is None or change.new is None or change.what == RENAMED:
            continue
        before, after = change.old.segment.chunks, change.new.segment.chunks
        kept = _digests(before) & _digests(after)
        for version, chunks in ((old, before), (new, after)):
            for chunk in chunks:
                if chunk.digest not in kept or chunk.summary is not None:
                    yield version.sources[change.name], chunk


def _digests(chunks: Iterable[Chunk]) -> set[str]:
    return {chunk.digest for chunk in chunks}
