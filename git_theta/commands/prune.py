"""`git theta prune`: remove stored objects that no manifest names any more."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click

from git_theta.commands.options import JSON_OPTION
from git_theta.commands.session import Session
from git_theta.commands.terminal import count, note, printable, say, say_json, size_text
from git_theta.core.manifest import parse
from git_theta.errors import ManifestError, RefusedError, ThetaError, TransferError
from git_theta.repo import borrowers, remotes
from git_theta.repo.closure import objects_of
from git_theta.repo.gitrepo import Repo
from git_theta.repo.lfs import Lfs
from git_theta.repo.tracked import every_manifest

_SHOWN, _NAMES = 20, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A version of a file that was stored here once and that nothing names now.

    `digest` and `size` (in bytes) are of the file; `objects` and `bytes` count what of it goes.
    """

    digest: str
    tensors: list[str]
    size: int
    written: float
    objects: int
    bytes: int


@dataclass(slots=True, kw_only=True)
class Report:
    """What is removed (or would be), what is kept, and why."""

    objects: int = 0
    bytes: int = 0
    kept: int = 0
    young: int = 0
    not_on_remote: int = 0
    borrowers: list[str] = field(default_factory=list)
    versions: list[Version] = field(default_factory=list)


@click.command()
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--verify-remote", "verify", is_flag=True, help="Keep what the remote does not have.")
@click.argument("remote", required=False)
@JSON_OPTION
def command(remote: str | None, dry_run: bool, verify: bool, as_json: bool) -> None:
    """Remove stored objects that no manifest in this repository names any more.

    A manifest counts while Git has it, on a branch or not: so first let Git forget what you want
    to be rid of (git reflog expire, git gc --prune=now). Objects younger than theta.gracePeriod
    (24 hours) stay in any case, and so does what repositories that borrow from this one need.

    --verify-remote asks REMOTE (by default that of the branch, or origin) for each object, and
    keeps those that it does not have.
    """
    session = Session()
    try:
        asked = (remote or remotes.default(session.repo)) if verify or remote else None
        report = prune(session, remote=asked, dry_run=dry_run)
    finally:
        session.close()
    if as_json:
        say_json({"dry_run": dry_run, **asdict(report)})
    else:
        _print(report, dry_run=dry_run)


def prune(session: Session, *, remote: str | None = None, dry_run: bool = False) -> Report:
    """Remove what no manifest names, under the exclusive lock of the store.

    Raises:
        RefusedError: a manifest here cannot be read, so what it needs is not known.
        TransferError: the remote could not be asked.
    """
    allowed = None
    if remote is not None:  # before the lock is taken: a remote may be slow to answer
        allowed = _known_at(session, remote, _survey(session)[1])
    with session.store.alone():
        # All is looked at again under the lock: what was named meanwhile is seen to be so.
        report, dead = _survey(session)
        if allowed is not None:
            report.not_on_remote = len(dead.keys() - allowed)
            dead = {oid: size for oid, size in dead.items() if oid in allowed}
        report.objects, report.bytes = len(dead), sum(dead.values())
        report.versions = _versions(session, dead)
        if not dry_run:
            _remove(session, dead)
            session.catalog.drop_manifests([version.digest for version in report.versions])
    return report


def _survey(session: Session) -> tuple[Report, dict[str, int]]:
    """Look at every object: the report so far, and the sizes of those that may go."""
    before = time.time() - session.settings.grace
    others = borrowers.of(session.store.root)
    report = Report(borrowers=[str(path) for path in others])
    live = _live(session.repo)
    for path in others:
        live |= _live_in(path)
    dead: dict[str, int] = {}
    for oid, stat in session.store.oids():
        if oid in live:
            report.kept += 1
        elif stat.st_mtime > before:
            report.young += 1
        else:
            dead[oid] = stat.st_size
    return report, dead


def _live(repo: Repo) -> set[str]:
    """The objects that any manifest in the object database names."""
    live: set[str] = set()
    for blob, text in every_manifest(repo):
        live.update(_needed(blob, text))
    return live


def _needed(blob: str, text: bytes) -> Iterable[str]:
    try:
        return objects_of(text)
    except ManifestError as error:
        raise RefusedError(
            f"manifest {blob[:12]} cannot be read, so what it needs is not known: {error}",
            hint="nothing was removed; git theta fsck says where it stands",
        ) from error


def _live_in(git_dir: Path) -> set[str]:
    repo = Repo.find(git_dir)
    try:
        return _live(repo)
    finally:
        repo.close()


def _known_at(session: Session, remote: str, wanted: Mapping[str, int]) -> set[str]:
    """Those objects that a remote has."""
    known = Lfs(session.repo, session.store).known_at(remote, wanted) if wanted else set()
    if known is None:
        raise TransferError(
            f"{printable(remote)} cannot be asked which objects it has; nothing was removed",
            hint="is it within reach? without --verify-remote nobody is asked",
        )
    return known


def _versions(session: Session, dead: Mapping[str, int]) -> list[Version]:
    """What the removed objects were part of, as far as the catalog remembers."""
    found = []
    for known in session.catalog.manifests():
        with suppress(ThetaError):
            gone = {o: n for o, n in objects_of(known.manifest).items() if o in dead}
            if gone:
                manifest = parse(known.manifest)
                found.append(
                    Version(
                        digest=known.digest,
                        tensors=list(manifest.tensors),
                        size=manifest.size,
                        written=known.written,
                        objects=len(gone),
                        bytes=sum(gone.values()),
                    )
                )
    return sorted(found, key=lambda version: version.written)


def _remove(session: Session, dead: Iterable[str]) -> None:
    oids = list(dead)
    for oid in oids:
        session.store.remove(oid)
    session.catalog.drop_objects(oids)
    session.catalog.drop_loose(oids)
    session.store.sweep_temporary()


def _print(report: Report, *, dry_run: bool) -> None:
    for version in report.versions[:_SHOWN]:
        say(_line(version))
    if len(report.versions) > _SHOWN:
        say(f"... and {len(report.versions) - _SHOWN} more (--json lists all)")
    for path in report.borrowers:
        note(f"what {printable(path)} borrows from here was kept")
    told = "would remove" if dry_run else "removed"
    note(f"{told} {count(report.objects, 'object')}, {size_text(report.bytes)}")
    if report.young:
        note(f"{count(report.young, 'object')} younger than theta.gracePeriod kept")
    if report.not_on_remote:
        note(f"{count(report.not_on_remote, 'object')} that the remote does not have kept")


def _line(version: Version) -> str:
    names = ", ".join(map(printable, version.tensors[:_NAMES])) or "no tensors"
    more = ", ..." if len(version.tensors) > _NAMES else ""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(version.written))
    return (
        f"a version of {when}, {size_text(version.size)} ({names}{more}): "
        f"{count(version.objects, 'object')}, {size_text(version.bytes)}"
    )
