"""Which paths git-theta keeps, and the manifests of the index, of a revision, of all history."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from git_theta.core.manifest import MAGIC, Manifest, is_manifest, parse
from git_theta.errors import CorruptError, ManifestError, NotTrackedError
from git_theta.repo.gitrepo import GitError, ObjectReader, Repo, StagedEntry

# No manifest is smaller or larger; blobs outside are not even read.
_SMALLEST, _LARGEST = 300, 512 << 20
_MUCH = 1 << 20
_GIT_FSCK = "git fsck --full says more"
# What Git's other objects begin with: a bit may turn what a pack says of an object's kind.
_BEGINNINGS = {"commit": (b"tree ",), "tag": (b"object ",), "tree": (b"0", b"1", b"4")}
_REGULAR = ("100644", "100755")


@dataclass(frozen=True, slots=True)
class TrackedBlob:
    """A blob at a path in the index or a tree; `text` is None when it is not a manifest."""

    path: str
    oid: str
    text: bytes | None


def staged_paths(repo: Repo) -> list[StagedEntry]:
    """The index's regular files whose attributes give them to git-theta."""
    found = repo.staged(":(top,attr:filter=theta)")
    return [entry for entry in found if entry.mode in _REGULAR]


def staged_blobs(repo: Repo) -> Iterator[TrackedBlob]:
    """What the index holds for each tracked path (every stage of a path in conflict)."""
    for entry in staged_paths(repo):
        yield TrackedBlob(entry.path, entry.oid, manifest_text(repo, entry.oid))


def no_revision(rev: str) -> NotTrackedError:
    """What is said where a revision is asked for, and this is none."""
    hint = "git log --all --oneline"
    if os.path.lexists(rev):  # which says no to what is too long for a name
        hint = "that is a path, and a revision is asked for; git theta show takes a file"
    return NotTrackedError(f"there is no revision {rev!r}", hint=hint)


def tree_blobs(repo: Repo, rev: str) -> Iterator[TrackedBlob]:
    """What a revision's tree holds for each path that is tracked by the attributes of now.

    Raises:
        NotTrackedError: there is no such revision.
    """
    if repo.resolve(rev + "^{tree}") is None:
        raise no_revision(rev)
    listing = repo.git("ls-tree", "-r", "-z", "--full-tree", rev)
    files: dict[str, str] = {}
    for item in listing.split(b"\0"):
        meta, _, path = item.partition(b"\t")
        fields = meta.decode().split()
        if fields and fields[0] in _REGULAR:
            files[path.decode(errors="surrogateescape")] = fields[2]
    attributes = repo.attributes(files, ["filter"])
    for name, oid in files.items():
        if attributes.get(name, {}).get("filter") == "theta":
            yield TrackedBlob(name, oid, manifest_text(repo, oid))


def manifest_text(repo: Repo, name: str) -> bytes | None:
    """The manifest that an object name stands for, or None where it is something else."""
    found = repo.objects.read(name, limit=_LARGEST)
    if found is None or not is_manifest(found[1]):
        return None
    return found[1]


def find_blob(repo: Repo, rev: str | None, path: str) -> tuple[str, bytes]:
    """A manifest by revision (None: the index) and path from the top: (blob id, text).

    Raises:
        NotTrackedError: there is no such file, or it is no manifest.
    """
    names = [f"{rev}:{path}"] if rev else [f":0:{path}", f":2:{path}", f"HEAD:{path}"]
    where = f"in {rev}" if rev else "in the index"
    for name in names:
        found = repo.objects.read(name)
        if found is not None:
            break
    else:
        if rev and repo.resolve(rev) is None:
            raise no_revision(rev)
        raise NotTrackedError(f"there is no file {path!r} {where}", hint="git theta ls-files")
    if not is_manifest(found[1]):
        raise NotTrackedError(
            f"{path!r} {where} is not kept by git-theta", hint="git theta track, then git add"
        )
    return found


def parse_at(path: str, text: bytes) -> Manifest:
    """Read the manifest of a path.

    Raises:
        ManifestError: it is damaged; the message names the path.
    """
    try:
        return parse(text)
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}", hint=error.hint) from error


def read_or_error(path: str, text: bytes) -> Manifest | ManifestError:
    """Read the manifest of a path, or say why not, for reports that go on."""
    try:
        return parse_at(path, text)
    except ManifestError as error:
        return error


def is_left_as_manifest(path: Path) -> bool:
    """Whether a work-tree file is still the manifest itself."""
    try:
        with path.open("rb") as file:
            return is_manifest(file.read(len(MAGIC)))
    except OSError:
        return False


def every_manifest(repo: Repo) -> Iterator[tuple[str, bytes]]:
    """All manifests in the object database, named by a commit or not: (blob id, text).

    In a partial clone only those that are here.

    Raises:
        CorruptError: Git cannot read an object, which may be a manifest.
    """
    for oid, text in manifests_or_damage(repo):
        if text is None:
            raise CorruptError(f"Git cannot read object {oid}", hint=_GIT_FSCK)
        yield oid, text


def manifests_or_damage(repo: Repo) -> Iterator[tuple[str, bytes | None]]:
    """Like `every_manifest`; None stands for the text of any object that Git cannot read."""
    objects, damaged = _listed(repo)
    for oid in damaged:
        yield oid, None
    if objects:
        reader = ObjectReader(repo.cwd, replaced=False)
        try:
            yield from _read(reader, objects)
        finally:
            reader.close()


def _read(
    reader: ObjectReader, objects: Iterable[tuple[str, str]]
) -> Iterator[tuple[str, bytes | None]]:
    for kind, oid in objects:
        try:
            found = reader.read(oid, limit=_LARGEST)
        except GitError:
            found = None
        if found is None:  # it was listed, so it is there
            yield oid, None
        elif kind == "blob":
            if is_manifest(found[1]):
                yield found
        elif found[1] and not found[1].startswith(_BEGINNINGS[kind]):
            yield oid, None


def _listed(repo: Repo) -> tuple[list[tuple[str, str]], list[str]]:
    """What may be a manifest, as (kind, id), and objects that Git has and cannot read."""
    try:
        listing = repo.git(
            "--no-replace-objects", "cat-file", "--batch-all-objects", "--unordered",
            "--batch-check=%(objecttype) %(objectsize) %(objectsize:disk) %(objectname)",
        )  # fmt: skip
    except GitError as error:
        raise CorruptError(f"Git cannot list its objects: {error}", hint=_GIT_FSCK) from error
    objects, damaged = [], []
    for line in listing.decode().splitlines():
        fields = line.split()
        if len(fields) != 4:
            damaged.append(fields[0])
            continue
        kind, size, on_disk, oid = fields
        # Where a delta is damaged, Git may say any size: only large ones that take up much are
        # passed over.
        if kind != "blob" or int(size) <= _LARGEST or int(on_disk) < _MUCH:
            objects.append((kind, oid))
    return objects, damaged


def named_places(repo: Repo, oids: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
    """Where blobs stand in history: blob id -> (commit, path), the newest first.

    Walks all history; for the few blobs of a report.
    """
    wanted = set(oids)
    found: dict[str, list[tuple[str, str]]] = {oid: [] for oid in wanted}
    if not wanted:
        return found
    command = ["git", "log", "--all", "--raw", "-z", "--no-abbrev", "--no-renames", "-m", "--root"]
    with subprocess.Popen(
        [*command, "--format=commit %H"], cwd=repo.cwd, stdout=subprocess.PIPE
    ) as process:
        if process.stdout is None:
            raise GitError("git log has no output")
        text = process.stdout.read()
    commit, oid = "", ""
    for item in text.decode(errors="surrogateescape").split("\0"):
        words = item.lstrip("\n").split(" ")
        if words[0] == "commit" and len(words) == 2:
            commit = words[1].strip()
        elif words[0].startswith(":") and len(words) >= 5:
            oid = words[3]
        elif oid in wanted:
            found[oid].append((commit, item))
            oid = ""
    return found


@dataclass(slots=True)
class Commit:
    """A commit, and the blobs that it brought: (path, blob id)."""

    oid: str
    subject: str
    brought: list[tuple[str, str]] = field(default_factory=list)


def history(repo: Repo, rev: str) -> list[Commit]:
    """The commits that a revision reaches, the oldest first, with what each of them brought.

    Raises:
        NotTrackedError: there is no such revision.
    """
    if repo.resolve(rev + "^{commit}") is None:
        raise no_revision(rev)
    told = repo.git(
        "log", "--reverse", "--topo-order", "--raw", "-z", "--no-abbrev", "--no-renames", "-m",
        "--root", "--format=commit %H %s", rev, "--",
    )  # fmt: skip
    found: list[Commit] = []
    items = iter(told.decode(errors="surrogateescape").split("\0"))
    for item in items:
        head, _, rest = item.lstrip("\n").partition(" ")
        if head.startswith(":"):
            mode, _, blob = rest.split(" ")[:3]
            path = next(items, "")
            if mode in _REGULAR:
                found[-1].brought.append((path, blob))
        elif head == "commit":
            oid, _, subject = rest.partition(" ")
            if not found or found[-1].oid != oid:  # a merge is told once for each parent
                found.append(Commit(oid, subject))
    return found


def untracked_manifests(repo: Repo) -> Iterator[tuple[str, str]]:
    """Staged manifests whose attributes do not give them to git-theta: (path, their filter).

    Not those that attributes keep as the texts they are, with `-filter`.
    """
    meant = {entry.path for entry in (*staged_paths(repo), *repo.staged(":(top,attr:-filter)"))}
    others = [e for e in repo.staged() if e.mode in _REGULAR and e.path not in meant]
    asked = "".join(f"{entry.oid}\n" for entry in others).encode()
    told = repo.git("cat-file", "--batch-check=%(objectsize)", stdin=asked).splitlines()
    for entry, size in zip(others, told, strict=True):
        if not size.isdigit() or not _SMALLEST <= int(size) <= _LARGEST:
            continue
        if manifest_text(repo, entry.oid) is not None:
            found = repo.attributes([entry.path], ["filter"])
            yield entry.path, found.get(entry.path, {}).get("filter", "unset")
