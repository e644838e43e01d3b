"""PyTorch's zip files, from 1.6 on: `.pt`, `.pth`, `.bin`, `.ckpt`, and TorchScript's `.jit`.

The archive keeps one storage per stored member `ROOT/data/N`, aligned, so each is a segment; the
pickle `ROOT/data.pkl` says which tensors view them. Everything else (code, deflated members, the
zip's own records) is skeleton. TorchScript has a second pickle with storages of its own.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from git_theta.core.layout import (
    EVERYTHING,
    Layout,
    RangeReader,
    Reconciled,
    Segment,
    TensorSpec,
    TensorView,
)
from git_theta.errors import FormatError
from git_theta.formats.collecting import uncollected
from git_theta.formats.pickle_machine import Node
from git_theta.formats.pickle_merge import Program, merge_values
from git_theta.formats.torch_objects import (
    Storage,
    name_scalars,
    name_tensors,
    read_objects,
    storage_of,
    words,
)
from git_theta.formats.zip_directory import STORED, Member, read_members, unpack

_BLOCK = 1 << 20

_NUMBER = "/.data/serialization_id"
_STORAGE = re.compile(r"(?:data|constants)/[^/]+\Z")
_FIRST = re.compile(
    rb"[^/]+/(?:data\.pkl|constants\.pkl|bytecode\.pkl|version|byteorder|\.format_version"
    rb"|\.storage_alignment|\.data/.+|(?:data|constants)/[0-9]+|code/__torch__.*)\Z",
    re.DOTALL,
)
# Each pickle with the folder of its storages, and what its tensors' names begin with.
_PICKLES = (("data.pkl", "data/", ""), ("constants.pkl", "constants/", "constants"))


class TorchZipFormat:
    """Locates storages by the zip directory, which lies at the end of the file."""

    name: ClassVar[str] = "torch"
    sequential: ClassVar[bool] = False
    suffixes: ClassVar[tuple[str, ...]] = (".pt", ".pth", ".bin", ".ckpt", ".jit")

    def detect(self, head: bytes) -> bool:
        """Say whether the first member of the zip is one that PyTorch writes."""
        if not head.startswith(b"PK\3\4") or len(head) < 30:
            return False
        size = int.from_bytes(head[26:28], "little")
        return _FIRST.match(head[30 : 30 + size]) is not None

    @uncollected()
    def locate(self, file: RangeReader) -> Layout:
        members = _torch_members(file)
        kept = [(name, m) for name, m in members.items() if _is_storage(name, m)]
        places = {name: index for index, (name, _) in enumerate(kept)}
        widths, tensors = _describe(file, members, places)
        return Layout(
            segments=tuple(
                Segment(offset=m.data, size=m.size, word=widths.get(index, 1))
                for index, (_, m) in enumerate(kept)
            ),
            tensors=tensors,
        )

    def describe(self, file: RangeReader) -> Iterator[tuple[str, str]]:
        """The plain values that the file holds beside its tensors, such as an optimizer's."""
        members = _torch_members(file)
        for name, folder, _ in _PICKLES[:1]:
            if name in members:
                data = unpack(file, members[name])
                root, _ = read_objects(data, storage=_Storages(folder, members).find)
                yield from name_scalars(root)

    def refresh(self, file: RangeReader, layout: Layout) -> Mapping[int, bytes]:
        """Write the CRC-32 of each storage into every place that repeats it."""
        members = {member.data: member for member in read_members(file) if member.size}
        patches: dict[int, bytes] = {}
        for segment in layout.segments:
            if not segment.size:
                continue
            member = members.get(segment.offset)
            if member is None or member.size != segment.size:
                raise FormatError(f"no member of the zip lies at {segment.offset}")
            crc = _crc(file, segment)
            if crc != member.crc:
                raw = crc.to_bytes(4, "little")
                patches.update((place, raw) for place in member.crc_at)
        return patches

    def checks(
        self, file: RangeReader, layout: Layout
    ) -> Mapping[int, tuple[tuple[int, int], ...]]:
        """Where the CRC-32 of each storage stands, and the number that every writing changes."""
        members = read_members(file)
        placed = {member.data: member for member in members if member.size}
        found = {
            index: tuple((place, 4) for place in placed[segment.offset].crc_at)
            for index, segment in enumerate(layout.segments)
            if segment.size and segment.offset in placed
        }
        number = [m for m in members if m.name.endswith(_NUMBER) and m.method == STORED]
        if number:
            places = ((number[0].data, number[0].size), *((at, 4) for at in number[0].crc_at))
            found[EVERYTHING] = places
        return found

    def reconcile(
        self,
        base: RangeReader | None,
        models: Sequence[RangeReader],
        tensors: Sequence[TensorSpec],  # noqa: ARG002 - the caller checks that they fit
    ) -> Reconciled:
        """Merge the plain values in the pickle; all else beside the tensors must be alike."""
        files = [*models] if base is None else [base, *models]
        programs = [_program(file) for file in files]
        if any(other != programs[0][2] for _, _, other in programs):
            raise FormatError("the archives hold different files beside the tensors")
        merging = [program for program, _, _ in programs]
        before = None if base is None else merging[0]
        frame, patches, notes = merge_values(before, merging[-len(models) :])
        member = programs[frame - len(models)][1]
        data = bytearray(merging[frame - len(models)].data)
        for at, raw in patches.items():
            data[at : at + len(raw)] = raw
        crc = zlib.crc32(data).to_bytes(4, "little")
        moved = {member.data + at: raw for at, raw in patches.items()}
        moved |= dict.fromkeys(member.crc_at, crc)
        return Reconciled(frame=frame, patches=moved, notes=notes)


def _program(file: RangeReader) -> tuple[Program, Member, dict[str, int]]:
    """The pickle of an archive, its member, and the CRC-32 of all other files in it."""
    members = _torch_members(file)
    pickled = members.get("data.pkl")
    if pickled is None or pickled.method != STORED:
        raise FormatError("the archive has no pickle that can be rewritten")
    others = {
        name: member.crc
        for name, member in members.items()
        if name not in ("data.pkl", _NUMBER[1:]) and not _is_storage(name, member)
    }
    data = unpack(file, pickled)
    return Program(data, 0, ()), pickled, others


def _torch_members(file: RangeReader) -> dict[str, Member]:
    """The members of the archive by name, without the folder that all of them are in."""
    members = read_members(file)
    root = members[0].name.split("/")[0] + "/" if members else ""
    inside = [m for m in members if m.name.startswith(root)]
    named = {m.name[len(root) :]: m for m in inside}
    torch = "data.pkl" in named or {"version", ".data/extern_modules"} <= named.keys()
    if not torch or len(named) != len(inside):
        raise FormatError("a zip archive, but none of PyTorch's")
    return named


def _is_storage(name: str, member: Member) -> bool:
    packaged = name.startswith(".data/") and name.endswith(".storage")
    return member.method == STORED and (packaged or _STORAGE.match(name) is not None)


def _crc(file: RangeReader, segment: Segment) -> int:
    crc = 0
    for at in range(segment.offset, segment.offset + segment.size, _BLOCK):
        crc = zlib.crc32(file.read(at, min(_BLOCK, segment.offset + segment.size - at)), crc)
    return crc


def _describe(
    file: RangeReader, members: Mapping[str, Member], places: Mapping[str, int]
) -> tuple[dict[int, int], tuple[TensorView, ...]]:
    """The word width of each segment by its number, and the tensors.

    A pickle that is not understood costs the names, not the storages: they are still told apart.
    """
    programs = [
        (unpack(file, members[name]), folder, prefix)
        for name, folder, prefix in _PICKLES
        if name in members
    ]
    big = "byteorder" in members and unpack(file, members["byteorder"], limit=64) == b"big"
    try:
        widths, tensors = _read_programs(programs, members, places)
    except FormatError:
        return {}, ()
    # Big-endian words are words all the same, but no value of them may be read as if they were not.
    return widths, () if big else tensors


def _read_programs(
    programs: list[tuple[bytes, str, str]],
    members: Mapping[str, Member],
    places: Mapping[str, int],
) -> tuple[dict[int, int], tuple[TensorView, ...]]:
    roots: dict[str, Any] = {}
    found: dict[str, Storage] = {}
    for data, folder, prefix in programs:
        storages = _Storages(folder, members)
        roots[prefix], _ = read_objects(data, storage=storages.find)
        found |= storages.found
    tensors = tuple(name_tensors(roots, places))
    return words(found, tensors, places), tensors


class _Storages:
    """Answers persistent ids of one pickle with storages named by their member."""

    def __init__(self, folder: str, members: Mapping[str, Member]) -> None:
        self.folder, self.members = folder, members
        self.found: dict[str, Storage] = {}

    def find(self, pid: Any) -> Any:
        storage = storage_of(pid)
        if storage is None:
            return Node(None, pid)
        name = self.folder + storage.key
        if name not in self.members:
            raise FormatError(f"the archive has no storage {name[:80]!r}")
        named = replace(storage, key=name)
        self.found.setdefault(name, named)
        return named
