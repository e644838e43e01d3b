"""`git theta fsck`: every stored byte is here and right, or what is lost is named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import click

from git_theta.commands.options import JSON_OPTION
from git_theta.commands.progress import progress
from git_theta.commands.proof import Failure, Proof, prove
from git_theta.commands.session import Session
from git_theta.commands.terminal import count, note, printable, say, say_json, size_text
from git_theta.core.chain import sealed
from git_theta.core.checkpoint import by_digest
from git_theta.core.manifest import Manifest, Segment
from git_theta.core.pooling import Pool
from git_theta.errors import CorruptError, ManifestError, MissingError
from git_theta.repo.tracked import every_manifest, named_places, read_or_error, staged_blobs

_REMEDIES = {
    "missing": "git theta fetch --all; else git theta push --all in a clone that has it",
    "corrupt": "delete the damaged object, then git theta fetch --all",
    "manifest": "git log --all -- PATH, and take a version from before the damage",
    "plug-in": "pip install the package that git theta show names",
}
_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """One thing that cannot be restored, and where it is needed.

    `kind` is missing, corrupt, plug-in or manifest; `commit` is None for what is only staged;
    `tensor` is None for bytes between the tensors and for a whole manifest.
    """

    kind: str
    message: str
    blob: str
    path: str | None = None
    commit: str | None = None
    tensor: str | None = None
    object: str | None = None


@click.command()
@click.option("--rebuild", "is_rebuild", is_flag=True, help="Make the catalog anew as well.")
@JSON_OPTION
def command(is_rebuild: bool, as_json: bool) -> int:
    """Check that every stored byte of every version is here and right.

    Reads all manifests in the repository, checks each object that they name by its sha256 and
    each chunk by decoding it. What is lost is named by path, tensor and commit. Ends with 0 when
    all is well, 4 when objects are missing, 5 when something is damaged.

    --rebuild also makes the catalog (a cache that may be deleted at any time) from what was
    proven.
    """
    session = Session()
    try:
        manifests, losses = _read_all(session)
        total = sum({o: n for m in manifests.values() for o, n in m.objects.items()}.values())
        with progress(total, "checking") as advance:
            proof = prove(session, manifests.values(), advance)
        losses += list(_losses(session, manifests, proof))
        if is_rebuild:
            _rebuild(session, manifests, proof)
    finally:
        session.close()
    checked = _Checked(
        len(manifests), len({o for m in manifests.values() for o in m.objects}), total
    )
    if as_json:
        say_json({**asdict(checked), "losses": [asdict(loss) for loss in losses]})
    else:
        _print(checked, losses)
    return _exit_code(losses)


@dataclass(frozen=True)
class _Checked:
    manifests: int
    objects: int
    bytes: int


def _read_all(session: Session) -> tuple[dict[str, Manifest], list[Loss]]:
    """All manifests of the object database by blob id; those that cannot be read are losses."""
    manifests: dict[str, Manifest] = {}
    broken: dict[str, str] = {}
    pool = Pool()
    for blob, text in every_manifest(session.repo):
        read = read_or_error("", text)
        if isinstance(read, ManifestError):
            broken[blob] = str(read).removeprefix(": ")
        else:
            manifests[blob] = pool.share(read)
    places = _where(session, broken)
    losses = [
        Loss(kind="manifest", message=message, blob=blob, path=path, commit=commit)
        for blob, message in broken.items()
        for commit, path in places[blob]
    ]
    return manifests, losses


def _where(
    session: Session, blobs: Mapping[str, object]
) -> dict[str, list[tuple[str | None, str | None]]]:
    """(commit, path) of each blob, the newest first; (None, path) for one only staged."""
    staged = {blob.oid: blob.path for blob in staged_blobs(session.repo)} if blobs else {}
    named = named_places(session.repo, blobs)
    return {blob: [*named[blob]] or [(None, staged.get(blob))] for blob in blobs}


def _losses(session: Session, manifests: Mapping[str, Manifest], proof: Proof) -> Iterator[Loss]:
    if not proof.objects and not proof.chunks:
        return
    lost = {blob: found for blob, m in manifests.items() if (found := list(_of(m, proof)))}
    places = _where(session, lost)
    for blob, found in lost.items():
        for commit, path in places[blob]:
            for tensor, oid, failure in found:
                yield Loss(
                    kind=failure.kind,
                    message=failure.message,
                    blob=blob,
                    path=path,
                    commit=commit,
                    tensor=tensor,
                    object=oid,
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
                yield name, chunk.at.oid, failure
    known = {failure for _, failure in seen}
    for oid in manifest.objects:  # one that holds only summaries, or that nothing needs any more
        failure = proof.objects.get(oid)
        if failure is not None and failure not in known:
            yield None, oid, failure


def _rebuild(session: Session, manifests: Mapping[str, Manifest], proof: Proof) -> None:
    session.catalog.clear()
    for blob, manifest in manifests.items():
        chunks = list(manifest.all_chunks())
        bases = by_digest(manifest)
        sound = (c for c in chunks if proof.of(manifest, c) is None)
        session.catalog.keep_proven(sealed(chunk, bases) for chunk in sound)
        found = session.repo.objects.read(blob)
        if found is not None and manifest.digest and not any(proof.of(manifest, c) for c in chunks):
            session.catalog.keep_manifest(manifest.digest, found[1])


def _exit_code(losses: list[Loss]) -> int:
    kinds = {loss.kind for loss in losses}
    if kinds & {"corrupt", "manifest"}:
        return CorruptError.exit_code
    return MissingError.exit_code if kinds else 0


def _print(checked: _Checked, losses: list[Loss]) -> None:
    for loss in losses[:_SHOWN]:
        say(" ".join([f"{loss.kind}:", *_named(loss)]))
    if len(losses) > _SHOWN:
        say(f"... and {len(losses) - _SHOWN} more (--json lists all)")
    for kind in sorted({loss.kind for loss in losses}):
        say(f"hint: {kind}: {_REMEDIES[kind]}")
    told = f"{count(checked.manifests, 'manifest')}, {count(checked.objects, 'object')}"
    note(f"{told}, {size_text(checked.bytes)}: {'damaged' if losses else 'all well'}")


def _named(loss: Loss) -> Iterator[str]:
    if loss.path is not None:
        yield printable(loss.path)
    if loss.tensor is not None:
        yield f"tensor {printable(loss.tensor)}"
    yield f"(commit {loss.commit[:12]})" if loss.commit else f"(blob {loss.blob[:12]})"
    yield f"- {printable(loss.message)}"
