"""Whether what surrounds the objects agrees with them: the catalog, hooks, configuration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from git_theta.commands.checks import Subject, check_hooks, check_settings
from git_theta.commands.findings import Finding, check_configuration
from git_theta.commands.proof import Proof
from git_theta.core.manifest import Manifest, parse
from git_theta.errors import ManifestError
from git_theta.repo.catalog import Catalog
from git_theta.repo.gitrepo import Repo


def catalog_faults(catalog: Catalog, manifests: Iterable[Manifest], proof: Proof) -> Iterator[str]:
    """What the catalog says that is not so: a line for each."""
    places = {
        (chunk.at.oid, chunk.at.offset): chunk.digest
        for manifest in manifests
        for chunk in manifest.all_chunks()
        if proof.of(manifest, chunk) is None
    }
    for digest, oid, start in catalog.places():
        there = places.get((oid, start), digest)
        if there != digest:
            yield f"the catalog has chunk {digest[:16]} where {there[:16]} lies, in {oid[:16]}"
    for known in catalog.manifests():
        try:
            digest = parse(known.manifest).digest
        except ManifestError as error:
            yield f"the catalog has a manifest of file {known.digest[:16]} that is damaged: {error}"
            continue
        if digest and digest != known.digest:  # a merged file has none
            yield f"the catalog has a manifest of another file for {known.digest[:16]}"


def setup_faults(repo: Repo) -> Iterator[Finding]:
    """What is wrong with the hooks and the configuration, as `git theta doctor` says it."""
    subject = Subject(repo)
    for found in (check_configuration(repo), check_settings(subject), check_hooks(subject)):
        yield from (finding for finding in found if finding.status == "fault")
