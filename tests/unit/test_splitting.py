"""Formats of other packages that split and join: what they get wrong costs nobody a byte."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from git_theta.core.checkpoint import Plugins, rebuild
from git_theta.core.clean import Cleaner, Tools
from git_theta.core.compact import with_objects
from git_theta.core.feeds import LayoutFeed
from git_theta.core.layout import RangeReader, SplitTensor
from git_theta.core.manifest import CHUNK, Manifest
from git_theta.core.splitting import BytesSource, drain, side_by_side, split_proven
from git_theta.core.units import plan
from git_theta.errors import CorruptError, FormatError, NoPluginError, PluginError
from git_theta.repo.objects import Store
from git_theta.repo.packs import PackWriter, Spot
from git_theta.testing import BytesReader
from git_theta.updates.dense import DenseUpdate

MEMORY = 1 << 30


class Halves:
    """Two tensors, the even and the odd bytes of the file, and its first byte as skeleton."""

    name: ClassVar[str] = "halves"
    suffixes: ClassVar[tuple[str, ...]] = ()

    def detect(self, head: bytes) -> bool:
        return bool(head)

    def split(self, file: RangeReader) -> tuple[bytes, Sequence[SplitTensor]]:
        data = file.read(0, file.size or 0)
        return data[:1], [tensor("even", data[1::2]), tensor("odd", data[2::2])]

    def join(self, skeleton: bytes, tensors: Iterable[SplitTensor]) -> Iterator[bytes]:
        even, odd = tensors
        body = bytearray(len(even.data) + len(odd.data))
        body[::2], body[1::2] = even.data, odd.data
        yield skeleton
        yield b""
        yield bytes(body)


def tensor(name: str, data: bytes) -> SplitTensor:
    return SplitTensor(name=name, dtype="U8", shape=(len(data),), data=data)


Split = tuple[bytes, Sequence[SplitTensor]]


def wrong(change: Callable[[Split], Split]) -> Halves:
    """A format that splits otherwise than it should."""

    class Wrong(Halves):
        def split(self, file: RangeReader) -> Split:
            return change(super().split(file))

    return Wrong()


def failing(method: str, error: BaseException) -> Halves:
    """A format of which one method raises."""

    def fail(*_: object) -> None:
        raise error

    plugin = Halves()
    setattr(plugin, method, fail)
    return plugin


def keep(store: Store, plugin: Halves, data: bytes) -> Manifest:
    whole, tensors = split_proven(plugin, BytesReader(data), MEMORY)
    layout = side_by_side(tensors)
    with PackWriter(store) as packs, PackWriter(store) as summaries:
        tools: Tools[Spot] = Tools(
            known=lambda _: None, data=packs, summaries=summaries, update=DenseUpdate()
        )
        cleaner = Cleaner(tools, whole)
        cleaner.read(LayoutFeed(BytesSource([t.data for t in tensors]), *plan(layout)))
        manifest = cleaner.manifest(plugin.name, layout.tensors)
        sizes = dict(packs.finished + summaries.finished)
    needed = {"git_theta.formats:halves": "theta-halves 1.0"}
    return with_objects(manifest, sizes)._replace(plugins=needed)


def missing(name: str) -> None:
    raise NoPluginError(f"no plug-in is called {name!r}", hint="installed are: none")


def give(store: Store, manifest: Manifest, formats: Callable[[str], object]) -> bytes:
    plugins = Plugins(updates=lambda _: DenseUpdate(), formats=formats)
    return b"".join(map(bytes, rebuild(manifest, store.read, plugins)))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.mark.parametrize("size", [1, 2, 3, 100_000, CHUNK * 2 + 7])
def test_what_was_split_is_joined(store: Store, size: int):
    data = (b"0123456789" * (size // 10 + 1))[:size]
    manifest = keep(store, Halves(), data)
    assert set(manifest.tensors) == {"even", "odd"}
    assert manifest.size == size
    assert give(store, manifest, lambda _: Halves()) == data


@pytest.mark.parametrize(
    ("plugin", "said"),
    [
        (wrong(lambda found: (b"?", found[1])), "would differ at byte 0"),
        (wrong(lambda found: (b"", found[1])), "would differ at byte 0"),
        (wrong(lambda found: (found[0] + b"x", found[1])), "would differ at byte 0"),
        (wrong(lambda found: (found[0], [*found[1][:1], tensor("odd", b"")])), "fails with"),
        (wrong(lambda found: (found[0], [found[1][0]] * 2)), "same name"),
        (
            wrong(lambda found: (found[0], [replace(found[1][0], name="\ud800"), found[1][1]])),
            "half a character",
        ),
        (
            wrong(lambda found: (found[0], [replace(found[1][0], shape=(7,)), found[1][1]])),
            "reads bytes|wrong number of bytes",
        ),
        (
            wrong(lambda found: (found[0], [replace(found[1][0], dtype="NEW"), found[1][1]])),
            "wrong number of bytes",
        ),
        (failing("split", KeyError("x")), "its plug-in fails with KeyError"),
        (failing("split", RecursionError("deep")), "its plug-in fails with RecursionError"),
        (failing("join", ValueError("bad")), "its plug-in fails with ValueError"),
        (failing("split", FormatError("no such file")), "no such file"),
    ],
)
def test_a_faulty_plugin_is_a_format_error(plugin: Halves, said: str):
    with pytest.raises(FormatError, match=said):
        split_proven(plugin, BytesReader(b"0123456789"), MEMORY)


@pytest.mark.parametrize("pieces", [[b"0123456789", b"x"], [b"01"], []])
def test_a_file_that_ends_early_or_late_is_noticed(pieces: list[bytes]):
    plugin = type("Other", (Halves,), {"join": lambda *_: iter(pieces)})()
    with pytest.raises(FormatError, match="written again"):
        split_proven(plugin, BytesReader(b"0123456789"), MEMORY)


def test_a_file_too_large_for_memory_is_not_touched():
    plugin = failing("split", AssertionError("was asked"))
    with pytest.raises(FormatError, match="too large"):
        split_proven(plugin, BytesReader(b"0123456789"), 79)
    with pytest.raises(FormatError, match="was asked"):
        split_proven(plugin, BytesReader(b"0123456789"), 80)
    with pytest.raises(FormatError, match="too large"):
        split_proven(Halves(), BytesReader(b"0123456789", whole=False), MEMORY)


def test_an_interrupt_is_none_of_the_plugins_faults():
    with pytest.raises(KeyboardInterrupt):
        split_proven(failing("split", KeyboardInterrupt()), BytesReader(b"01"), MEMORY)


# --- giving back ---------------------------------------------------------------------------------


def test_a_missing_plugin_is_named_with_its_package(store: Store):
    manifest = keep(store, Halves(), b"0123456789")
    with pytest.raises(PluginError, match=r"missing: theta-halves 1\.0") as caught:
        give(store, manifest, missing)
    assert caught.value.hint == "pip install theta-halves"


@pytest.mark.parametrize("entry", ["", " ", "--index-url=http://x y", "a;b", "-e ."])
def test_a_hostile_package_is_not_recommended(store: Store, entry: str):
    manifest = keep(store, Halves(), b"0123456789")
    with pytest.raises(PluginError) as caught:
        give(store, manifest._replace(plugins={"git_theta.formats:halves": entry}), missing)
    assert "pip" not in caught.value.hint


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("t"), RecursionError("deep")])
def test_a_plugin_that_cannot_join_is_no_bug_of_ours(store: Store, error: Exception):
    manifest = keep(store, Halves(), b"0123456789")
    with pytest.raises(CorruptError, match="the format 'halves' fails with"):
        give(store, manifest, lambda _: failing("join", error))


def test_a_plugin_that_joins_otherwise_is_found_out(store: Store):
    class Other(Halves):
        def join(self, skeleton: bytes, tensors: Iterable[SplitTensor]) -> Iterator[bytes]:
            for piece in super().join(skeleton, tensors):
                yield piece.swapcase()

    manifest = keep(store, Halves(), b"abcdef")
    with pytest.raises(CorruptError):
        give(store, manifest, lambda _: Other())


# --- bytes as a stream ---------------------------------------------------------------------------


def test_bytes_are_read_across_parts():
    source = BytesSource([b"ab", b"", b"cdef", b"g"])
    view = memoryview(bytearray(3))
    found = []
    while got := source.readinto(view):
        found.append(bytes(view[:got]))
    assert found == [b"abc", b"def", b"g"]


def test_draining_reads_to_the_end():
    source = BytesSource([bytes(5 << 20), b"x"])
    drain(source)
    assert source.readinto(memoryview(bytearray(1))) == 0
