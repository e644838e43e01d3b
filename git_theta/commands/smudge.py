"""`git checkout` of one file: manifest in, bytes out, every one of them proven."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from git_theta.commands.direct import DirectFiles
from git_theta.commands.progress import counted, progress
from git_theta.commands.session import Session, say, say_left
from git_theta.core.checkpoint import proofs, rebuild
from git_theta.core.manifest import Manifest, is_manifest, parse
from git_theta.errors import (
    ManifestError,
    MissingError,
    NewerManifestError,
    PluginError,
    TransferError,
    shell_word,
)
from git_theta.repo.caller import may_delay
from git_theta.repo.candidates import MAX_MANIFEST
from git_theta.repo.streams import Incoming, spool

_BLOCK = 8 << 20


@dataclass
class Smudger:
    """Smudges the files of one Git command; holds the answers that were delayed."""

    session: Session
    direct: DirectFiles
    _delayed: dict[str, tuple[bytes, Manifest]] = field(default_factory=dict)
    _unfetched: set[str] = field(default_factory=set)
    _failure: MissingError | TransferError | None = None

    def smudge(
        self, path: str, content: Incoming, asked: Mapping[str, str]
    ) -> Iterator[memoryview] | None:
        """The bytes of the file, the text as it came, or None for an answer that comes later.

        Raises:
            ManifestError: the text is damaged or has conflict markers.
            CorruptError: what is stored is not the file that the manifest names.
        """
        if path in self._delayed and "can-delay" not in asked:
            content.drain()
            return self._restore(path, *self._delayed.pop(path))
        if not is_manifest(content.head(64)):
            return self._raw(content)
        text = content.head(MAX_MANIFEST + 1)
        content.drain()
        self.session.ensure_hooks(storing=False)
        if "blob" not in asked:
            self.session.given[path] = ("", text)
        try:
            manifest = parse(text)
        except NewerManifestError as error:
            say_left(path, error)
            return iter([memoryview(text)])
        except ManifestError as error:
            if not error.hint:
                # `reset -p` and `checkout -p` of what is committed compare manifests without us.
                error.hint = (
                    "hunks of it, chosen one by one, make no model; take it whole from a commit "
                    f"that has it: git checkout COMMIT -- {shell_word(path)}"
                )
            raise
        if not self.session.settings.skip_smudge and self.direct.take(path, text, manifest, asked):
            return iter([memoryview(text)])
        if asked.get("can-delay") == "1" and self._missing(manifest) and may_delay():
            self._delayed[path] = text, manifest
            return None
        return self._restore(path, text, manifest)

    def delayed(self) -> list[str]:
        """Fetch what the delayed files lack, all in one batch; then all of them are ready."""
        manifests = {path: manifest for path, (_, manifest) in self._delayed.items()}
        with suppress(MissingError, TransferError):  # told for each file that needs it
            self._fetch({oid: size for m in manifests.values() for oid, size in m.objects.items()})
        return list(manifests)

    def _raw(self, content: Incoming) -> Iterator[memoryview]:
        """A file that was committed before it was tracked: read whole, then given back."""
        small = content.head(_BLOCK + 1)
        if len(small) <= _BLOCK:
            content.drain()
            return iter([memoryview(small)])
        handle, name = self.session.store.temporary()
        try:
            spool(content, handle)
            os.lseek(handle, 0, os.SEEK_SET)
        except BaseException:
            os.close(handle)
            raise
        finally:
            name.unlink(missing_ok=True)
        return _blocks(handle)

    def _is_left(self, manifest: Manifest) -> bool:
        settings = self.session.settings
        return settings.skip_smudge or manifest.size > settings.smudge_limit

    def _missing(self, manifest: Manifest) -> dict[str, int]:
        """What must be fetched before the file can be restored, if it is to be restored."""
        if self._is_left(manifest):
            return {}
        return self.session.store.lacking(manifest.objects)

    def _fetch(self, objects: Mapping[str, int]) -> None:
        store = self.session.store
        missing = store.lacking(objects)
        if not missing:
            return
        if self._failure is not None and missing.keys() <= self._unfetched:
            raise self._failure  # one attempt is enough for one Git command
        from git_theta.repo.remotes import resolve_missing

        try:
            resolve_missing(self.session.repo, store, missing)
        except (MissingError, TransferError) as error:
            self._failure = error
            self._unfetched |= missing.keys()
            raise

    def _restore(self, path: str, text: bytes, manifest: Manifest) -> Iterator[memoryview]:
        """The file; or the manifest itself, with a line that says what to do, where it must be."""
        settings = self.session.settings
        as_it_is = iter([memoryview(text)])
        if self._is_left(manifest):
            if not settings.skip_smudge:
                again = f"run git theta pull -- {shell_word(path)}"
                say(path, "left as a manifest, being large", again)
            return as_it_is
        try:
            self._fetch(manifest.objects)
            pieces = rebuild(
                manifest,
                self.session.store.lend,
                self.session.plugins,
                threads=settings.threads,
                learned=lambda digest: self._learned(path, digest, text),
            )
            first = next(pieces, None)
        except (PluginError, MissingError, TransferError) as error:
            say_left(path, error)
            return as_it_is
        whole = pieces if first is None else itertools.chain([first], pieces)
        return self._remembered(path, manifest, text, whole)

    def _remembered(
        self, path: str, manifest: Manifest, text: bytes, pieces: Iterator[memoryview]
    ) -> Iterator[memoryview]:
        with progress(manifest.size, f"restoring {path}") as advance:
            yield from counted(pieces, advance)
        if manifest.digest:
            self._learned(path, manifest.digest, text)
        self.session.catalog.keep_proven(proofs(manifest))

    def _learned(self, path: str, digest: str, text: bytes) -> None:
        """Remember what manifest a file has whose digest is known now."""
        self.session.catalog.keep_manifest(digest, text)
        if path in self.session.given:
            self.session.given[path] = (digest, text)


def _blocks(handle: int) -> Iterator[memoryview]:
    try:
        while block := os.read(handle, _BLOCK):
            yield memoryview(block)
    finally:
        os.close(handle)
