"""The versions of files that move: each converted once, and proven to give the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, Protocol

from git_theta.commands.clean import clean
from git_theta.commands.progress import counted, progress
from git_theta.commands.session import Session
from git_theta.core.checkpoint import rebuild
from git_theta.core.manifest import Manifest, is_manifest, parse
from git_theta.errors import CorruptError, MissingError, ThetaError
from git_theta.repo import remotes
from git_theta.repo.candidates import MAX_MANIFEST, Before
from git_theta.repo.closure import begins_as_manifest, objects_of
from git_theta.repo.gitrepo import GitError
from git_theta.repo.pointers import (
    LIMIT,
    LfsFiles,
    Pointer,
    pointer_text,
    read_pointer,
    sha256_of,
)
from git_theta.repo.rewrite import FileEntry, History
from git_theta.repo.streams import STREAMING, FileStream, blob_into, write_fully

_READ_WHOLE = 1 << 20
_SHOWN = 5

Kind = Literal["pointer", "plain", "manifest"]


class Place(NamedTuple):
    """Where a version was first met."""

    path: str
    commit: str

    @property
    def told(self) -> str:
        """For a message."""
        return f"{self.path} in commit {self.commit[:12]}"


class Version(NamedTuple):
    """A blob that the patterns match: what it is, and the size of the file it stands for."""

    kind: Kind
    size: int
    place: Place
    pointer: Pointer | None = None


Key = tuple[str, str]


def key_of(entry: FileEntry) -> Key:
    """Versions with one key are converted once: the ending of a name may decide the format."""
    return entry.oid, PurePosixPath(entry.path).suffix.lower()


class Converter(Protocol):
    """Gives the blob that is to stand for a version, or None where it stays as it is."""

    def prepare(self, versions: Mapping[str, Version]) -> None: ...

    def moves(self, version: Version) -> bool: ...

    def convert(self, entry: FileEntry, version: Version, before: Before) -> str: ...


def look_at(session: Session, history: History, places: Mapping[str, Place]) -> dict[str, Version]:
    """What the blobs are. Of large ones only the first bytes are read."""
    asked = "".join(f"{oid}\n" for oid in places).encode()
    told = session.repo.git("cat-file", "--batch-check", stdin=asked).decode() if places else ""
    found = {}
    for line, (oid, place) in zip(told.splitlines(), places.items(), strict=True):
        size = line.split()[-1]
        if not size.isdigit():
            raise MissingError(f"{place.told}: Git does not have blob {oid[:12]}", hint="git fsck")
        with _placed(place):
            found[oid] = _version(session, history, oid, int(size), place)
    return found


def _version(session: Session, history: History, oid: str, size: int, place: Place) -> Version:
    if size < LIMIT:
        pointer = read_pointer(history.raw(oid))
        if pointer is not None:
            return Version("pointer", pointer.size, place, pointer)
    if size <= _READ_WHOLE:
        stored = is_manifest(history.head(oid, 64))
    else:
        stored = size <= MAX_MANIFEST and begins_as_manifest(session.repo, oid)
    if stored:
        return Version("manifest", parse(history.raw(oid)).size, place)
    return Version("plain", size, place)


@contextmanager
def _placed(place: Place) -> Iterator[None]:
    """Failures say which file of which commit they are about."""
    try:
        yield
    except ThetaError as error:
        if place.told in str(error):
            raise
        raise type(error)(f"{place.told}: {error}", hint=error.hint) from error


class Journal:
    """What an interrupted run had converted and proven: a line for each version."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self, session: Session) -> dict[Key, str]:
        """The conversions whose results Git has."""
        found: dict[Key, str] = {}
        with suppress(OSError):
            for line in self.path.read_text(errors="surrogateescape").splitlines():
                with suppress(ValueError):  # the line that was being written
                    old, suffix, new = json.loads(line)
                    found[old, suffix] = new
        here = session.repo.has_objects(set(found.values()))
        return {key: new for key, new in found.items() if new in here}

    def add(self, key: Key, new: str) -> None:
        """Write down a conversion that is proven."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", errors="surrogateescape") as file:
            file.write(json.dumps([*key, new]) + "\n")


@dataclass
class Moving:
    """What both directions share: the memory of what was converted, and progress."""

    session: Session
    history: History
    journal: Journal
    done: dict[Key, str] = field(default_factory=dict)
    taken_up: dict[Key, str] = field(default_factory=dict)

    def once(self, entry: FileEntry, make: Callable[[], str]) -> str:
        """A conversion, unless it was done before."""
        key = key_of(entry)
        if key not in self.done:
            if key not in self.taken_up:
                self.taken_up[key] = make()
                self.journal.add(key, self.taken_up[key])
            self.done[key] = self.taken_up[key]
        return self.done[key]


class Importer:
    """From pointers of Git LFS and plain blobs to manifests."""

    def __init__(self, moving: Moving, lfs: LfsFiles, *, leave_missing: bool) -> None:
        self._moving = moving
        self._session = moving.session
        self._lfs = lfs
        self._leave_missing = leave_missing
        self.missing: dict[str, Pointer] = {}

    def prepare(self, versions: Mapping[str, Version]) -> None:
        """Take up what an interrupted run did; fetch what Git LFS lacks here.

        Raises:
            MissingError: a file is nowhere.
        """
        taken = self._moving.journal.load(self._session)
        raw = self._moving.history.raw
        self._moving.taken_up = {k: new for k, new in taken.items() if not self._lacks(raw(new))}
        known = {oid for oid, _ in self._moving.taken_up}
        pointers = [v.pointer for oid, v in versions.items() if v.pointer and oid not in known]
        self.missing = self._lfs.lacking(pointers)
        if not self.missing:
            return
        said = self._lfs.fetch(self.missing)
        self.missing = self._lfs.lacking(self.missing.values())
        if self.missing and not self._leave_missing:
            raise _lost(self.missing, versions, said)

    def _lacks(self, text: bytes) -> bool:
        return not is_manifest(text) or bool(self._session.store.lacking(objects_of(text)))

    def moves(self, version: Version) -> bool:
        """Whether a version is converted."""
        if version.pointer is not None:
            return version.pointer.oid not in self.missing
        return version.kind == "plain"

    def convert(self, entry: FileEntry, version: Version, before: Before) -> str:
        """The blob of the manifest."""
        return self._moving.once(entry, lambda: self._convert(entry, version, before))

    def _convert(self, entry: FileEntry, version: Version, before: Before) -> str:
        session = self._session
        place = Place(entry.path, version.place.commit)
        label = f"storing {entry.path}"
        with _placed(place), self._open(entry, version) as handle:
            asked = version.pointer or sha256_of(handle)
            if version.pointer and sha256_of(handle) != version.pointer:
                raise CorruptError(
                    f"the file of Git LFS for it is damaged: {version.pointer.oid}",
                    hint=f"remove {self._lfs.path(version.pointer.oid)}, then git lfs fetch --all",
                )
            os.lseek(handle, 0, os.SEEK_SET)
            text = clean(session, entry.path, FileStream(handle), before=before)
            oid = session.repo.git("hash-object", "-w", "--no-filters", "--stdin", stdin=text)
            with progress(asked.size, label.replace("storing", "checking")) as advance:
                pieces = rebuild(parse(text), session.store.lend, session.plugins,
                                 threads=session.settings.threads)  # fmt: skip
                if digest(counted(pieces, advance)) != asked:
                    raise CorruptError("what was stored does not give the same file again")
        return oid.decode().strip()

    @contextmanager
    def _open(self, entry: FileEntry, version: Version) -> Iterator[int]:
        found = self._lfs.find(version.pointer) if version.pointer else None
        if found is not None:
            with found.open("rb") as file:
                yield file.fileno()
            return
        handle, name = self._session.store.temporary()
        try:
            if version.pointer is None:
                _spool(self._session.repo.cwd, entry.oid, handle)
                os.lseek(handle, 0, os.SEEK_SET)
            yield handle
        finally:
            name.unlink(missing_ok=True)
            os.close(handle)


class Exporter:
    """From manifests to pointers of Git LFS, or to plain blobs."""

    def __init__(self, moving: Moving, lfs: LfsFiles | None) -> None:
        self._moving = moving
        self._session = moving.session
        self._lfs = lfs

    def prepare(self, versions: Mapping[str, Version]) -> None:
        """Take up what an interrupted run did; fetch objects that are missing here.

        Raises:
            MissingError: an object is nowhere.
        """
        taken = self._moving.journal.load(self._session)
        self._moving.taken_up = {k: new for k, new in taken.items() if self._is_whole(new)}
        known = {oid for oid, _ in self._moving.taken_up}
        wanted: dict[str, int] = {}
        needed: dict[str, Place] = {}
        for oid, version in versions.items():
            if version.kind == "manifest" and oid not in known:
                for name, size in objects_of(self._moving.history.raw(oid)).items():
                    wanted[name] = size
                    needed.setdefault(name, version.place)
        missing = self._session.store.lacking(wanted)
        if not missing:
            return
        try:
            remotes.resolve_missing(self._session.repo, self._session.store, missing)
        except ThetaError as error:
            left = self._session.store.lacking(missing)
            place = needed[next(iter(left or missing))]
            raise type(error)(f"{place.told}: {error}", hint=error.hint) from error

    def _is_whole(self, new: str) -> bool:
        if self._lfs is None:
            return True
        pointer = read_pointer(self._moving.history.head(new, LIMIT))
        return pointer is not None and not self._lfs.lacking([pointer])

    def moves(self, version: Version) -> bool:
        """Whether a version is converted."""
        return version.kind == "manifest"

    def convert(self, entry: FileEntry, version: Version, before: Before) -> str:  # noqa: ARG002
        """The blob of the pointer, or of the file itself."""
        return self._moving.once(entry, lambda: self._convert(entry, version))

    def _convert(self, entry: FileEntry, version: Version) -> str:
        session = self._session
        handle, name = session.store.temporary()
        try:
            with _placed(Place(entry.path, version.place.commit)):
                manifest = parse(self._moving.history.raw(entry.oid))
                pointer = self._write(manifest, entry.path, handle)
                return self._keep(pointer, name, handle)
        finally:
            name.unlink(missing_ok=True)
            os.close(handle)

    def _write(self, manifest: Manifest, path: str, handle: int) -> Pointer:
        session = self._session
        with progress(manifest.size, f"writing {path}") as advance:
            pieces = rebuild(
                manifest, session.store.lend, session.plugins, threads=session.settings.threads
            )
            sha, size = hashlib.sha256(), 0
            for piece in counted(pieces, advance):
                sha.update(piece)
                size += len(piece)
                write_fully(handle, piece)
        return Pointer(sha.hexdigest(), size)

    def _keep(self, pointer: Pointer, name: Path, handle: int) -> str:
        repo = self._session.repo
        if self._lfs is not None and pointer.size:
            self._lfs.land(name, handle, pointer, sync=self._session.settings.sync)
        if self._lfs is not None:
            text = pointer_text(pointer) if pointer.size else b""
            oid = repo.git("hash-object", "-w", "--no-filters", "--stdin", stdin=text)
            return oid.decode().strip()
        oid = repo.git("hash-object", "-w", "--no-filters", "--", str(name.resolve()))
        blob = oid.decode().strip()
        if blob_digest(repo.cwd, blob) != pointer:
            raise CorruptError("the blob that Git stored is not the same file")
        return blob


def _spool(cwd: Path, blob: str, handle: int) -> None:
    try:
        blob_into(cwd, blob, handle)
    except subprocess.CalledProcessError as error:
        raise GitError(
            f"Git cannot write blob {blob[:12]} into a file; is the disk full?"
        ) from error


def digest(pieces: Iterable[bytes | memoryview]) -> Pointer:
    """sha256 and size of bytes that come in pieces."""
    sha, size = hashlib.sha256(), 0
    for piece in pieces:
        sha.update(piece)
        size += len(piece)
    return Pointer(sha.hexdigest(), size)


def blob_digest(cwd: Path, blob: str) -> Pointer:
    """sha256 and size of a blob of Git's, whatever its size."""
    with subprocess.Popen(
        [*STREAMING, "cat-file", "blob", blob],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:
        if process.stdout is None:
            raise GitError("git cat-file has no output")
        with closing(process.stdout) as out:
            return digest(iter(lambda: out.read(1 << 20), b""))


def _lost(missing: Mapping[str, Pointer], versions: Mapping[str, Version], said: str) -> ThetaError:
    places = [v.place for v in versions.values() if v.pointer and v.pointer.oid in missing]
    shown = [place.told for place in places[:_SHOWN]]
    more = [f"and {len(places) - _SHOWN} more"] if len(places) > _SHOWN else []
    told = said.splitlines()[:_SHOWN]
    lines = "".join(f"\n  {line}" for line in [*shown, *more, *told])
    return MissingError(
        f"files of Git LFS are not here, and no remote gave them:{lines}",
        hint="nothing was changed; put them into .git/lfs/objects, or leave them pointers with "
        "--leave-missing",
    )
