"""What remotes have, without downloading it: the other side of `git theta fsck`."""

from __future__ import annotations

from collections.abc import Mapping

from git_theta.commands.proof import Failure, Proof
from git_theta.commands.session import Session
from git_theta.commands.terminal import count, note, printable
from git_theta.core.manifest import Manifest
from git_theta.errors import ThetaError, TransferError
from git_theta.repo import remotes
from git_theta.repo.closure import manifests_of
from git_theta.repo.gitrepo import GitError, Repo
from git_theta.repo.lfs import Lfs
from git_theta.repo.tracked import parse_at


def remotes_with(session: Session, wanted: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """The remotes that say that they have some objects; those that cannot be asked are left out."""
    found: dict[str, tuple[str, ...]] = {}
    for remote in remotes.preferred(session.repo) if wanted else []:
        try:
            known = Lfs(session.repo, session.store).known_at(remote, wanted)
        except ThetaError:
            continue
        for oid in known or ():
            found[oid] = (*found.get(oid, ()), remote)
    return found


def absent_from(session: Session, remote: str) -> tuple[dict[str, Manifest], Proof]:
    """The manifests that a remote's branches and tags reach, and the objects that it lacks.

    Raises:
        ManifestError: a manifest among them is damaged.
        TransferError: the remote cannot be asked.
    """
    repo = session.repo
    tips = _tips(repo, remote)
    here = repo.has_objects(set(tips))
    if len(here) < len(set(tips)):
        refs = sum(tip not in here for tip in tips)
        note(f"{count(refs, 'ref')} of {printable(remote)} not looked at: git fetch first")
    manifests = {f.blob: parse_at(f.path, f.text) for f in manifests_of(repo, sorted(here))}
    objects = {oid: size for m in manifests.values() for oid, size in m.objects.items()}
    known = Lfs(repo, session.store).known_at(remote, objects) if objects else set()
    if known is None:
        raise TransferError(
            f"{printable(remote)} cannot be asked which objects it has",
            hint="git theta push --all uploads whatever it lacks",
        )
    absent = {
        oid: Failure("remote", f"{remote} does not have object {oid[:16]}", oid)
        for oid in objects.keys() - known
    }
    return manifests, Proof(objects=absent)


def _tips(repo: Repo, remote: str) -> list[str]:
    """What the refs of a remote stand for."""
    try:
        told = repo.git("ls-remote", "--heads", "--tags", "--refs", remote)
    except GitError as error:
        raise TransferError(f"{printable(remote)} cannot be reached: {error}") from error
    return [line.split()[0].decode() for line in told.splitlines()]
