"""What `git add` does with a file once its format is known: new chunks stored, a manifest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

from git_theta import registry
from git_theta.commands.scan_policy import look_at
from git_theta.commands.session import Session, say
from git_theta.core.chain import Slice
from git_theta.core.checkpoint import proofs
from git_theta.core.choice import AUTO, DENSE, Choice, Chooser, Outcome, dense_record, kinds_from
from git_theta.core.clean import OPAQUE, Cleaner, Tools, Whole
from git_theta.core.compact import moved, places, wasteful, with_objects
from git_theta.core.feeds import Feed
from git_theta.core.identity import same_content
from git_theta.core.layout import TensorView
from git_theta.core.manifest import Chunk, Manifest, check_limits, dump, parse
from git_theta.core.relatives import Lender, Relatives, Where
from git_theta.core.sketch import Summary
from git_theta.errors import PluginError, ThetaError, UsageError
from git_theta.repo.candidates import MAX_MANIFEST, Before, Candidates
from git_theta.repo.collect import blob_id
from git_theta.repo.packs import PackWriter, Spot
from git_theta.repo.reuse import Reuse

# What a base costs in a manifest and in a header is more than can be saved on fewer bytes.
_WORTH_A_BASE = 1 << 10
_LANES = 2


def allowed_by(session: Session, path: str, attributes: Mapping[str, str]) -> Choice:
    """What attributes, else configuration, say of the updates for a path.

    A word that is not understood costs a line, not the add.
    """
    for where, asked in (
        ("the attribute theta-update", attributes.get("theta-update")),
        ("theta.update", session.settings.update),
    ):
        if asked and asked != AUTO:
            try:
                return Choice(kinds=kinds_from(asked, registry.names("updates")))
            except UsageError as error:
                say(path, f"{where} is not understood, every update is tried: {error}", error.hint)
                break
        elif asked:
            break
    return Choice()


class Storing:
    """Stores one file.

    What was `asked` for is stored that way, even if a manifest of this content is known; with
    `force` no record is used again either. `before` is given for a version out of history: then
    the index and HEAD do not count, and the work-tree file is not looked at.
    """

    def __init__(
        self,
        session: Session,
        path: str,
        choice: Choice,
        *,
        asked: bool,
        force: bool,
        before: Before | None = None,
    ) -> None:
        self.session = session
        self.path = path
        self._choice = choice
        self._asked = asked or force
        self._force = force
        self._kinds = choice.kinds if asked else None
        self._is_new = before is None
        self._candidates: Before = Candidates(session.repo) if before is None else before
        self._reuse = Reuse(
            self._candidates,
            session.store,
            session.catalog,
            session.plugins.updates,
            parse=session.parse,
        )
        self._reuse.anywhere = session.settings.reuse == "repository"
        self._guard = threading.Lock()
        self._chooser: Chooser | None = None

    @cached_property
    def _before(self) -> list[tuple[bytes, Manifest]]:
        """The manifests that stand for this path now; a damaged one counts for nothing."""
        found = []
        for text in self._candidates.of_path(self.path):
            with suppress(ThetaError):
                found.append((text, self._reuse.read(text)))
        return found

    @cached_property
    def _relatives(self) -> Relatives:
        lender = Lender(
            known=self._reuse.known,
            links=self._reuse.links,
            chunks=self._reuse.chunks,
            read=self.session.store.lend,
            updates=self.session.plugins.updates,
        )
        own = [manifest for _, manifest in self._before]
        return Relatives(lender, own, self._reuse.manifests)

    def cuts(self, view: TensorView, size: int) -> Sequence[int]:
        """Where to cut a tensor: as its predecessor is cut."""
        return self._relatives.cuts(view, size)

    def store(
        self, name: str, feed: Feed, views: Sequence[TensorView], whole: Whole | None = None
    ) -> bytes:
        """Read the file to its end; the manifest for it."""
        session, relatives = self.session, self._relatives
        announce = session.catalog.announce
        with (
            PackWriter(session.store, announce=announce, lanes=_LANES) as data,
            PackWriter(session.store, announce=announce) as summaries,
        ):
            tools: Tools[Spot] = Tools(
                known=self._known(),
                expect=self._reuse.expect,
                plain=lambda: self._choosing(relatives).is_plain and not relatives.any(),
                anew=frozenset(self._choice.loaded),
                writing=data.writing,
                data=data,
                summaries=summaries,
                update=session.plugins.updates(DENSE),
                store=lambda *asked: self._chunk(relatives, *asked),
                threads=session.settings.threads,
            )
            cleaner = Cleaner(tools, whole)
            cleaner.read(feed)
            answer = None if self._asked else self._known_answer(cleaner)
            if answer is not None:
                data.abandon()
                summaries.abandon()
                return answer
            session.ensure_hooks(storing=True)
            if self._is_new:
                look_at(session, self.path, cleaner.size)
            if feed.truncated:
                say(self.path, f"cut short for a {name} file, stored as opaque chunks")
                name, views = OPAQUE, ()
            manifest = cleaner.manifest(name, views)
            check_limits(manifest)
            answer = None if self._asked else self._same_content(manifest)
            if answer is not None:
                return answer
            written = dict(data.finished + summaries.finished)
        return self._conclude(manifest, written)

    def _known(self) -> Callable[[str], Chunk | None]:
        """Which records may be used again.

        Where kinds were asked for, those of other kinds may not; but what is committed as dense
        stays, since to store it again would change nothing but its place.
        """
        if self._force:
            return _nothing
        kinds = self._kinds
        if kinds is None:
            return self._reuse.known
        committed: set[str] = set()
        found = self.session.repo.objects.read(f"HEAD:{self.path}", limit=MAX_MANIFEST)
        if found is not None:
            with suppress(ThetaError):
                committed = {c.digest for c in parse(found[1]).all_chunks() if c.kind == DENSE}

        def known(digest: str) -> Chunk | None:
            chunk = self._reuse.known(digest)
            if chunk is None or digest in committed:
                return chunk
            fits = kinds == {DENSE} if chunk.kind == DENSE else chunk.kind in kinds
            return chunk if fits else None

        return known

    # --- on the cleaner's threads ----------------------------------------------------------------

    def _chunk(
        self, relatives: Relatives, new: Slice, digest: str, where: Where, summary: Summary | None
    ) -> Outcome:
        small = len(new.data) < _WORTH_A_BASE and where.name not in self._choice.loaded
        if small:
            return dense_record(self.session.plugins.updates(DENSE), new, digest)
        chooser = self._choosing(relatives)
        wanted = chooser.wants_base(where.name)
        kin = relatives.of(new, digest, where, summary) if wanted else ()
        return chooser.store(new, digest, kin, where.name)

    def _choosing(self, relatives: Relatives) -> Chooser:
        with self._guard:
            if self._chooser is None:
                self._chooser = Chooser(
                    self._updates(with_base=relatives.any() or bool(self._choice.loaded)),
                    self._choice,
                    memory=self.session.settings.memory,
                    tell=lambda message: say(self.path, message),
                )
            return self._chooser

    def _updates(self, *, with_base: bool) -> dict[str, Any]:
        """Every update that can be loaded; one that cannot is no reason to fail.

        All of ours but `dense` need a base: where there can be none they are not even imported.
        """
        names = registry.names("updates")
        if not with_base:
            names = [n for n in names if n == DENSE or not _is_ours(n)]
        loaded = ((name, self._update(name)) for name in names)
        return {name: update for name, update in loaded if update is not None}

    def _update(self, name: str) -> Any | None:
        try:
            return self.session.plugins.updates(name)
        except PluginError as error:
            say(self.path, f"{error}; others are used", error.hint)
            return None

    # --- afterwards ------------------------------------------------------------------------------

    def _known_answer(self, cleaner: Cleaner[Spot]) -> bytes | None:
        """The manifest that this very content had before, so that a clean tree stays clean."""
        session = self.session
        digest, given = session.given.get(self.path, ("", b""))
        if digest == cleaner.digest:
            return given
        for text, manifest in self._before:
            if manifest.digest == cleaner.digest and manifest.size == cleaner.size:
                return text
        return self._remembered(cleaner.digest)

    def _remembered(self, digest: str) -> bytes | None:
        """The manifest that the catalog has for a file, if it may be named here."""
        session = self.session
        kept = session.catalog.manifest(digest)
        if kept is None:
            return None
        try:
            manifest = parse(kept.manifest)
        except ThetaError:
            return None
        merged = self._same_content(manifest)
        if merged is not None or not self._reuse.may_name(manifest):
            return merged
        for oid in manifest.objects:
            session.store.freshen(oid)
        session.catalog.claim(manifest.objects, blob_id(session.repo, kept.manifest))
        return kept.manifest

    def _same_content(self, manifest: Manifest) -> bytes | None:
        """A manifest that was merged from parts, and so has no digest of the file, if it is it."""
        for text, known in self._before:
            if not known.digest and known.size == manifest.size and same_content(known, manifest):
                return text
        return None

    def _elsewhere(self) -> set[str]:
        """Objects that other staged files name."""
        found: set[str] = set()
        for text in self._candidates.of_other_paths(self.path):
            with suppress(ThetaError):
                found.update(parse(text).objects)
        return found

    def _conclude(self, manifest: Manifest, written: dict[str, int]) -> bytes:
        """Fill in bases, plug-ins and objects, rewrite wasteful ones, and remember the result."""
        session, reuse = self.session, self._reuse
        manifest = manifest._replace(bases=reuse.closure(manifest.all_chunks()))
        manifest = manifest._replace(plugins=plugins_needed(manifest))
        sizes = {
            place.oid: written[place.oid] if place.oid in written else reuse.size(place.oid)
            for place in places(manifest)
        }
        manifest = with_objects(manifest, sizes)
        chosen = wasteful(manifest) and wasteful(manifest, self._elsewhere())
        if chosen:
            manifest = rewritten(session, manifest, chosen, written)
        text = dump(manifest)
        fresh = proofs(manifest, lambda chunk: chunk.at.oid in written)
        session.catalog.keep_proven([*reuse.proven, *fresh])
        # What Git's own database names is loose no more; else that list grew with every version.
        before = self._before if self._is_new else []
        named = {oid for _, known in before for oid in known.objects}
        session.catalog.drop_loose(named)
        session.catalog.claim(manifest.objects.keys() - named, blob_id(session.repo, text))
        # Not the one that was known before: had it still been of use, it would have been the
        # answer.
        session.catalog.keep_manifest(manifest.digest, text, replace=True)
        return text


def _is_ours(update: str) -> bool:
    with suppress(PluginError):
        return registry.is_ours("updates", update)
    return False


def _nothing(digest: str) -> Chunk | None:  # noqa: ARG001
    return None


def rewritten(
    session: Session, manifest: Manifest, chosen: set[str], written: dict[str, int]
) -> Manifest:
    """Copy the used records of some objects into new ones."""
    old = sorted({place for place in places(manifest) if place.oid in chosen})
    with PackWriter(session.store, announce=session.catalog.announce) as packs:
        spots = {place: packs.append([session.store.read(place)]) for place in old}
        packs.finish()
        where = {place: packs.place(spot) for place, spot in spots.items()}
    written.update(packs.finished)
    return with_objects(moved(manifest, where), dict(manifest.objects) | dict(packs.finished))


def plugins_needed(manifest: Manifest) -> dict[str, str]:
    """Plug-ins of other packages that a reader of the manifest must have."""
    kinds = sorted({chunk.kind for chunk in manifest.all_chunks()})
    asked = [("updates", kind) for kind in kinds]
    if manifest.format != OPAQUE:
        asked.append(("formats", manifest.format))
    needed = {}
    for group, name in asked:
        package, version = registry.provider(group, name)
        if package != registry.OURS:
            needed[f"git_theta.{group}:{name}"] = f"{package} {version}".strip()
    return needed
