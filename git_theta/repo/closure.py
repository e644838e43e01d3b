"""Which manifests some commits bring, and which objects those need: from Git's objects alone."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, NamedTuple

from git_theta.core.manifest import MAGIC, VERSION, is_manifest, is_oid, parse
from git_theta.errors import ManifestError
from git_theta.repo.gitrepo import GitError, Repo, read_blobs, run_git
from git_theta.repo.loose import beginning
from git_theta.repo.tracked import parse_at

# No manifest is smaller or larger. Blobs up to `_SMALL` are read whole; of larger ones, which may
# be models that were committed before they were tracked, only the first bytes are.
_SMALLEST, _SMALL, _LARGEST = 200, 1 << 20, 512 << 20
_BLOCK = 1 << 16
_HEADER = MAGIC + b" %d,\n" % VERSION
_OBJECTS, _OBJECTS_END = b'\n"objects": {\n', b'\n},\n"tensors": {'


class Found(NamedTuple):
    """One manifest: its blob, a path at which it stands, its text as far as it was asked for."""

    blob: str
    path: str
    text: bytes


@dataclass(slots=True)
class Closure:
    """The objects that some manifests need, and for each a manifest that needs it."""

    objects: dict[str, int] = field(default_factory=dict)
    needed_by: dict[str, tuple[str, str]] = field(default_factory=dict)
    manifests: int = 0

    def add(self, found: Found) -> None:
        """Add what one manifest needs.

        Raises:
            ManifestError: it is damaged, or of a newer version.
        """
        try:
            objects = objects_of(found.text)
        except ManifestError as error:
            raise ManifestError(f"{found.path}: {error}", hint=error.hint) from error
        self.manifests += 1
        place = (found.blob, found.path)
        for oid, size in objects.items():
            if self.objects.setdefault(oid, size) == size:
                self.needed_by.setdefault(oid, place)

    @property
    def size(self) -> int:
        """All bytes of the objects."""
        return sum(self.objects.values())


def of_commits(
    repo: Repo,
    tips: Sequence[str],
    *,
    known: Sequence[str] = (),
    remote: str | None = None,
    newest_whole: bool = False,
) -> Closure:
    """What commits bring that neither `known` commits nor a remote's branches have.

    Manifests are read as far as their objects are named; with `newest_whole` the newest of each
    path is read to its end, to find one that nobody could check out.

    Raises:
        ManifestError: a manifest among them is damaged, or of a newer version.
    """
    closure, newest = Closure(), dict[str, str]()
    for found in manifests_among(repo, _listed(repo, tips, known, remote), begun=True):
        closure.add(found)
        newest.setdefault(found.path, found.blob)  # as Git lists them: newest first
    if newest_whole:
        path_of = {blob: path for path, blob in newest.items()}
        for blob, text in read_blobs(repo.cwd, list(path_of)):
            parse_at(path_of[blob], text)
    return closure


def manifests_of(repo: Repo, tips: Sequence[str]) -> Iterator[Found]:
    """All manifests that some commits reach, as far as they are here."""
    return manifests_among(repo, _listed(repo, tips, (), None))


def of_tree(repo: Repo, rev: str) -> Closure:
    """What one revision's files need."""
    listing = repo.git("ls-tree", "-r", "-z", "--full-tree", rev).split(b"\0")
    return _closure(manifests_among(repo, _tree_entries(listing)))


def of_index(repo: Repo) -> Closure:
    """What the staged files need."""
    entries = [(e.oid, e.path) for e in repo.staged(":(top)") if e.mode.startswith("100")]
    return _closure(manifests_among(repo, entries))


def union(closures: Iterable[Closure]) -> Closure:
    """All of several."""
    whole = Closure()
    for closure in closures:
        whole.objects |= closure.objects
        whole.needed_by |= closure.needed_by
        whole.manifests += closure.manifests
    return whole


def _closure(manifests: Iterable[Found]) -> Closure:
    closure = Closure()
    for found in manifests:
        closure.add(found)
    return closure


def objects_of(text: bytes) -> dict[str, int]:
    """The object table of a manifest, without the cost of reading all of it.

    Raises:
        ManifestError: the text is damaged, or of a newer version.
    """
    start, end = text.find(_OBJECTS), text.find(_OBJECTS_END)
    if text.startswith(_HEADER) and 0 <= start < end:
        try:
            table = json.loads(b"{" + text[start + len(_OBJECTS) : end] + b"}")
        except (ValueError, RecursionError):
            table = {"": 0}
        # What is named here becomes a path in the store.
        if all(is_oid(oid) and type(size) is int and size >= 0 for oid, size in table.items()):
            return dict(table)
    return dict(parse(text).objects)


# --- what Git lists ------------------------------------------------------------------------------


def _listed(
    repo: Repo, tips: Sequence[str], known: Sequence[str], remote: str | None
) -> list[tuple[str, str]]:
    """Objects that the tips reach and the rest does not: (id, path), trees and commits too."""
    # What `git replace` shows in place of a commit stays here: a push brings the commit itself.
    command = ["--no-replace-objects", "rev-list", "--objects", "--ignore-missing", "--stdin"]
    if remote is not None:
        command += ["--not", f"--remotes={remote}"]
    if remote is None or f"remote.{remote}.promisor" in repo.config:
        # A partial clone left these at the remote that promised them; asking would download.
        command.insert(3, "--missing=allow-promisor")
    asked = "".join([f"{tip}\n" for tip in tips] + [f"^{commit}\n" for commit in known])
    found = []
    for line in repo.git(*command, stdin=asked.encode()).split(b"\n"):
        oid, given, path = line.partition(b" ")
        if given and path:
            found.append((oid.decode(), path.decode(errors="surrogateescape")))
    return found


def _tree_entries(listing: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    for item in listing:
        meta, _, path = item.partition(b"\t")
        fields = meta.split()
        if len(fields) == 3 and fields[0].startswith(b"100"):
            yield fields[2].decode(), path.decode(errors="surrogateescape")


def manifests_among(
    repo: Repo, listed: Iterable[tuple[str, str]], *, begun: bool = False
) -> Iterator[Found]:
    """Those of the listed objects that are manifests.

    With `begun`, their texts may end behind the table of objects.
    """
    paths = dict(listed)
    asked = "".join(f"{oid}\n" for oid in paths).encode()
    asks = "--batch-check=%(objectname) %(objecttype) %(objectsize)"
    command = ["--no-replace-objects", "cat-file", asks, "--buffer"]
    small: list[str] = []
    large: list[str] = []
    for line in repo.git(*command, stdin=asked).decode().splitlines() if paths else ():
        oid, kind, *size = line.split()
        if kind == "blob" and _SMALLEST <= int(size[0]) <= _LARGEST:
            (small if int(size[0]) < _SMALL else large).append(oid)
    for oid, text in _begun(repo, small) if begun else read_blobs(repo.cwd, small):
        if is_manifest(text):
            yield Found(oid, paths[oid], text)
    for oid in large:
        if begins_as_manifest(repo, oid):
            yield Found(oid, paths[oid], repo.git("cat-file", "blob", oid))


def _begun(repo: Repo, oids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Blobs in the order asked for; loose ones as far as a manifest names its objects."""
    folder = repo.common_dir / "objects"
    loose = {oid for oid in oids if (folder / oid[:2] / oid[2:]).exists()}
    others = read_blobs(repo.cwd, [oid for oid in oids if oid not in loose])
    for oid in oids:
        text = beginning(folder, oid, _OBJECTS_END) if oid in loose else next(others)[1]
        if text is None:  # packed by now, or damaged
            ((_, text),) = read_blobs(repo.cwd, [oid])
        yield oid, text


def begins_as_manifest(repo: Repo, oid: str) -> bool:
    """Read the first bytes of a large blob. Git streams what it holds to be a big file."""
    process = subprocess.Popen(
        ["git", "-c", f"core.bigFileThreshold={_SMALL}", "cat-file", "blob", oid],
        cwd=repo.cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        return is_manifest(_pipe(process).read(len(MAGIC)))
    finally:
        process.kill()
        process.communicate()


def _pipe(process: subprocess.Popen[bytes]) -> IO[bytes]:
    if process.stdout is None:
        raise GitError("git cat-file has no output")
    return process.stdout


# --- for messages --------------------------------------------------------------------------------


def describe(repo: Repo, closure: Closure, oid: str) -> str:
    """Where an object is needed: path, a tensor in it, and the commit that brought it."""
    blob, path = closure.needed_by[oid]
    told = path
    text = repo.git("cat-file", "blob", blob)
    for name, tensor in parse(text).tensors.items():
        if any(chunk.at.oid == oid for chunk in tensor.segment.chunks):
            told += f", tensor {name}"
            break
    commit = run_git(
        [
            "log",
            "--all",
            "HEAD",
            "-1",
            "--format=%h",
            "--no-renames",
            "--diff-filter=AM",
            f"--find-object={blob}",
        ],
        cwd=repo.cwd,
        check=False,
    ).decode()
    return told + (f", commit {commit.strip()}" if commit.strip() else "")
