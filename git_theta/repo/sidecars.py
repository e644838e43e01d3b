"""Statistics of a model, found beside it in the same commit, and refused when they are stale."""

from __future__ import annotations

from dataclasses import dataclass

from git_theta.core.chain import Read, Updates
from git_theta.core.checkpoint import read_segment
from git_theta.core.manifest import Manifest
from git_theta.core.sidecar import Facts, sidecar_path, weights_digest
from git_theta.core.skeleton import unpack
from git_theta.errors import CorruptError, MergeError, NotTrackedError, shell_word
from git_theta.repo.gitrepo import Repo
from git_theta.repo.tracked import find_blob, parse_at


@dataclass(frozen=True, slots=True)
class Sidecar:
    """A side-car in a commit or the index: its path, its blob and what that names."""

    path: str
    kind: str
    blob: str
    manifest: Manifest


def find_sidecar(repo: Repo, rev: str | None, path: str, kind: str) -> Sidecar | None:
    """The statistics of one kind beside a model in a revision (None: the index)."""
    beside = sidecar_path(path, kind)
    try:
        blob, text = find_blob(repo, rev, beside)
    except NotTrackedError:
        return None
    return Sidecar(beside, kind, blob, parse_at(beside, text))


def facts_of(sidecar: Sidecar, read: Read, updates: Updates) -> Facts:
    """What a side-car says of itself; reads its header alone.

    Raises:
        CorruptError: it holds no statistics, or of another kind.
    """
    plain = read_segment(sidecar.manifest.skeleton, sidecar.manifest, read, updates)
    try:
        facts = Facts.read(unpack(plain).data)
    except CorruptError as error:
        raise CorruptError(f"{sidecar.path}: {error}") from error
    if facts.kind != sidecar.kind:
        raise CorruptError(f"{sidecar.path} holds {facts.kind!r}, not {sidecar.kind!r}")
    return facts


def require_sidecar(
    repo: Repo,
    place: tuple[str | None, str],
    kind: str,
    model: Manifest,
    read: tuple[Read, Updates],
    *,
    allow_stale: bool = False,
) -> Sidecar:
    """The statistics of one kind that belong to a model at (revision, path).

    Raises:
        MergeError: there are none, or they were computed from other weights.
    """
    rev, path = place
    where = f"in {rev}" if rev else "in the index"
    again = f"git theta stats {kind} {shell_word(path)}"
    again += " A..B" if kind == "moments" else " --with module:function"
    found = find_sidecar(repo, rev, path, kind)
    if found is None:
        raise MergeError(
            f"{path} has no {kind} statistics {where} ({sidecar_path(path, kind)})", hint=again
        )
    if not allow_stale and facts_of(found, *read).model_digest != weights_digest(model):
        raise MergeError(
            f"{found.path} {where} was computed from other weights than {path} has there",
            hint=f"{again}, then commit both; or --allow-stale",
        )
    return found
