"""The manifest: the text that Git keeps in place of a checkpoint.

JSON with one tensor per line, sorted, so that Git's own diff, log and delta compression work on
it. `docs/format.md` specifies it. `parse` accepts nothing that would later surprise: what comes
out is valid, and `dump(parse(text))` gives a text that parses to the same records.
"""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from git_theta.core import limits
from git_theta.core.dtypes import nbytes
from git_theta.errors import ManifestError, NewerManifestError

VERSION = 1
MAGIC = b'{"git-theta":'
NOTE = (
    "This text stands for a checkpoint kept by git-theta. To get the file itself: "
    "pip install git-theta, then git theta install, then git theta pull."
)
PREFIX = 16
CHUNK = 32 << 20
MAX_CHUNK = 64 << 20
MAX_TEXT = 256 << 20
# A chunk stored as it is, and its header.
MAX_RECORD = MAX_CHUNK + (16 << 20)
MAX_RECIPE = 16 << 20

_HEX64 = re.compile(r"[0-9a-f]{64}\Z")
_PLACE = re.compile(r"([0-9a-f]{16}):(0|[1-9][0-9]{0,15})\+([1-9][0-9]{0,15})\Z")
_KIND = re.compile(r"[a-z0-9][a-z0-9.-]{0,39}\Z")
_MARKERS = (b"\n<<<<<<< ", b"\n=======\n", b"\n>>>>>>> ")
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_NONE: Mapping[str, Any] = MappingProxyType({})
_TORN = re.compile(rb"<<<<<<< [^\n]*\n" + re.escape(MAGIC))


class Place(NamedTuple):
    """A byte range of a stored object: where one record lies. `oid` is the full sha256."""

    oid: str
    offset: int
    size: int


class Chunk(NamedTuple):
    """At most `CHUNK` bytes of a segment: the unit of storage, of reuse and of updates.

    `digest` is the BLAKE3 of the plain bytes, `size` their number; `base` is the digest of the
    chunk that an update is applied to, or None. `summary` is where the chunk's statistics lie,
    `lossy` says that these bytes are an approximation that somebody asked for; neither is any
    part of equality.
    """

    digest: str
    size: int
    kind: str
    at: Place
    base: str | None = None
    summary: Place | None = None
    lossy: bool = False


class Segment(NamedTuple):
    """A stored byte range of the file; `digest` is the BLAKE3 of all its plain bytes."""

    digest: str
    size: int
    chunks: tuple[Chunk, ...]


class Tensor(NamedTuple):
    """One tensor of the checkpoint: what it is, and the segment that holds its bytes.

    `shared` says that the segment is one of the manifest's shared segments rather than the
    tensor's own. `offset` is in bytes, `strides` in elements (None for contiguous).
    """

    dtype: str
    shape: tuple[int, ...]
    segment: Segment
    shared: bool = False
    offset: int = 0
    strides: tuple[int, ...] | None = None

    def same_as(self, other: Tensor) -> bool:
        """Equality of tensors: dtype, shape, view and bytes; never where they are stored."""
        return self is other or (
            self.segment.digest == other.segment.digest
            and self.dtype == other.dtype
            and self.shape == other.shape
            and self.offset == other.offset
            and self.strides == other.strides
        )


class Manifest(NamedTuple):
    """Everything needed to rebuild one file.

    `size` and `digest` are of the whole file; the digest is empty for a file that was merged from
    parts, of which nobody has read the whole. `plugins` maps entry points that other packages
    provide to "distribution version". `bases` are chunks needed to rebuild that belong to no
    tensor of this version. `objects` maps each needed object's sha256 to its size in bytes.
    """

    format: str
    size: int
    digest: str
    skeleton: Segment
    tensors: Mapping[str, Tensor]
    segments: Mapping[str, Segment] = _NONE
    bases: Mapping[str, Chunk] = _NONE
    objects: Mapping[str, int] = _NONE
    plugins: Mapping[str, str] = _NONE
    recipe: Segment | None = None

    def all_segments(self) -> Iterator[Segment]:
        """Every stored segment: skeleton, recipe, tensors' own and shared ones."""
        yield self.skeleton
        if self.recipe is not None:
            yield self.recipe
        for tensor in self.tensors.values():
            if not tensor.shared:
                yield tensor.segment
        yield from self.segments.values()

    def all_chunks(self) -> Iterator[Chunk]:
        """Every chunk that a rebuild may read, bases included."""
        for segment in self.all_segments():
            yield from segment.chunks
        yield from self.bases.values()


def is_oid(name: str) -> bool:
    """Say whether this can be the name of an object: 64 hexadecimal digits, and so no path."""
    return _HEX64.match(name) is not None


def is_manifest(head: bytes) -> bool:
    """Say whether a file that begins with these bytes claims to be a manifest.

    One whose very first lines are in conflict does: nobody wants its two sides as a checkpoint.
    """
    return head.startswith(MAGIC) or _TORN.match(head) is not None


# --- writing -----------------------------------------------------------------------------------


def dump(manifest: Manifest) -> bytes:
    """Write a manifest as UTF-8 text, one tensor per line, sorted by name."""
    head: list[tuple[str, Any]] = [
        ("git-theta", VERSION),
        ("note", NOTE),
        ("format", manifest.format),
        ("plugins", dict(sorted(manifest.plugins.items()))),
        ("size", manifest.size),
        ("digest", manifest.digest or None),
        ("skeleton", _segment_out(manifest.skeleton, None)),
    ]
    if manifest.recipe is not None:
        head.append(("recipe", _segment_out(manifest.recipe, None)))
    sections: dict[str, dict[str, Any]] = {
        "objects": dict(sorted(manifest.objects.items())),
        "tensors": {name: _tensor_out(t) for name, t in sorted(manifest.tensors.items())},
        "segments": {
            digest: _segment_out(segment, None, named=True)
            for digest, segment in sorted(manifest.segments.items())
        },
        "bases": {d: _chunk_out(chunk) for d, chunk in sorted(manifest.bases.items())},
    }
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    lines = [f'"{key}": {encode(value)},' for key, value in head]
    lines[0] = "{" + lines[0]
    for section, entries in sections.items():
        lines.append(f'"{section}": {{')
        body = [f"{encode(key)}: {encode(value)}" for key, value in entries.items()]
        lines.extend(line + "," for line in body[:-1])
        lines.extend(body[-1:])
        lines.append("}," if section != "bases" else "}}")
    return ("\n".join(lines) + "\n").encode()


def _place_out(place: Place) -> str:
    return f"{place.oid[:PREFIX]}:{place.offset}+{place.size}"


def _chunk_out(chunk: Chunk) -> dict[str, Any]:
    out: dict[str, Any] = {"size": chunk.size, "kind": chunk.kind, "at": _place_out(chunk.at)}
    if chunk.base is not None:
        out["base"] = chunk.base[:PREFIX]
    if chunk.summary is not None:
        out["summary"] = _place_out(chunk.summary)
    if chunk.lossy:
        out["lossy"] = True
    return out


def _segment_out(segment: Segment, expected: int | None, *, named: bool = False) -> dict[str, Any]:
    """Leave out what the reader can derive: the size it expects, the digest that is the key."""
    out: dict[str, Any] = {} if named else {"digest": segment.digest}
    if segment.size != expected:
        out["size"] = segment.size
    if len(segment.chunks) == 1:
        only = _chunk_out(segment.chunks[0])
        del only["size"]
        return out | only
    out["chunks"] = [{"digest": c.digest} | _chunk_out(c) for c in segment.chunks]
    return out


def _tensor_out(tensor: Tensor) -> dict[str, Any]:
    out: dict[str, Any] = {"dtype": tensor.dtype, "shape": list(tensor.shape)}
    if tensor.shared:
        out["segment"] = tensor.segment.digest[:PREFIX]
    else:
        out |= _segment_out(tensor.segment, nbytes(tensor.dtype, tensor.shape))
    if tensor.offset:
        out["offset"] = tensor.offset
    if tensor.strides is not None:
        out["strides"] = list(tensor.strides)
    return out


# --- reading -----------------------------------------------------------------------------------


def parse(text: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        ManifestError: the text is damaged, hostile, of a newer version, or has merge markers.
    """
    if not is_manifest(text):
        raise ManifestError("not a git-theta manifest")
    if _TORN.match(text) or any(marker in text for marker in _MARKERS):
        raise ManifestError(
            "the manifest holds merge conflict markers",
            hint="take one side: git checkout --ours PATH, or git checkout --theirs PATH",
        )
    version = re.match(rb'\{"git-theta": (\d{1,9}),\n', text)
    if version is None:
        raise ManifestError("the first line of the manifest is damaged")
    if int(version[1]) != VERSION:
        raise NewerManifestError(
            f"the manifest has version {int(version[1])}, this git-theta reads {VERSION}",
            hint="pip install --upgrade git-theta",
        )
    collecting = gc.isenabled()
    gc.disable()  # a million short-lived records are no garbage; scanning them doubles the time
    try:
        manifest = _Reader(json.loads(text), text).manifest()
        if _HALF.search(text):
            dump(manifest)  # fails where a name has half a character, which nothing can write
    except RecursionError as error:
        raise ManifestError("the manifest is nested too deeply") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ManifestError(f"the manifest is damaged: {error!r}") from error
    else:
        return manifest
    finally:
        if collecting:
            gc.enable()


class _Reader:
    """Turns parsed JSON into records, checking everything once."""

    def __init__(self, raw: dict[str, Any], text: bytes) -> None:
        self.raw = raw
        self.objects = _objects(raw["objects"])
        self.by_prefix = {oid[:PREFIX]: oid for oid in self.objects}
        if len(self.by_prefix) != len(self.objects):
            raise ManifestError("two objects of the manifest share a prefix")
        entries = sum(len(raw[name]) for name in ("objects", "tensors", "segments", "bases"))
        # One entry a line: a doubled key, which JSON readers drop in silence, shows here.
        if text.count(b"\n") != entries + 15 + ("recipe" in raw):
            raise ManifestError("the manifest's lines do not match its entries")

    def manifest(self) -> Manifest:
        raw = self.raw
        recipe = self.segment(raw["recipe"], None) if "recipe" in raw else None
        skeleton = self.segment(raw["skeleton"], None)
        segments = {
            digest: self.segment(entry, None, digest=digest)
            for digest, entry in raw["segments"].items()
        }
        own = {d[:PREFIX]: segment for d, segment in segments.items()}
        tensors = {name: self.tensor(entry, own) for name, entry in raw["tensors"].items()}
        bases = {digest: self.chunk(entry, digest) for digest, entry in raw["bases"].items()}
        found = Manifest(
            format=_name(raw["format"]),
            size=_natural(raw["size"]),
            digest="" if raw["digest"] is None else _digest(raw["digest"]),
            skeleton=skeleton,
            tensors=tensors,
            segments=segments,
            bases=bases,
            objects=self.objects,
            plugins={str(key): str(value) for key, value in raw["plugins"].items()},
            recipe=recipe,
        )
        check_limits(found)
        return _resolve_bases(found)

    def place(self, text: str) -> Place:
        match = _PLACE.match(text)
        prefix, start, length = match.groups() if match else ("", "0", "0")
        oid = self.by_prefix.get(prefix)
        if oid is None:
            raise ManifestError(f"the manifest names no such object: {text!r}")
        offset, size = int(start), int(length)
        if offset + size > self.objects[oid]:
            raise ManifestError(f"{text!r} lies outside its object")
        if size > MAX_RECORD:
            raise ManifestError(f"{text!r} is too large for a record")
        return Place(oid, offset, size)

    def chunk(self, entry: dict[str, Any], digest: str, size: int | None = None) -> Chunk:
        kind = entry["kind"]
        base = entry.get("base")
        if not _KIND.match(kind):
            raise ManifestError(f"no kind of update: {kind!r}")
        length = _natural(entry["size"]) if size is None else size
        if length > MAX_CHUNK:
            raise ManifestError(f"a chunk of {length} bytes is too large")
        summary = self.place(entry["summary"]) if "summary" in entry else None
        lossy = entry.get("lossy", False)
        if type(lossy) is not bool:
            raise ManifestError(f"lossy is {lossy!r}, not true or false")
        place = self.place(entry["at"])
        return Chunk(_digest(digest), length, kind, place, base, summary, lossy)

    def segment(
        self, entry: dict[str, Any], expected: int | None, *, digest: str | None = None
    ) -> Segment:
        found = _digest(entry["digest"] if digest is None else digest)
        size = _natural(entry["size"]) if "size" in entry or expected is None else expected
        if "chunks" not in entry:
            return Segment(found, size, (self.chunk(entry, found, size),))
        chunks = tuple(self.chunk(part, part["digest"]) for part in entry["chunks"])
        if sum(chunk.size for chunk in chunks) != size:
            raise ManifestError("the chunks of a segment do not add up to its size")
        return Segment(found, size, chunks)

    def tensor(self, entry: dict[str, Any], own: dict[str, Segment]) -> Tensor:
        dtype, shape = _name(entry["dtype"]), tuple(map(_natural, entry["shape"]))
        shared = "segment" in entry
        segment = own[entry["segment"]] if shared else self.segment(entry, nbytes(dtype, shape))
        strides = tuple(map(_natural, entry["strides"])) if "strides" in entry else None
        offset = _natural(entry["offset"]) if "offset" in entry else 0
        return Tensor(dtype, shape, segment, shared, offset, strides)


def check_limits(manifest: Manifest) -> None:
    """Refuse a file that asks for more than a file may.

    Raises:
        ManifestError: it does; the message names the key of the limit.
    """
    most = limits.current()
    recipe = 0 if manifest.recipe is None else manifest.recipe.size
    for what, number, name in (
        ("the file has {:,} bytes", manifest.size, "size"),
        ("the file has {:,} tensors", len(manifest.tensors), "tensors"),
        ("{:,} bytes of the file are in no tensor", manifest.skeleton.size, "skeleton"),
    ):
        if number > getattr(most, name):
            raise ManifestError(
                f"{what.format(number)}; {most.told(name)}",
                hint=f"git config {limits.KEYS[name]} {number}, if you trust who wrote it",
            )
    if recipe > MAX_RECIPE:
        raise ManifestError(f"the recipe has {recipe:,} bytes, more than {MAX_RECIPE:,}")


def _objects(raw: dict[str, Any]) -> dict[str, int]:
    return {_digest(oid): _natural(size) for oid, size in raw.items()}


def _digest(value: object) -> str:
    if not isinstance(value, str) or not _HEX64.match(value):
        raise ManifestError(f"not a digest: {value!r}")
    return value


def _natural(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 60:
        raise ManifestError(f"not a size: {value!r}")
    return value


def _name(value: object) -> str:
    if not isinstance(value, str) or not value or len(value) > 64:
        raise ManifestError(f"not a name: {value!r}")
    return value


def _resolve_bases(manifest: Manifest) -> Manifest:
    """Replace prefixes of base digests by the digests; refuse a chain that bites its tail."""
    if all(chunk.base is None for chunk in manifest.all_chunks()):
        return manifest
    chunks = {chunk.digest: chunk for chunk in manifest.all_chunks()}
    full = {digest[:PREFIX]: digest for digest in chunks}

    def chunk_in(chunk: Chunk) -> Chunk:
        if chunk.base is None:
            return chunk
        if chunk.base not in full:
            raise ManifestError(f"the base {chunk.base!r} of an update is not in the manifest")
        return chunk._replace(base=full[chunk.base])

    def segment_in(segment: Segment) -> Segment:
        return segment._replace(chunks=tuple(map(chunk_in, segment.chunks)))

    resolved = {digest: chunk_in(chunk) for digest, chunk in chunks.items()}
    _refuse_cycles(resolved)
    segments = {digest: segment_in(segment) for digest, segment in manifest.segments.items()}
    tensors = {
        name: t._replace(segment=segments[t.segment.digest] if t.shared else segment_in(t.segment))
        for name, t in manifest.tensors.items()
    }
    return manifest._replace(
        skeleton=segment_in(manifest.skeleton),
        tensors=tensors,
        segments=segments,
        bases={digest: resolved[digest] for digest in manifest.bases},
        recipe=None if manifest.recipe is None else segment_in(manifest.recipe),
    )


def _refuse_cycles(chunks: Mapping[str, Chunk]) -> None:
    ends: set[str] = set()
    for start in chunks:
        path: list[str] = []
        at: str | None = start
        while at is not None and at not in ends:
            if at in path:
                raise ManifestError("an update of the manifest is its own base")
            path.append(at)
            at = chunks[at].base
        ends.update(path)
