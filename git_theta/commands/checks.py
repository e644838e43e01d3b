"""The checks that `doctor` makes of a repository: hooks, attributes, files, store, plug-ins."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from git_theta import registry
from git_theta.commands.findings import Finding
from git_theta.commands.terminal import count, printable
from git_theta.commands.track import attribute_files, overridden
from git_theta.core.manifest import Manifest
from git_theta.errors import ManifestError, PluginError, ThetaError
from git_theta.repo import hooks
from git_theta.repo.attributes import AttributesFile
from git_theta.repo.gitrepo import Repo
from git_theta.repo.objects import Store
from git_theta.repo.tracked import (
    TrackedBlob,
    is_left_as_manifest,
    read_or_error,
    staged_blobs,
    untracked_manifests,
)
from git_theta.settings import Settings

_SHOWN = 5
_GIVES_US = {"diff": "theta", "merge": "theta"}


@dataclass(eq=False)
class Subject:
    """The repository, and what several checks ask of it."""

    repo: Repo

    @cached_property
    def blobs(self) -> list[TrackedBlob]:
        """What is staged for each tracked path."""
        return list(staged_blobs(self.repo))

    @cached_property
    def read(self) -> dict[str, Manifest | ManifestError]:
        """Their manifests, or why one cannot be read."""
        return {b.path: read_or_error(b.path, b.text) for b in self.blobs if b.text is not None}

    @cached_property
    def manifests(self) -> dict[str, Manifest]:
        """The manifests that can be read."""
        return {path: m for path, m in self.read.items() if isinstance(m, Manifest)}

    @cached_property
    def store(self) -> Store:
        """The object store."""
        return Store.of(self.repo.common_dir)

    @cached_property
    def objects(self) -> dict[str, int]:
        """Every object that a staged manifest names."""
        return {oid: n for m in self.manifests.values() for oid, n in m.objects.items()}


def few(names: Iterable[str]) -> str:
    """The first names of a list, and how many more there are."""
    listed = list(names)
    shown = ", ".join(map(printable, listed[:_SHOWN]))
    return shown + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")


def check_settings(subject: Subject) -> Iterator[Finding]:
    """Our own settings."""
    try:
        Settings.read(subject.repo.config)
    except ThetaError as error:
        yield Finding(check="settings", status="fault", message=str(error), remedy=error.hint)
        return
    if subject.repo.config.get("merge.renormalize", "false") == "true":
        yield Finding(
            check="settings",
            status="warning",
            message="merge.renormalize makes every merge rebuild whole checkpoints three times",
            remedy="git config --unset merge.renormalize",
        )


def check_hooks(subject: Subject) -> Iterator[Finding]:
    """The hooks that upload objects."""
    where = subject.repo.config.get("core.hookspath")
    told = f" (core.hooksPath is {printable(where)})" if where else ""
    missing = hooks.missing(subject.repo)
    if not missing:
        yield Finding(check="hooks", status="ok", message=f"in place{told}")
        return
    unwanted = subject.repo.config.get("theta.autohooks") == "false"
    yield Finding(
        check="hooks",
        status="warning" if unwanted else "fault",
        message=f"not in place: {few(missing)}{told}; a plain push leaves the objects behind",
        remedy="git theta install (in this repository), or always git theta push before git push",
    )


def check_attributes(subject: Subject) -> Iterator[Finding]:
    """Lines that do not do what they say, and manifests that nobody turns into files."""
    repo = subject.repo
    for path in attribute_files(repo):
        for pattern, value, example in overridden(repo, AttributesFile(path)):
            yield Finding(
                check="attributes",
                status="fault",
                message=f"{path}: {printable(pattern)} is overridden: filter is "
                f"{printable(value)} for a file such as {printable(example)}",
                remedy="remove the line that overrides it, in this file or one below it",
            )
    for name, value in untracked_manifests(repo):
        yield Finding(
            check="attributes",
            status="fault",
            message=f"{printable(name)} is a manifest, but its filter is {printable(value)}: it "
            "is checked out as text",
            remedy=f"git theta track '{printable(name)}'",
        )
    yield from _check_drivers(subject)


def _check_drivers(subject: Subject) -> Iterator[Finding]:
    asked = [blob.path for blob in subject.blobs]
    found = subject.repo.attributes(asked, ["diff", "merge", "text", "working-tree-encoding"])
    wrong: dict[str, list[str]] = {}
    for path in asked:
        values = found.get(path, {})
        for name in ("diff", "merge", "text", "working-tree-encoding"):
            if values.get(name) != _GIVES_US.get(name):
                wrong.setdefault(f"{name}={values.get(name, 'unset')}", []).append(path)
    for told, paths in wrong.items():
        yield Finding(
            check="attributes",
            status="warning",
            message=f"{told} for {few(paths)}",
            remedy="track writes: filter=theta diff=theta merge=theta -text",
        )


def check_files(subject: Subject) -> Iterator[Finding]:
    """Raw checkpoints in the index, manifests in the work tree."""
    raw = [blob.path for blob in subject.blobs if blob.text is None]
    if raw:
        yield Finding(
            check="files",
            status="fault",
            message=f"{count(len(raw), 'tracked file')} committed raw: {few(raw)}",
            remedy="git add --renormalize -- PATH, then commit",
        )
    top = subject.repo.top
    left = [name for name in subject.manifests if top and is_left_as_manifest(top / name)]
    if left:
        yield Finding(
            check="files",
            status="fault",
            message=f"{count(len(left), 'file')} still a manifest in the work tree: {few(left)}",
            remedy="git theta pull",
        )
    if not raw and not left:
        told = count(len(subject.manifests), "tracked file")
        yield Finding(check="files", status="ok", message=told)
    yield from _check_manifests(subject)


def _check_manifests(subject: Subject) -> Iterator[Finding]:
    for read in subject.read.values():
        if isinstance(read, ManifestError):
            remedy = read.hint or "git theta fsck"
            yield Finding(check="files", status="fault", message=str(read), remedy=remedy)


def check_store(subject: Subject) -> Iterator[Finding]:
    """The object store: permissions, what is missing, what is borrowed."""
    store = subject.store
    where = next(
        path for path in (store.media, store.root, subject.repo.common_dir) if path.is_dir()
    )
    if not os.access(where, os.R_OK | os.W_OK | os.X_OK):
        yield Finding(
            check="store",
            status="fault",
            message=f"{where} cannot be read and written",
            remedy="check who owns it",
        )
    missing = store.lacking(subject.objects)
    if missing:
        yield Finding(
            check="store",
            status="fault",
            message=f"{count(len(missing), 'object')} of staged files not here",
            remedy="git theta fetch",
        )
    else:
        told = f"{count(len(subject.objects), 'object')} of staged files here"
        yield Finding(check="store", status="ok", message=told)
    yield from _check_borrowed(subject)


def _check_borrowed(subject: Subject) -> Iterator[Finding]:
    store = subject.store
    lent = [path for path in store.alternates if path.is_dir()]
    found = [store.find(oid) for oid in subject.objects if not store.path(oid).is_file()]
    borrowed = [path for path in found if path is not None]
    if borrowed:
        yield Finding(
            check="alternates",
            status="warning",
            message=f"{count(len(borrowed), 'object')} borrowed from {few(map(_owner, lent))}; "
            "gone if that repository goes",
            remedy="keep that repository, or clone without --reference or --shared",
        )


def _owner(media: Path) -> str:
    return str(media.parents[3])


def check_plugins(subject: Subject) -> Iterator[Finding]:
    """Plug-ins that staged manifests need, and names claimed twice."""
    needed: dict[tuple[str, str], list[str]] = {}
    for path, manifest in subject.manifests.items():
        for entry, provider in manifest.plugins.items():
            needed.setdefault((entry, provider), []).append(path)
    for (entry, provider), paths in needed.items():
        group, _, name = entry.partition(":")
        error = _claim(group.removeprefix("git_theta."), name)
        if error is not None:
            yield Finding(
                check="plug-ins",
                status="fault",
                message=f"{few(paths)}: {error}",
                remedy=f"pip install {printable(provider.split(' ')[0])}",
            )
    claims = [
        _claim(group, name)
        for group in ("formats", "updates", "metrics")
        for name in registry.names(group)
    ]
    for error in claims:
        if error is not None:
            remedy = error.hint or "install its package again"
            yield Finding(check="plug-ins", status="fault", message=str(error), remedy=remedy)


def _claim(group: str, name: str) -> PluginError | None:
    """Why a plug-in cannot be had, or None."""
    try:
        registry.load(group, name)
    except PluginError as error:
        return error
    return None
