"""What is tried: each parser as a function of some bytes, and what its files look like.

A function returns, or fails with the tool's own error; what is left over is a crash.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from git_theta_json.plugin import JsonFormat
from hypothesis import strategies as st

from git_theta import registry
from git_theta.commands.recipes import read_recipe
from git_theta.core import adapters, facts, lines, payload, peft, recipe, sketch
from git_theta.core import skeleton as skeletons
from git_theta.core.chain import decode_chunk, links_of, write_record
from git_theta.core.changes import compare
from git_theta.core.checkpoint import Plugins, by_digest, rebuild
from git_theta.core.layout import TensorSpec, check_view
from git_theta.core.manifest import Chunk, Manifest, Place, dump, parse
from git_theta.core.planes import Grain
from git_theta.core.sidecar import Facts, weights_digest
from git_theta.errors import ThetaError
from git_theta.formats.pickle_merge import Program, merge_values
from git_theta.formats.pickle_reader import read_pickle
from git_theta.formats.safetensors import SafetensorsFormat
from git_theta.formats.scanning import scan
from git_theta.formats.torch_legacy import TorchLegacyFormat
from git_theta.formats.torch_zip import TorchZipFormat
from git_theta.repo import closure, index
from git_theta.repo.attributes import AttributesFile
from git_theta.repo.catalog import Catalog
from git_theta.repo.journal import Journal
from git_theta.repo.objects import Store
from git_theta.repo.pktline import PacketReader
from git_theta.testing import BytesReader
from tests.fuzz import mutations as m

DATA = Path(__file__).parents[1] / "data"
Target = Callable[[bytes], None]


@dataclass(frozen=True)
class Try:
    """A parser, the files to break for it, and ways to break them that keep their frame."""

    run: Target
    samples: Sequence[bytes]
    ways: Sequence[m.Breaker] = field(default_factory=tuple)


@cache
def scratch() -> Path:
    """Where those write that must: the only place where anything may."""
    return Path(tempfile.mkdtemp(prefix="git-theta-fuzz-"))


def corpus(*groups: str) -> list[bytes]:
    """The files of some groups: those made by hand, and small real ones."""
    paths = [path for group in groups for path in sorted((DATA / "corpus" / group).glob("*.z"))]
    return [zlib.decompress(path.read_bytes()) for path in paths]


def real(pattern: str) -> list[bytes]:
    """Golden files."""
    return [path.read_bytes() for path in sorted(DATA.glob(pattern))]


# --- formats -------------------------------------------------------------------------------------


def located(plugin: Any) -> Target:
    """Everything that is asked of a format."""

    def run(data: bytes) -> None:
        plugin.detect(data[:4096])
        file = BytesReader(data)
        if plugin.sequential:
            with suppress(ThetaError):
                plugin.locate(BytesReader(data, whole=False))
        for act in (
            lambda: list(plugin.describe(file)),
            lambda: plugin.reconcile(file, [file] * 2, ()),
        ):
            with suppress(ThetaError):
                act()
        layout = plugin.locate(file)
        if layout.end > len(data):
            raise AssertionError("a segment lies outside its file")
        for tensor in layout.tensors:
            check_view(tensor, layout.segments[tensor.segment].size)
        plugin.refresh(file, layout)
        if hasattr(plugin, "checks"):
            plugin.checks(file, layout)
        specs = [TensorSpec(name=t.name, dtype=t.dtype, shape=t.shape) for t in layout.tensors]
        if hasattr(plugin, "relayout"):
            plugin.relayout(file, layout, specs)

    return run


def split(data: bytes) -> None:
    plugin = JsonFormat()
    plugin.detect(data[:4096])
    skeleton, tensors = plugin.split(BytesReader(data))
    if b"".join(plugin.join(skeleton, tensors)) != data:
        raise ThetaError("stored as chunks")
    list(plugin.describe(skeleton))


def joined(data: bytes) -> None:
    """A JSON skeleton that somebody broke."""
    plugin = JsonFormat()
    with suppress(ThetaError):
        list(plugin.describe(data))
    _, tensors = plugin.split(
        BytesReader(b'{"a": [1, 2, 3, 4.5, 1e9, -0.0], "b": [[1, 2], [3, 4]]}')
    )
    for _ in plugin.join(data, tensors):
        pass


def pickled(data: bytes) -> None:
    with suppress(ThetaError):
        read_pickle(data, persistent=lambda pid: pid, reduce=lambda _what, _args: None)
    program = Program(data, 0, ())
    merge_values(program, [program, program])


def scanned(data: bytes) -> None:
    for found in scan(BytesReader(data)):
        str(found)


# --- what is stored ------------------------------------------------------------------------------


def manifest(data: bytes) -> None:
    for oid in _objects(data):
        _inside(oid)
    with suppress(ThetaError):
        seen = lines.read_lines(data)
        lines.step(None, seen, summaries=True)
        lines.step(seen, seen, summaries=True)
        lines.tensors_of(seen.tensors)
    found = parse(data)
    dump(found)
    compare(found.tensors, found.tensors)
    weights_digest(found)
    known = by_digest(found)
    for chunk in found.all_chunks():
        _inside(chunk.at.oid)
        with suppress(ThetaError):
            links_of(chunk, known)


def _objects(data: bytes) -> Iterable[str]:
    try:
        return closure.objects_of(data)
    except ThetaError:
        return ()


def _inside(oid: str) -> None:
    store = Store(Path("/store"))
    if not os.path.normpath(store.path(oid)).startswith("/store/lfs.git/lfs/objects/"):
        raise AssertionError(f"{oid!r} lies outside the store")


@cache
def _golden() -> Store:
    store = Store(scratch() / "golden")
    for path in (DATA / "v1" / "objects").iterdir():
        place = store.path(path.name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    return store


PLUGINS = Plugins(
    updates=lambda name: registry.load("updates", name),
    formats=lambda name: registry.load("formats", name),
)


def smudged(data: bytes) -> None:
    found: Manifest = parse(data)
    size = 0
    for piece in rebuild(found, _golden().read, PLUGINS, threads=1):
        size += len(piece)
        if size > 1 << 28:
            raise AssertionError("far too much came out")


def record(data: bytes) -> None:
    """A base (its length, its bytes), then a record of something that stands on it."""
    length = min(int.from_bytes(data[:4], "little"), len(data))
    base, raw = data[4 : 4 + length], data[4 + length :]
    with suppress(ThetaError):
        payload.body(memoryview(raw))
        list(payload.records(payload.OBJECT_MAGIC + raw))
    header = payload.header_of(raw)
    place = Place("0" * 64, 0, len(raw))
    chunks: dict[str, Chunk] = {}
    records = {place: raw}
    digest = header.base.hex() if header.base is not None else None
    if digest is not None:
        under = Place("1" * 64, 0, 1)
        chunks[digest] = Chunk(digest, len(base), "dense", under)
        records[under] = _dense(digest, base)
    chunk = Chunk(header.digest.hex(), header.size, header.kind, place, digest)
    decode_chunk(chunk, records.__getitem__, PLUGINS.updates, chunks)


def _dense(digest: str, base: bytes) -> bytes:
    from git_theta.core.chain import Slice

    part = Slice(data=np.frombuffer(base, np.uint8), cut=Grain())
    made = PLUGINS.updates("dense").encode(part, None)
    if made is None:
        raise AssertionError("dense never declines")
    return b"".join(map(bytes, write_record(part, digest, "dense", made)))


def skeleton(data: bytes) -> None:
    found = skeletons.unpack(data)
    reader = skeletons.SkeletonReader(found, [1 << 40] * len(found.order))
    reader.read(0, 1 << 20)
    reader.read(1 << 39, 1 << 20)
    list(skeletons_parts(found))


def skeletons_parts(found: skeletons.Skeleton) -> Iterable[Any]:
    from git_theta.core.checkpoint import file_parts

    return file_parts(found, []) if not found.order else ()


def summary(data: bytes) -> None:
    found = sketch.unpack(data)
    found.distance(found)
    facts.estimate([facts.ChunkPair(found, found, same=False, values=found.count)], {})


# --- what people write ---------------------------------------------------------------------------


def recipes(data: bytes) -> None:
    with suppress(ThetaError):
        recipe.load(data).dump()
    path = scratch() / "recipe"
    path.write_bytes(data)
    read_recipe(path)


LAYOUT = SafetensorsFormat()


@cache
def _adapter() -> dict[str, Any]:
    from git_theta.core.layout import TensorView

    names = {
        "base_model.model.q.lora_A.weight": (4, 8),
        "base_model.model.q.lora_B.weight": (8, 4),
        "base_model.model.k.lora_embedding_A": (4, 8),
        "base_model.model.k.lora_embedding_B": (8, 4),
    }
    return {
        name: TensorView(name=name, dtype="F32", shape=shape, segment=index)
        for index, (name, shape) in enumerate(names.items())
    }


def configured(data: bytes) -> None:
    found = peft.read_config(data)
    adapter = adapters.read_peft(found, _adapter())
    adapters.targets(adapter, ["q.weight", "k.weight"])


def adapted(data: bytes) -> None:
    """A safetensors file taken for an adapter, and for statistics."""
    with suppress(ThetaError):
        Facts.read(data)
    tensors = {tensor.name: tensor for tensor in LAYOUT.locate(BytesReader(data)).tensors}
    for config in ({"r": 2}, {"peft_type": "IA3"}):
        with suppress(ThetaError):
            adapters.targets(adapters.read_peft(config, tensors), ["q.weight", "a", *tensors])
    adapters.targets(adapters.read_bare(tensors, lambda _: 1.0), ["q.weight", "a", *tensors])


# --- what lies in the repository -----------------------------------------------------------------


def journal(data: bytes) -> None:
    place = scratch() / "theta" / "merges"
    place.mkdir(parents=True, exist_ok=True)
    (place / "key.jsonl").write_bytes(data)
    Journal(scratch(), "key").load(_golden())


def attributes(data: bytes) -> None:
    path = scratch() / ".gitattributes"
    path.write_bytes(data)
    file = AttributesFile(path)
    before = [line.pattern for line in file.lines if line.ours]
    file.track("*.pt", {})
    for pattern in before[:3]:
        file.untrack(pattern)
    file.save()


def packets(data: bytes) -> None:
    for way in range(3):
        source, sink = os.pipe()
        try:
            reader = PacketReader(source)
            os.write(sink, data[: 48 << 10])
            os.close(sink)
            with suppress(EOFError):
                if way == 0:
                    reader.lines()
                content = reader.content()
                if way == 1:
                    content.head(1 << 40)
                content.drain()
        finally:
            os.close(source)


def alternates(data: bytes) -> None:
    place = scratch() / "borrower" / "objects" / "info"
    place.mkdir(parents=True, exist_ok=True)
    (place / "alternates").write_bytes(data)
    Store.of(scratch() / "borrower").find("0" * 64)


def staged(data: bytes) -> None:
    place = scratch() / "index"
    place.write_bytes(data)
    (scratch() / "a").touch()
    repo: Any = SimpleNamespace(cwd=scratch(), text=lambda *_: "index", config={})
    index.restat(repo, {"a": "00" * 20})


def catalogued(data: bytes) -> None:
    path = scratch() / "catalog.db"
    path.write_bytes(data)
    for suffix in ("-wal", "-shm", "-journal"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    catalog = Catalog(path)
    catalog.manifest("0" * 64)
    catalog.proven("0" * 64)
    catalog.keep_manifest("0" * 64, b"text")
    list(catalog.manifests())


@cache
def _catalog() -> bytes:
    path = scratch() / "made.db"
    catalog = Catalog(path)
    catalog.keep_manifest("0" * 64, b"text")
    catalog.keep_proven([Chunk("0" * 64, 4, "dense", Place("1" * 64, 16, 20))])
    return path.read_bytes()


@cache
def _json_skeletons() -> list[bytes]:
    text = b'{"a": [1, 2, 3, 4.5, 1e9, -0.0], "b": [[1, 2], [3, 4]]}'
    return [JsonFormat().split(BytesReader(text))[0]]


def targets() -> dict[str, Try]:
    """All parsers by name."""
    tensors = corpus("safetensors") + real("v1/model.safetensors")
    pickles, zips = corpus("pickle"), corpus("zip") + real("torch/*[!y].pt")
    legacy = real("torch/*-legacy.pt")
    manifests = corpus("manifest")
    record_ways = (_records(m.headed(m.as_msgpack, 4)), _records(_frames))
    return {
        "safetensors": Try(
            located(SafetensorsFormat()), tensors, [m.headed(m.as_json, 8), m.headed(m.token, 8)]
        ),
        "torch": Try(located(TorchZipFormat()), zips, [m.zipped(m.as_pickle), m.zipped(m.put)]),
        "torch-legacy": Try(located(TorchLegacyFormat()), legacy + pickles, [m.as_pickle]),
        "json": Try(split, corpus("json"), [m.as_json, m.token]),
        "json-skeleton": Try(joined, _json_skeletons(), [m.as_msgpack]),
        "pickle": Try(pickled, pickles + legacy, [m.as_pickle]),
        "scan": Try(scanned, pickles + zips + legacy, [m.as_pickle, m.zipped(m.as_pickle)]),
        "manifest": Try(manifest, manifests, [m.token, m.line]),
        "smudge": Try(smudged, manifests, [m.token, m.line]),
        "record": Try(record, corpus("record"), record_ways),
        "skeleton": Try(skeleton, corpus("skeleton"), [m.as_msgpack]),
        "summary": Try(summary, corpus("summary"), [m.as_msgpack]),
        "recipe": Try(recipes, corpus("recipe"), [m.as_json, m.token]),
        "adapter-config": Try(configured, corpus("peft"), [m.as_json, m.token]),
        "adapter": Try(adapted, tensors, [m.headed(m.as_json, 8), m.headed(m.token, 8)]),
        "journal": Try(journal, corpus("journal"), [m.as_json, m.token, m.line]),
        "attributes": Try(attributes, corpus("attributes"), [m.line]),
        "pkt-line": Try(packets, corpus("pktline")),
        "alternates": Try(alternates, corpus("alternates"), [m.line]),
        "index": Try(staged, corpus("index")),
        "catalog": Try(catalogued, [_catalog()]),
    }


def _records(inner: m.Breaker) -> m.Breaker:
    """Break the record behind its base."""

    def run(draw: m.Draw, data: bytes) -> Any:
        start = 4 + int.from_bytes(data[:4], "little")
        return data[:start] + inner(draw, data[start:])

    return run


def _frames(draw: m.Draw, data: bytes) -> Any:
    """Change bytes of a record's frames, which its header does not know of."""
    start = 4 + int.from_bytes(data[:4], "little")
    body = bytearray(data[start:])
    for _ in range(3 if body else 0):
        body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
    return data[:start] + bytes(body)
