"""`git theta pull`: the files that are still manifests, or missing, written whole."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click

from git_theta.commands.options import JSON_OPTION, path_from_top
from git_theta.commands.patch import write_by_patching
from git_theta.commands.progress import counted, progress
from git_theta.commands.session import Session
from git_theta.commands.terminal import complain, count, note, printable, say_json, size_text
from git_theta.core.checkpoint import rebuild
from git_theta.core.manifest import Manifest, is_manifest, parse
from git_theta.errors import ManifestError, NotTrackedError, ThetaError
from git_theta.repo.closure import Closure, Found
from git_theta.repo.collect import blob_id
from git_theta.repo.exchange import put_in_place
from git_theta.repo.gitrepo import Repo, StagedEntry
from git_theta.repo.index import BACK, recorded_sizes, restat
from git_theta.repo.objects import store_failed
from git_theta.repo.streams import write_fully
from git_theta.repo.tracked import manifest_text, parse_at


@dataclass(frozen=True, slots=True)
class Pending:
    """A file to be written."""

    entry: StagedEntry
    target: Path
    text: bytes
    manifest: Manifest


@click.command()
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@JSON_OPTION
def command(paths: tuple[str, ...], as_json: bool) -> int:
    """Fetch, and write the files that are still manifests.

    Files that were left as manifests, for their size or because something was missing, and files
    that are staged but not there, are written into the work tree. Files with other content are
    left alone. PATHs, files or directories, limit it.
    """
    session = Session()
    try:
        pathspecs = [f":(top,literal){path_from_top(session.repo, path)}" for path in paths]
        waiting, failures = find_pending(session.repo, pathspecs)
        written = pull(session, waiting, failures)
        _settle(session.repo, pathspecs)
    finally:
        session.close()
    if as_json:
        files = [{"path": p.entry.path, "size": p.manifest.size} for p in written]
        problems = [{"path": path, "error": str(error)} for path, error in failures]
        say_json({"written": files, "failed": problems})
    else:
        size = sum(pending.manifest.size for pending in written)
        note(f"{count(len(written), 'file')} written ({size_text(size)})")
    return _complain(failures)


Failures = list[tuple[str, ThetaError]]


def _complain(failures: Failures) -> int:
    for path, error in failures:
        complain(f"git theta: {printable(path)}: {error}")
        if error.hint:
            complain(f"hint: {error.hint}")
    return failures[0][1].exit_code if failures else 0


def find_pending(repo: Repo, pathspecs: Sequence[str]) -> tuple[list[Pending], Failures]:
    """Staged files that are manifests in the work tree, or not there.

    A manifest in the work tree is restored as it is, even where another one is staged: writing
    what it stands for changes nothing that the user may have meant.

    Raises:
        NotTrackedError: there is no work tree, or a path names nothing in the index.
    """
    if repo.top is None:
        raise NotTrackedError("a bare repository has no files", hint="git theta fetch --all")
    waiting: list[Pending] = []
    failures: Failures = []
    for entry in _entries(repo, pathspecs):
        target = repo.top / entry.path
        try:
            text = _text(repo, entry, target)
            if text is not None:
                pending = Pending(entry, target, text, parse_at(entry.path, text))
                waiting.append(pending)
        except ThetaError as error:
            failures.append((entry.path, error))
    return waiting, failures


def _entries(repo: Repo, pathspecs: Sequence[str]) -> Iterator[StagedEntry]:
    skipped = set()
    for item in repo.git("ls-files", "-z", "-t", "--full-name", "--", ":(top)").split(b"\0"):
        if item.startswith((b"S ", b"s ")):  # outside the sparse checkout
            skipped.add(item[2:].decode(errors="surrogateescape"))
    found = repo.staged(*(pathspecs or [":(top)"]))
    for pathspec in pathspecs:
        if not found or not repo.git("ls-files", "-z", "--", pathspec):
            path = pathspec.partition(")")[2]
            raise NotTrackedError(f"Git knows no file {path!r}", hint="git theta ls-files")
    asked = repo.attributes({entry.path for entry in found}, ["filter"])
    for entry in found:
        ours = asked.get(entry.path, {}).get("filter") == "theta"
        if ours and entry.stage == 0 and entry.mode.startswith("100") and entry.path not in skipped:
            yield entry


def _text(repo: Repo, entry: StagedEntry, target: Path) -> bytes | None:
    """The manifest that is to be restored at a path, or None where the file is left alone."""
    top = repo.cwd.resolve()
    if not target.parent.resolve().is_relative_to(top):
        return None  # Git would not write through such a link either
    if not os.path.lexists(target):
        return manifest_text(repo, entry.oid)
    if target.is_symlink() or not target.is_file():
        return None
    with target.open("rb") as file:
        if not is_manifest(file.read(64)):
            return None
    return target.read_bytes()


def pull(session: Session, waiting: Sequence[Pending], failures: Failures) -> list[Pending]:
    """Fetch in one batch and write the files; what fails is added to the failures."""
    closure = Closure()
    for pending in waiting:
        closure.add(Found(pending.entry.oid, pending.entry.path, pending.text))
    try:
        if session.store.lacking(closure.objects):
            from git_theta.commands.fetch import fetch  # what speaks to servers takes its time

            fetch(session, closure)
    except ThetaError as error:
        incomplete = {p.entry.path for p in waiting if not _is_whole(session, p.manifest)}
        failures.extend((path, error) for path in sorted(incomplete))
        waiting = [pending for pending in waiting if pending.entry.path not in incomplete]
    written = []
    with progress(sum(p.manifest.size for p in waiting), "writing") as advance:
        for pending in waiting:
            problem = _failure(session, pending, advance)
            if problem is None:
                written.append(pending)
            else:
                failures.append((pending.entry.path, problem))
    if written:
        _register(session.repo, written)
    return written


def _register(repo: Repo, written: Sequence[Pending]) -> None:
    """Tell the index what the files are now, or make Git look at them.

    Git takes a file whose size is not the known one for modified and never compares it, so what
    the index knows of such files is dropped first; what is staged stays the same. Where another
    manifest is staged than the one that was written, the file is modified, and Git is to see it.
    """
    staged = {p.entry.path: p.entry.oid for p in written if blob_id(repo, p.text) == p.entry.oid}
    done = restat(repo, staged)
    _make_git_look(repo, [p.entry for p in written if p.entry.path not in done])


def _settle(repo: Repo, pathspecs: Sequence[str]) -> None:
    """Make Git look at files that were written when what wrote them was killed.

    The index still has the size of the manifests that were in their place.
    """
    known, left = recorded_sizes(repo), []
    for entry in _entries(repo, pathspecs):
        try:
            size = (repo.cwd / entry.path).stat().st_size
        except OSError:
            continue
        if size == known.get(entry.path, size):
            continue
        text = manifest_text(repo, entry.oid)
        if text is None or len(text) != known[entry.path]:
            continue
        with suppress(ManifestError):
            if parse_at(entry.path, text).size == size:
                left.append(entry)
    _make_git_look(repo, left)


def _make_git_look(repo: Repo, entries: Sequence[StagedEntry]) -> None:
    """Drop what the index knows of some files; what is staged stays the same."""
    if entries:
        lines = (f"{entry.mode} {entry.oid}\t{entry.path}\0" for entry in entries)
        told = "".join(lines).encode(errors="surrogateescape")
        repo.git("update-index", "-z", "--index-info", stdin=told)
        repo.git("update-index", "-q", "--refresh", check=False)


def _is_whole(session: Session, manifest: Manifest) -> bool:
    return all(session.store.has(oid, size) for oid, size in manifest.objects.items())


def _failure(
    session: Session, pending: Pending, advance: Callable[[int], None]
) -> ThetaError | None:
    """Write one file; what is wrong with it must not keep the others from being written."""
    try:
        _write(session, pending, advance)
    except ThetaError as error:
        return error
    return None


def _write(session: Session, pending: Pending, advance: Callable[[int], None]) -> None:
    manifest, target = pending.manifest, pending.target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not write_by_patching(session, pending.entry.path, pending.text, target, advance):
            pieces = _pieces(session, pending.text, manifest)
            _write_whole(session, target, counted(pieces, advance))
        if pending.entry.mode == "100755":
            mode = target.stat().st_mode
            target.chmod(mode | (mode & 0o444) >> 2)
        before = time.time() - BACK
        os.utime(target, (before, before))
    except OSError as error:
        store_failed(error, f"{target} cannot be written")


def rebuild_ahead(
    session: Session, path: str, text: bytes, part: Path, advance: Callable[[int], None]
) -> None:
    """Write a large file somewhere, to be moved to its place later, if all of it is here.

    Raises:
        CorruptError: what is stored is not what the manifest names.
        PluginError: the manifest needs a plug-in that is not installed.
    """
    manifest = parse(text)
    if manifest.size < session.settings.direct_from or not _is_whole(session, manifest):
        return
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for piece in counted(_pieces(session, text, manifest), advance):
            write_fully(handle, piece)
    except BaseException:
        part.unlink()
        raise
    finally:
        os.close(handle)
    session.ahead[path, text] = part


def _pieces(session: Session, text: bytes, manifest: Manifest) -> Iterator[memoryview]:
    return rebuild(
        manifest,
        session.store.lend,
        session.plugins,
        threads=session.settings.threads,
        learned=lambda digest: session.catalog.keep_manifest(digest, text),
    )


def _write_whole(session: Session, target: Path, pieces: Iterable[memoryview]) -> None:
    """Write a file in the scratch directory of the store, and move it to its place when complete.

    Beside its place, a process that is killed would leave a part of it for `git add` to find.
    """
    handle, part = session.store.temporary()
    try:
        for piece in pieces:
            write_fully(handle, piece)
        _move(part, target)
    finally:
        os.close(handle)
        part.unlink(missing_ok=True)


def _move(part: Path, target: Path) -> None:
    try:
        put_in_place(part, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        from git_theta.commands.rewriting import move_over  # the Git directory is on another disk

        move_over(part, target)
