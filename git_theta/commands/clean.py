"""`git add` of one file: bytes in, manifest out, new chunks into the store."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from git_theta import registry
from git_theta.commands.scan_policy import look_at
from git_theta.commands.session import Session, say
from git_theta.core.clean import OPAQUE, Cleaner, Tools, Whole
from git_theta.core.compact import moved, places, wasteful, with_objects
from git_theta.core.feeds import ChunkFeed, Feed, LayoutFeed, Source
from git_theta.core.identity import same_content
from git_theta.core.layout import Layout, RangeReader, TensorView
from git_theta.core.manifest import Manifest, dump, is_manifest, parse
from git_theta.core.splitting import BytesSource, drain, side_by_side, split_proven
from git_theta.core.units import plan
from git_theta.errors import (
    FormatError,
    NewerManifestError,
    PluginError,
    RefusedError,
    ThetaError,
)
from git_theta.repo.collect import blob_id
from git_theta.repo.objects import PackWriter, Spot
from git_theta.repo.reuse import MAX_MANIFEST, Candidates, Reuse
from git_theta.repo.streams import (
    ComparedStream,
    FileReader,
    HeadReader,
    Incoming,
    PlainStream,
    StreamDiffers,
    copy_proven,
    open_regular,
    spool,
    write_fully,
)

_HEAD = 4096


@dataclass(frozen=True, slots=True)
class Recognised:
    """How a file will be read: by a format, or as opaque chunks."""

    name: str
    plugin: Any = None


def clean(session: Session, path: str, content: Incoming) -> bytes:
    """The manifest for the bytes that Git hands over.

    Raises:
        ManifestError: the bytes claim to be a manifest and are none.
        RefusedError: the file changed while it was read.
        StoreError: the store cannot be written.
    """
    if is_manifest(content.head(64)):
        return _pass_through(content)
    found = recognise(session, path, content.head(_HEAD))
    if found.plugin is None:
        return _store(session, path, found, ChunkFeed(content), ())
    if getattr(found.plugin, "sequential", False):
        return _clean_stream(session, path, found, HeadReader(content), content)
    return _clean_file(session, path, found, content)


def _pass_through(content: Incoming) -> bytes:
    """A manifest stays what it is; one with conflict markers or damage is refused."""
    text = content.head(MAX_MANIFEST + 1)
    content.drain()
    with suppress(NewerManifestError):  # a checkout left it in the tree: it is as it was
        parse(text)
    return text


# --- which format --------------------------------------------------------------------------------


def recognise(session: Session, path: str, head: bytes) -> Recognised:
    """Choose the format: the attribute `theta-format`, else content, else the file's name.

    A name that belongs to content which the format does not know earns the user a word.
    """
    asked = session.repo.attributes([path], ["theta-format"]).get(path, {}).get("theta-format")
    if asked == OPAQUE:
        return Recognised(OPAQUE)
    if asked:
        try:
            return Recognised(asked, session.plugins.formats(asked))
        except PluginError as error:
            say(path, f"{error}; stored as opaque chunks", error.hint)
            return Recognised(OPAQUE)
    plugins = {name: plugin for name in registry.names("formats") if (plugin := _quiet(name))}
    for name, plugin in plugins.items():
        if plugin.detect(head):
            return Recognised(name, plugin)
    for name, plugin in plugins.items():
        if path.lower().endswith(plugin.suffixes):
            return Recognised(name, plugin)
    return Recognised(OPAQUE)


def _quiet(name: str) -> Any | None:
    """A format that may be broken: a fault of one package must not stop files of another."""
    try:
        return registry.load("formats", name)
    except PluginError:
        return None


# --- reading -------------------------------------------------------------------------------------


def _clean_stream(
    session: Session, path: str, found: Recognised, reader: RangeReader, source: Source
) -> bytes:
    """Read along the layout that the format finds, or as opaque chunks where it finds none."""
    if hasattr(found.plugin, "split"):
        return _clean_split(session, path, found, reader, source)
    try:
        layout: Layout = found.plugin.locate(reader)
    except FormatError as error:
        say(path, f"not readable as {found.name}, stored as opaque chunks: {error}", error.hint)
        return _store(session, path, Recognised(OPAQUE), ChunkFeed(source), ())
    planned_spans, planned = plan(layout)
    feed = LayoutFeed(source, planned_spans, planned)
    return _store(session, path, found, feed, layout.tensors)


def _clean_split(
    session: Session, path: str, found: Recognised, reader: RangeReader, source: Source
) -> bytes:
    """A format that takes its tensors out and joins them again, if that gives the same file."""
    try:
        whole, tensors = split_proven(found.plugin, reader, session.settings.memory)
    except FormatError as error:
        say(path, f"not readable as {found.name}, stored as opaque chunks: {error}", error.hint)
        return _store(session, path, Recognised(OPAQUE), ChunkFeed(source), ())
    drain(source)
    layout = side_by_side(tensors)
    data = BytesSource([tensor.data for tensor in tensors])
    return _store(session, path, found, LayoutFeed(data, *plan(layout)), layout.tensors, whole)


def _clean_file(session: Session, path: str, found: Recognised, content: Incoming) -> bytes:
    """A format that looks ahead: into the work-tree file while that equals the stream."""
    handle = open_regular(session.path(path))
    if handle is None:
        return _clean_spooled(session, path, found, content, None, b"")
    try:
        file = FileReader(handle)
        compared = ComparedStream(content, file)
        try:
            if file.read(0, _HEAD) != content.head(_HEAD):
                return _clean_spooled(session, path, found, content, None, b"")
            return _clean_stream(session, path, found, file, compared)
        except StreamDiffers as differs:
            return _clean_spooled(session, path, found, content, compared, differs.tail)
    finally:
        os.close(handle)


def _clean_spooled(
    session: Session,
    path: str,
    found: Recognised,
    content: Incoming,
    compared: ComparedStream | None,
    tail: bytes,
) -> bytes:
    """The stream is not the work-tree file: write it into a file of our own and read that."""
    handle, name = session.store.temporary()
    try:
        if compared is not None and not copy_proven(compared, compared.file, handle):
            raise RefusedError(
                "the file changed while it was being read", hint="run the command again"
            )
        write_fully(handle, memoryview(tail))
        spool(content, handle)
        os.lseek(handle, 0, os.SEEK_SET)
        return _clean_stream(session, path, found, FileReader(handle), PlainStream(handle))
    finally:
        name.unlink(missing_ok=True)
        os.close(handle)


# --- storing -------------------------------------------------------------------------------------


def _store(
    session: Session,
    path: str,
    found: Recognised,
    feed: Feed,
    views: Sequence[TensorView],
    whole: Whole | None = None,
) -> bytes:
    candidates = Candidates(session.repo)
    reuse = Reuse(candidates, session.store, session.catalog, session.plugins.updates)
    reuse.anywhere = session.settings.reuse == "repository"
    before = _manifests(candidates, reuse, path)
    announce = session.catalog.announce
    with (
        PackWriter(session.store, announce=announce) as data,
        PackWriter(session.store, announce=announce) as summaries,
    ):
        tools: Tools[Spot] = Tools(
            known=reuse.known,
            data=data,
            summaries=summaries,
            update=session.plugins.updates("dense"),
            threads=session.settings.threads,
        )
        cleaner = Cleaner(tools, whole)
        cleaner.read(feed)
        answer = _known_answer(session, cleaner, before, reuse)
        if answer is not None:
            data.abandon()
            summaries.abandon()
            return answer
        session.ensure_hooks(storing=True)
        look_at(session, path, cleaner.size)
        name = found.name
        if feed.truncated:
            say(path, f"cut short for a {name} file, stored as opaque chunks")
            name, views = OPAQUE, ()
        manifest = cleaner.manifest(name, views)
        answer = _same_content(manifest, before)
        if answer is not None:
            return answer
        written = dict(data.finished + summaries.finished)
    return _conclude(session, manifest, reuse, written, lambda: _elsewhere(candidates, path))


def _manifests(candidates: Candidates, reuse: Reuse, path: str) -> list[tuple[bytes, Manifest]]:
    """The manifests that stand for this path now; a damaged one counts for nothing."""
    found = []
    for text in candidates.of_path(path):
        try:
            manifest = parse(text)
        except ThetaError:
            continue
        reuse.add(manifest)
        found.append((text, manifest))
    return found


def _known_answer(
    session: Session,
    cleaner: Cleaner[Spot],
    before: Sequence[tuple[bytes, Manifest]],
    reuse: Reuse,
) -> bytes | None:
    """The manifest that this very content had before, so that a clean tree stays clean."""
    for text, manifest in before:
        if manifest.digest == cleaner.digest and manifest.size == cleaner.size:
            return text
    kept = session.catalog.manifest(cleaner.digest)
    if kept is None:
        return None
    try:
        manifest = parse(kept.manifest)
    except ThetaError:
        return None
    if not reuse.may_name(manifest):
        return None
    for oid in manifest.objects:
        session.store.freshen(oid)
    session.catalog.claim(manifest.objects, blob_id(session.repo, kept.manifest))
    return kept.manifest


def _same_content(manifest: Manifest, before: Sequence[tuple[bytes, Manifest]]) -> bytes | None:
    """A manifest that was merged from parts, and so has no digest of the file, if it is this."""
    for text, known in before:
        if not known.digest and known.size == manifest.size and same_content(known, manifest):
            return text
    return None


def _elsewhere(candidates: Candidates, path: str) -> set[str]:
    """Objects that other staged files name."""
    found: set[str] = set()
    for text in candidates.of_other_paths(path):
        with suppress(ThetaError):
            found.update(parse(text).objects)
    return found


def _conclude(
    session: Session,
    manifest: Manifest,
    reuse: Reuse,
    written: dict[str, int],
    elsewhere: Callable[[], set[str]],
) -> bytes:
    """Fill in bases, plug-ins and objects, rewrite wasteful ones, and remember the result."""
    own = list(manifest.all_chunks())
    here = {chunk.digest for chunk in own}
    bases = {d: c for d, c in reuse.closure(own).items() if d not in here}
    manifest = replace(manifest, bases=bases, plugins=plugins_needed(manifest))
    sizes = {
        place.oid: written[place.oid] if place.oid in written else reuse.size(place.oid)
        for place in places(manifest)
    }
    manifest = with_objects(manifest, sizes)
    chosen = wasteful(manifest) and wasteful(manifest, elsewhere())
    if chosen:
        manifest = _rewritten(session, manifest, chosen, written)
    text = dump(manifest)
    fresh = [chunk for chunk in manifest.all_chunks() if chunk.at.oid in written]
    session.catalog.keep_proven([*reuse.proven, *fresh])
    session.catalog.claim(manifest.objects, blob_id(session.repo, text))
    # Not the one that was known before: had it still been of use, it would have been the answer.
    session.catalog.keep_manifest(manifest.digest, text, replace=True)
    return text


def _rewritten(
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
