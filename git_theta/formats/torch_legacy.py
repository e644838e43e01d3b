"""PyTorch's files from before 1.6: five pickles, then the storages one after another.

The pickles are a magic number, a protocol version, facts of the system that wrote the file, the
objects, and the list of storage keys, in whose order each storage follows as a count of elements
and its bytes. Numbers are little-endian whatever the system says, because the writer turned them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from git_theta.core import limits
from git_theta.core.layout import Layout, RangeReader, Reconciled, Segment, TensorSpec
from git_theta.errors import FormatError
from git_theta.formats.collecting import uncollected
from git_theta.formats.pickle_machine import Node, PickleTruncatedError
from git_theta.formats.pickle_merge import Program, merge_values
from git_theta.formats.torch_objects import (
    Storage,
    name_scalars,
    name_tensors,
    read_objects,
    storage_of,
    words,
)

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
_FIRST_READ = 4 << 20

# The magic number as binary and as text pickles spell it.
_SPELLINGS = (MAGIC.to_bytes(10, "little"), str(MAGIC).encode())


class TorchLegacyFormat:
    """Locates storages by walking over them, each behind its length."""

    name: ClassVar[str] = "torch-legacy"
    sequential: ClassVar[bool] = False
    suffixes: ClassVar[tuple[str, ...]] = (".pt", ".pth", ".bin", ".ckpt")

    def detect(self, head: bytes) -> bool:
        """Say whether the first pickle holds the magic number."""
        return head[:1] in (b"\x80", b"L", b"I") and any(s in head[:32] for s in _SPELLINGS)

    @uncollected()
    def locate(self, file: RangeReader) -> Layout:
        if file.size is None:
            raise FormatError("the storages lie at offsets that are not here yet")
        root, keys, storages, at = _read_pickles(file)
        segments = []
        for key in keys:
            segment, at = _storage(file, key, storages, at)
            segments.append(segment)
        places = {key: index for index, key in enumerate(keys)}
        if len(places) != len(keys) or storages.keys() - places.keys():
            raise FormatError("the list of storages names one twice, or leaves one out")
        tensors = tuple(name_tensors({"": root}, places))
        widths = words(storages, tensors, places)
        return Layout(
            segments=tuple(replace(s, word=widths[i]) for i, s in enumerate(segments)),
            tensors=tensors,
        )

    def describe(self, file: RangeReader) -> Iterator[tuple[str, str]]:
        """The plain values that the file holds beside its tensors, such as an optimizer's."""
        yield from name_scalars(_read_pickles(file)[0])

    def refresh(self, file: RangeReader, layout: Layout) -> Mapping[int, bytes]:  # noqa: ARG002
        """Patch nothing: the format has no checksums."""
        return {}

    def reconcile(
        self,
        base: RangeReader | None,
        models: Sequence[RangeReader],
        tensors: Sequence[TensorSpec],  # noqa: ARG002 - the caller checks that they fit
    ) -> Reconciled:
        """Merge the plain values; storages have new keys in every file, which is no change."""
        before = None if base is None else _program(base)
        frame, patches, notes = merge_values(before, [_program(model) for model in models])
        return Reconciled(frame=frame, patches=patches, notes=notes)


def _program(file: RangeReader) -> Program:
    """The pickle of the objects, the fourth in the file."""
    _, keys, _, end = _read_pickles(file)
    head, at = file.read(0, end), 0
    for _ in range(3):
        _, at = read_objects(head, at, storage=lambda _: Node())
    return Program(head, at, frozenset(keys))


def _read_pickles(file: RangeReader) -> tuple[Any, list[str], dict[str, Storage], int]:
    """Read the pickles, taking more of the file while they go on."""
    size = _FIRST_READ
    while True:
        head = file.read(0, size)
        try:
            return _parse(head)
        except PickleTruncatedError:
            if len(head) < size or size >= limits.current().header:
                raise
            size *= 4


def _parse(head: bytes) -> tuple[Any, list[str], dict[str, Storage], int]:
    storages: dict[str, Storage] = {}

    def find(pid: Any) -> Any:
        storage = storage_of(pid)
        if storage is not None:
            known = storages.setdefault(storage.key, storage)
            if known.width != storage.width:
                raise FormatError(f"storage {storage.key[:40]!r} has elements of two widths")
            return storage
        # ('module', class, file, source): the source of a class, beside the object itself.
        return pid[1] if isinstance(pid, tuple) and len(pid) > 1 else Node(None, pid)

    values, at = [], 0
    for index, expected in enumerate((MAGIC, PROTOCOL, None, None, None)):
        value, at = read_objects(head, at, storage=find)
        if index < 2 and (type(value) is not int or value != expected):
            raise FormatError("the file does not begin with PyTorch's magic number and protocol")
        values.append(value)
    keys = values[4]
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise FormatError("the list of storages is no list of keys")
    most = limits.current()
    if len(keys) > most.tensors:
        raise FormatError(f"the file lists {len(keys):,} storages; {most.told('tensors')}")
    return values[3], keys, storages, at


def _storage(
    file: RangeReader, key: str, storages: Mapping[str, Storage], at: int
) -> tuple[Segment, int]:
    """Return the storage whose length is at `at`, and the offset after it."""
    storage = storages.get(key)
    if storage is None:
        raise FormatError(f"storage {key[:40]!r} has bytes, but no type")
    raw = file.read(at, 8)
    count = int.from_bytes(raw, "little", signed=True)
    size, begin = count * storage.width, at + 8
    if len(raw) < 8 or count < 0 or begin + size > (file.size or 0):
        raise FormatError(
            f"storage {key[:40]!r} at {at} claims {count} elements, more than the file holds"
        )
    return Segment(offset=begin, size=size), begin + size
