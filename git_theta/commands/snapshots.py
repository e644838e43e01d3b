"""The versions of a model along a branch, and their moments, tensor by tensor from the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from git_theta.commands.progress import progress
from git_theta.commands.session import Session
from git_theta.core.checkpoint import read_segment
from git_theta.core.manifest import Manifest, Tensor
from git_theta.core.merging import FLOATS
from git_theta.errors import MergeError, NotTrackedError, UsageError, shell_word
from git_theta.repo.remotes import resolve_missing
from git_theta.repo.tracked import manifest_text, parse_at

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of a model: the commit that made it, and its manifest."""

    commit: str
    text: bytes
    manifest: Manifest


def ends_of(session: Session, commits: str) -> tuple[str, str]:
    """The commits A and B that `A..B` names; an empty side is HEAD.

    Raises:
        UsageError: it is no range of two dots.
        NotTrackedError: there is no such commit.
    """
    first, dots, last = commits.partition("..")
    if not dots or last.startswith("."):
        raise UsageError(f"{commits!r} is no range of commits", hint="write it A..B")
    before, after = (_commit(session, rev or "HEAD") for rev in (first, last))
    return before, after


def _commit(session: Session, rev: str) -> str:
    found = session.repo.resolve(rev + "^{commit}")
    if found is None:
        raise NotTrackedError(f"there is no commit {rev!r}", hint="git log --all --oneline")
    return found


def snapshots(session: Session, commits: str, path: str) -> list[Snapshot]:
    """The versions that the commits in a range made of a path, oldest first.

    Only first parents are followed: what a branch was, not what was merged into it.

    Raises:
        NotTrackedError: no commit in the range changed the path.
    """
    repo = session.repo
    first, last = ends_of(session, commits)
    listed = repo.text(
        "rev-list", "--reverse", "--first-parent", f"{first}..{last}", "--", f":(top,literal){path}"
    )
    found: list[Snapshot] = []
    for commit in listed.split():
        blob = repo.resolve(f"{commit}:{path}")
        text = None if blob is None else manifest_text(repo, blob)
        if text is not None:
            found.append(Snapshot(commit, text, parse_at(path, text)))
    if not found:
        raise NotTrackedError(
            f"no commit in {commits} changed {path}",
            hint=f"git log --oneline {shell_word(commits)} -- {shell_word(path)}",
        )
    return found


def fetch_all(session: Session, manifests: Sequence[Manifest]) -> None:
    """Fetch what is not here of several versions, in one go."""
    needed = {oid: size for manifest in manifests for oid, size in manifest.objects.items()}
    missing = session.store.lacking(needed)
    if missing:
        resolve_missing(session.repo, session.store, missing)


def moments_of(
    session: Session, versions: Sequence[Manifest], rank: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """Moments of every tensor of floats over all versions, one tensor at a time.

    Raises:
        MergeError: a tensor has not the same shape in all versions.
    """
    from git_theta.stats import Moments

    fetch_all(session, versions)
    last = versions[-1].tensors
    total = sum(tensor.segment.size for tensor in last.values()) * len(versions)
    with progress(total, "moments") as advance:
        for name in sorted(last):
            if last[name].dtype not in FLOATS:
                continue
            _check_alike(name, versions)
            yield from Moments(rank).of(name, (_numbers(session, v, name) for v in versions))
            advance(last[name].segment.size * len(versions))


def _check_alike(name: str, versions: Sequence[Manifest]) -> None:
    shapes = {_shape(version.tensors.get(name)) for version in versions}
    if len(shapes) > 1:
        raise MergeError(
            f"{name} is not the same kind of tensor in all versions: "
            + " and ".join(sorted(map(str, shapes))),
            hint="choose a range in which the model keeps its shape",
        )


def _shape(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else str(list(tensor.shape))


def _numbers(session: Session, manifest: Manifest, name: str) -> torch.Tensor:
    """One tensor of one version, in float32 or float64."""
    from git_theta.compute import to_numbers

    tensor = manifest.tensors[name]
    plain = read_segment(tensor.segment, manifest, session.store.read, session.plugins.updates)
    flat = to_numbers(np.frombuffer(bytearray(plain), np.uint8), tensor.dtype)
    if tensor.strides is None and tensor.offset == 0:
        return flat.reshape(tensor.shape)
    width = len(plain) // max(1, len(flat))
    strides = tensor.strides
    if strides is None:
        count = int(np.prod(tensor.shape, dtype=np.int64))
        start = tensor.offset // width
        return flat[start : start + count].reshape(tensor.shape)
    return flat.as_strided(tensor.shape, strides, tensor.offset // width)
