"""`git add` of one file: which format it has, and how its bytes are read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from git_theta import registry
from git_theta.commands.session import Session, say
from git_theta.commands.storing import Storing, allowed_by
from git_theta.core.choice import Choice
from git_theta.core.clean import OPAQUE
from git_theta.core.feeds import ChunkFeed, LayoutFeed, Source
from git_theta.core.layout import Layout, RangeReader
from git_theta.core.manifest import is_manifest, parse
from git_theta.core.splitting import BytesSource, drain, side_by_side, split_proven
from git_theta.core.units import plan
from git_theta.errors import (
    FormatError,
    NewerManifestError,
    PluginError,
    RefusedError,
)
from git_theta.repo.candidates import MAX_MANIFEST, Before
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
_ATTRIBUTES = ("theta-format", "theta-update")


@dataclass(frozen=True, slots=True)
class Recognised:
    """How a file will be read: by a format, or as opaque chunks."""

    name: str
    plugin: Any = None


def clean(
    session: Session,
    path: str,
    content: Incoming,
    *,
    choice: Choice | None = None,
    force: bool = False,
    before: Before | None = None,
) -> bytes:
    """The manifest for the bytes that Git hands over.

    `choice` says which updates may store what changed; without it attributes and configuration
    do. With it, a manifest that is known for this content is no answer. With `force` no record is
    used again either: everything is encoded anew. `before` are the manifests to share chunks with,
    where those are not what is staged and checked out.

    Raises:
        ManifestError: the bytes claim to be a manifest and are none.
        RefusedError: the file changed while it was read.
        StoreError: the store cannot be written.
    """
    if is_manifest(content.head(64)):
        return _pass_through(content)
    attributes = session.repo.attributes([path], _ATTRIBUTES).get(path, {})
    found = Recognised(OPAQUE)
    if not _is_pointer(path, content):
        found = recognise(session, path, content.head(_HEAD), attributes)
    allowed = allowed_by(session, path, attributes) if choice is None else choice
    storing = Storing(session, path, allowed, asked=choice is not None, force=force, before=before)
    if found.plugin is None:
        return storing.store(OPAQUE, ChunkFeed(content), ())
    if getattr(found.plugin, "sequential", False):
        return _clean_stream(storing, found, HeadReader(content), content)
    if content.file is not None:
        return _clean_stream(storing, found, content.file, content)
    return _clean_file(storing, found, content)


def _pass_through(content: Incoming) -> bytes:
    """A manifest stays what it is; one with conflict markers or damage is refused."""
    text = content.head(MAX_MANIFEST + 1)
    content.drain()
    with suppress(NewerManifestError):  # a checkout left it in the tree: it is as it was
        parse(text)
    return text


def _is_pointer(path: str, content: Incoming) -> bool:
    """Whether this is a pointer of Git LFS, which nobody means to keep in the model's place."""
    if not content.head(64).startswith(b"version http"):
        return False
    from git_theta.repo.pointers import LIMIT, read_pointer

    with suppress(RefusedError):  # one with extensions is one, too
        if read_pointer(content.head(LIMIT)) is None:
            return False
    say(
        path,
        "a pointer of Git LFS, not the file that it stands for; stored as it is",
        "git lfs pull, then git add again; with all history: git theta migrate import -h",
    )
    return True


# --- which format --------------------------------------------------------------------------------


def recognise(
    session: Session, path: str, head: bytes, attributes: Mapping[str, str] | None = None
) -> Recognised:
    """Choose the format: the attribute `theta-format`, else content, else the file's name.

    A name that belongs to content which the format does not know earns the user a word.
    """
    if attributes is None:
        attributes = session.repo.attributes([path], _ATTRIBUTES).get(path, {})
    asked = attributes.get("theta-format")
    if asked == OPAQUE:
        return Recognised(OPAQUE)
    if asked:
        try:
            return Recognised(asked, session.plugins.formats(asked))
        except PluginError as error:
            say(path, f"{error}; stored as opaque chunks", error.hint)
            return Recognised(OPAQUE)
    named: Recognised | None = None
    for name in registry.names("formats"):  # those behind the right one need not be imported
        plugin = _quiet(name)
        if plugin is not None and plugin.detect(head):
            return Recognised(name, plugin)
        if named is None and plugin is not None and path.lower().endswith(plugin.suffixes):
            named = Recognised(name, plugin)
    return named or Recognised(OPAQUE)


def _quiet(name: str) -> Any | None:
    """A format that may be broken: a fault of one package must not stop files of another."""
    try:
        return registry.load("formats", name)
    except PluginError:
        return None


# --- reading -------------------------------------------------------------------------------------


def _clean_stream(
    storing: Storing, found: Recognised, reader: RangeReader, source: Source
) -> bytes:
    """Read along the layout that the format finds, or as opaque chunks where it finds none."""
    if hasattr(found.plugin, "split"):
        return _clean_split(storing, found, reader, source)
    try:
        layout: Layout = found.plugin.locate(reader)
    except FormatError as error:
        say(
            storing.path,
            f"not readable as {found.name}, stored as opaque chunks: {error}",
            error.hint,
        )
        return storing.store(OPAQUE, ChunkFeed(source), ())
    feed = LayoutFeed(source, *plan(layout, storing.cuts))
    return storing.store(found.name, feed, layout.tensors)


def _clean_split(storing: Storing, found: Recognised, reader: RangeReader, source: Source) -> bytes:
    """A format that takes its tensors out and joins them again, if that gives the same file."""
    try:
        whole, tensors = split_proven(found.plugin, reader, storing.session.settings.memory)
    except FormatError as error:
        say(
            storing.path,
            f"not readable as {found.name}, stored as opaque chunks: {error}",
            error.hint,
        )
        return storing.store(OPAQUE, ChunkFeed(source), ())
    drain(source)
    layout = side_by_side(tensors)
    data = BytesSource([tensor.data for tensor in tensors])
    feed = LayoutFeed(data, *plan(layout, storing.cuts))
    return storing.store(found.name, feed, layout.tensors, whole)


def _clean_file(storing: Storing, found: Recognised, content: Incoming) -> bytes:
    """A format that looks ahead: into the work-tree file while that equals the stream."""
    handle = open_regular(storing.session.path(storing.path))
    if handle is None:
        return _clean_spooled(storing, found, content, None, b"")
    try:
        file = FileReader(handle)
        compared = ComparedStream(content, file)
        try:
            if file.read(0, _HEAD) != content.head(_HEAD):
                return _clean_spooled(storing, found, content, None, b"")
            return _clean_stream(storing, found, file, compared)
        except StreamDiffers as differs:
            return _clean_spooled(storing, found, content, compared, differs.tail)
    finally:
        os.close(handle)


def _clean_spooled(
    storing: Storing,
    found: Recognised,
    content: Incoming,
    compared: ComparedStream | None,
    tail: bytes,
) -> bytes:
    """The stream is not the work-tree file: write it into a file of our own and read that."""
    handle, name = storing.session.store.temporary()
    try:
        if compared is not None and not copy_proven(compared, compared.file, handle):
            raise RefusedError(
                "the file changed while it was being read", hint="run the command again"
            )
        write_fully(handle, memoryview(tail))
        spool(content, handle)
        os.lseek(handle, 0, os.SEEK_SET)
        return _clean_stream(storing, found, FileReader(handle), PlainStream(handle))
    finally:
        name.unlink(missing_ok=True)
        os.close(handle)
