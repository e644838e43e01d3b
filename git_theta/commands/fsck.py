"""`git theta fsck`: every stored byte is here and right, or what is lost is named."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass

import click

from git_theta.commands.agreement import catalog_faults, setup_faults
from git_theta.commands.losses import Loss, losses_of, places
from git_theta.commands.options import JSON_OPTION
from git_theta.commands.progress import progress
from git_theta.commands.proof import Proof, prove
from git_theta.commands.remote_check import absent_from, remotes_with
from git_theta.commands.session import Session
from git_theta.commands.terminal import count, note, printable, say, say_json, size_text
from git_theta.core.chain import sealed
from git_theta.core.checkpoint import by_digest
from git_theta.core.manifest import Manifest
from git_theta.core.pooling import Pool
from git_theta.errors import CorruptError, ManifestError, MissingError
from git_theta.repo import remotes
from git_theta.repo.collect import blob_id
from git_theta.repo.tracked import manifests_or_damage, read_or_error

_REMEDIES = {
    "missing": "git theta fetch --all; else git theta push --all in a clone that has it",
    "corrupt": "delete the damaged object, then git theta fetch --all",
    "manifest": "git log --all -- PATH, and take a version from before the damage",
    "catalog": "git theta fsck --rebuild makes this cache anew; no data is lost",
    "remote": "git theta push --all REMOTE, here or in a clone that has it",
    "plug-in": "pip install the package that git theta show names",
}
_SHOWN = 20


@click.command()
@click.option("--rebuild", "is_rebuild", is_flag=True, help="Make the catalog anew as well.")
@click.option(
    "--remote", is_flag=False, flag_value="", default=None, metavar="[NAME]",
    help="Check the other side instead, without downloading.",
)  # fmt: skip
@JSON_OPTION
def command(is_rebuild: bool, remote: str | None, as_json: bool) -> int:
    """Check that every stored byte of every version is here and right.

    Reads all manifests in the repository, checks each object that they name by its sha256 and
    each chunk by decoding it. What is lost is named by path, tensor and commit, with the remotes
    that still have it. Ends with 0 when all is well, 4 when objects are missing, 5 when something
    is damaged.

    --rebuild also makes the catalog (a cache that may be deleted at any time) from what was
    proven. What is wrong with hooks and configuration is a warning: see git theta doctor.

    --remote asks a remote (by default that of the branch, or origin) whether it has every object
    that the manifests of its own branches and tags name, and says what can be pushed again from
    here.
    """
    session = Session()
    try:
        if remote is not None:
            target = remote or remotes.default(session.repo)
            checked, losses = _check_remote(session, target)
        else:
            checked, losses = check_here(session, is_rebuild=is_rebuild)
        findings = [] if remote is not None else list(setup_faults(session.repo))
    finally:
        session.close()
    if as_json:
        found = {"losses": list(map(asdict, losses)), "findings": list(map(asdict, findings))}
        say_json(asdict(checked) | found)
    else:
        _print(checked, losses)
        for finding in findings:
            note(f"warning: {finding.check}: {finding.message} ({finding.remedy})")
    return _exit_code(losses)


def check_here(session: Session, *, is_rebuild: bool = False) -> tuple[_Checked, list[Loss]]:
    """Check all manifests, objects and chunks of this repository, and the catalog."""
    manifests, losses = _read_all(session)
    checked = _Checked.of(manifests.values())
    with progress(checked.bytes, "checking") as advance:
        proof = prove(session, manifests.values(), advance)
    wanted = {o: n for m in manifests.values() for o, n in m.objects.items() if o in proof.objects}
    losses += losses_of(session, manifests, proof, remotes_with(session, wanted))
    if is_rebuild:
        _rebuild(session, manifests, proof)
    losses += (
        Loss(kind="catalog", message=message, blob="")
        for message in catalog_faults(session.catalog, manifests.values(), proof)
    )
    return checked, losses


def _check_remote(session: Session, remote: str) -> tuple[_Checked, list[Loss]]:
    manifests, proof = absent_from(session, remote)
    here = {oid: ("here",) for oid in proof.objects if session.store.find(oid)}
    losses = list(losses_of(session, manifests, proof, here))
    return _Checked.of(manifests.values(), remote=remote), losses


@dataclass(frozen=True)
class _Checked:
    manifests: int
    objects: int
    bytes: int
    remote: str | None = None

    @classmethod
    def of(cls, manifests: Collection[Manifest], *, remote: str | None = None) -> _Checked:
        objects = {oid: n for manifest in manifests for oid, n in manifest.objects.items()}
        return cls(len(manifests), len(objects), sum(objects.values()), remote)


def _read_all(session: Session) -> tuple[dict[str, Manifest], list[Loss]]:
    """All manifests of the object database by blob id; those that cannot be read are losses."""
    manifests: dict[str, Manifest] = {}
    broken: dict[str, str] = {}
    pool = Pool()
    for blob, text in manifests_or_damage(session.repo):
        if text is None or blob_id(session.repo, text) != blob:
            broken[blob] = "Git cannot read this object; git fsck --full says more"
            continue
        read = read_or_error("", text)
        if isinstance(read, ManifestError):
            broken[blob] = str(read).removeprefix(": ")
        else:
            manifests[blob] = pool.share(read)
    where = places(session, broken)
    losses = [
        Loss(kind="manifest", message=message, blob=blob, path=path, commit=commit)
        for blob, message in broken.items()
        for commit, path in where[blob]
    ]
    return manifests, losses


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
    if kinds & {"corrupt", "manifest", "catalog"}:
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
    where = f" on {printable(checked.remote)}" if checked.remote else ""
    state = "not whole" if losses else "all well"
    note(f"{told}, {size_text(checked.bytes)}{where}: {state}")


def _named(loss: Loss) -> Iterator[str]:
    if loss.path is not None:
        yield printable(loss.path)
    if loss.tensor is not None:
        yield f"tensor {printable(loss.tensor)}"
    if loss.commit or loss.blob:
        yield f"(commit {loss.commit[:12]})" if loss.commit else f"(blob {loss.blob[:12]})"
    yield f"- {printable(loss.message)}"
    if loss.available == ("here",):
        yield "(it is here)"
    elif loss.available:
        yield f"(on {printable(', '.join(loss.available))})"
