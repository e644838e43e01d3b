"""What is lost, and where it is needed: by path, tensor and commit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from git_theta.commands.proof import Failure, Proof
from git_theta.commands.session import Session
from git_theta.core.manifest import Manifest, Segment
from git_theta.repo.tracked import named_places, staged_paths


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """One thing that cannot be restored, and where it is needed.

    `kind` is missing, corrupt, plug-in or manifest, remote for what a remote lacks, or catalog for
    what only this cache says wrongly. `commit` is None for what is only staged; `tensor` is None
    for bytes between the tensors and for a whole manifest. `available` names the remotes that
    have the object; "here" stands for this repository.
    """

    kind: str
    message: str
    blob: str
    path: str | None = None
    commit: str | None = None
    tensor: str | None = None
    object: str | None = None
    available: tuple[str, ...] = ()


def places(
    session: Session, blobs: Mapping[str, object]
) -> dict[str, list[tuple[str | None, str | None]]]:
    """(commit, path) of each blob, the newest first; (None, path) for one only staged."""
    staged = {entry.oid: entry.path for entry in staged_paths(session.repo)} if blobs else {}
    named = named_places(session.repo, blobs)
    return {blob: [*named[blob]] or [(None, staged.get(blob))] for blob in blobs}


def losses_of(
    session: Session,
    manifests: Mapping[str, Manifest],
    proof: Proof,
    available: Mapping[str, tuple[str, ...]],
) -> Iterator[Loss]:
    """What of some manifests cannot be restored, by path, tensor and commit."""
    if not proof.objects and not proof.chunks:
        return
    lost = {blob: found for blob, m in manifests.items() if (found := list(_of(m, proof)))}
    found_at = places(session, lost)
    for blob, found in lost.items():
        for commit, path in found_at[blob]:
            for tensor, oid, failure in found:
                yield Loss(
                    kind=failure.kind,
                    message=failure.message,
                    blob=blob,
                    path=path,
                    commit=commit,
                    tensor=tensor,
                    object=oid,
                    available=available.get(oid, ()),
                )


def _of(manifest: Manifest, proof: Proof) -> Iterator[tuple[str | None, str, Failure]]:
    """What of one manifest cannot be restored: tensors by name, other bytes without one."""
    names: list[tuple[str | None, Segment]] = [(None, manifest.skeleton)]
    names += [(name, tensor.segment) for name, tensor in manifest.tensors.items()]
    shown = {tensor.segment.digest for tensor in manifest.tensors.values()}
    names += [(None, s) for digest, s in manifest.segments.items() if digest not in shown]
    if manifest.recipe is not None:
        names.append((None, manifest.recipe))
    seen: set[tuple[str | None, Failure]] = set()
    for name, segment in names:
        for chunk in segment.chunks:
            failure = proof.of(manifest, chunk)
            if failure is not None and (name, failure) not in seen:
                seen.add((name, failure))
                yield name, failure.object or chunk.at.oid, failure
    known = {failure for _, failure in seen}
    for oid in manifest.objects:  # one that holds only summaries, or that nothing needs any more
        failure = proof.objects.get(oid)
        if failure is not None and failure not in known:
            yield None, oid, failure
