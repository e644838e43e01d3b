"""The skeleton of a merged file: its header, its directory, everything that is no tensor.

Skeletons are merged in the format's terms. Where one side alone changed what stands around the
tensors, its skeleton is the frame; where both did, the format is asked to reconcile them. What
repeats a checksum of a tensor is written anew, or copied from the version that the tensor is of.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from git_theta.core import skeleton as skeletons
from git_theta.core import threeway
from git_theta.core.layout import Layout, Reconciled, Relaid, TensorSpec
from git_theta.core.layout import Segment as Range
from git_theta.core.manifest import Manifest, Segment, Tensor
from git_theta.core.skeleton import Skeleton
from git_theta.errors import FormatError, MergeError

ReadRange = Callable[[Segment, int, int], bytes]
Key = str | tuple[str, ...] | int


class ManifestFile:
    """The file of a manifest, read by ranges; only what is asked for is decoded."""

    def __init__(
        self, skeleton: Skeleton, segments: Sequence[Segment], read_range: ReadRange
    ) -> None:
        self._data = skeleton.data
        self._segments = segments
        self._read_range = read_range
        self._starts: list[int] = []
        self._parts: list[tuple[int | None, int, int]] = []
        at = before = 0
        for index, run in enumerate(skeleton.runs or ()):
            self._add(at, None, before, run)
            at, before = at + run, before + run
            if index < len(segments):
                self._add(at, index, 0, segments[index].size)
                at += segments[index].size
        self.size = at
        self.before: dict[int, int] = {
            part: start
            for start, (part, _, _) in zip(self._starts, self._parts, strict=True)
            if part is not None
        }

    def _add(self, at: int, segment: int | None, start: int, size: int) -> None:
        self._starts.append(at)
        self._parts.append((segment, start, size))

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset`, or fewer where the file ends."""
        end = min(offset + size, self.size)
        found = []
        index = bisect_right(self._starts, offset) - 1
        while offset < end:
            segment, start, length = self._parts[index]
            inside = offset - self._starts[index]
            take = min(length - inside, end - offset)
            if take > 0:
                found.append(self._take(segment, start + inside, take))
                offset += take
            index += 1
        return b"".join(found)

    def _take(self, segment: int | None, start: int, size: int) -> bytes:
        if segment is None:
            return self._data[start : start + size]
        return self._read_range(self._segments[segment], start, start + size)

    def at(self, offset: int) -> int:
        """Where a byte of the file that is in no segment lies in the skeleton's data."""
        index = bisect_right(self._starts, offset) - 1
        segment, start, _ = self._parts[index]
        if segment is not None:
            raise FormatError(f"byte {offset} of the file belongs to a tensor")
        return start + offset - self._starts[index]

    def offset(self, segment: int) -> int:
        """Where a segment begins in the file."""
        return self.before[segment]


@dataclass(frozen=True, kw_only=True)
class Version:
    """One version of the file, with its skeleton taken apart."""

    manifest: Manifest
    skeleton: Skeleton
    segments: tuple[Segment, ...]
    keys: tuple[Key, ...]
    file: ManifestFile
    checks: Mapping[int, tuple[tuple[int, int], ...]]

    @classmethod
    def of(cls, manifest: Manifest, plain: bytes, read_range: ReadRange, plugin: Any) -> Version:
        """Take a version apart; `plain` is its packed skeleton."""
        skeleton = skeletons.unpack(plain)
        segments = tuple(skeletons.ordered_segments(manifest, skeleton.order))
        file = ManifestFile(skeleton, segments, read_range)
        checks: Mapping[int, tuple[tuple[int, int], ...]] = {}
        if hasattr(plugin, "checks"):
            checks = plugin.checks(file, _ranges(file, segments, range(len(segments))))
        return cls(
            manifest=manifest,
            skeleton=skeleton,
            segments=segments,
            keys=tuple(_keys(manifest, skeleton)),
            file=file,
            checks=checks,
        )

    def masked(self) -> tuple[Any, ...]:
        """What can be compared: the skeleton without checksums, and the order of its parts."""
        data = bytearray(self.skeleton.data)
        for ranges in self.checks.values():
            for offset, size in ranges:
                at = self.file.at(offset)
                data[at : at + size] = bytes(size)
        return (self.skeleton.runs, self.keys, bytes(data))


def _keys(manifest: Manifest, skeleton: Skeleton) -> Iterator[Key]:
    """What each segment is, across versions: a tensor's, tied tensors', or the n-th of nobody."""
    views: dict[str, list[str]] = {}
    for name, tensor in manifest.tensors.items():
        if tensor.shared:
            views.setdefault(tensor.segment.digest, []).append(name)
    nobody = 0
    for entry in skeleton.order:
        if isinstance(entry, str):
            yield entry
        elif entry.hex() in views:
            yield tuple(sorted(views[entry.hex()]))
        else:
            yield nobody
            nobody += 1


def _ranges(file: ManifestFile, segments: Sequence[Segment], which: Sequence[int]) -> Layout:
    parts = tuple(Range(offset=file.offset(i), size=segments[i].size) for i in which)
    return Layout(segments=parts, tensors=())


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """The merged file without its tensors' bytes."""

    skeleton: Skeleton
    size: int
    shared: tuple[Segment, ...] = ()
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def assemble(
    plugin: Any,
    base: Version | None,
    models: Sequence[Version],
    merged: Mapping[str, Tensor],
    read_range: ReadRange,
) -> Assembled:
    """The skeleton around the merged tensors.

    Raises:
        MergeError: both sides changed the structure of the file, and the format cannot reconcile.
    """
    before = None if base is None else base.masked()
    verdict = threeway.classify(before, [model.masked() for model in models])
    if verdict.winner is not None and _fits(models[verdict.winner], merged):
        frame = models[verdict.winner]
        return _filled(plugin, frame, base, models, merged, read_range)
    return _reconciled(plugin, base, models, merged, read_range)


def _fits(frame: Version, merged: Mapping[str, Tensor]) -> bool:
    """Whether the frame names just these tensors, of these dtypes and shapes."""
    own = frame.manifest.tensors
    return own.keys() == merged.keys() and all(
        _seen(tensor) == _seen(own[name]) and tensor.segment.size == own[name].segment.size
        for name, tensor in merged.items()
    )


def _seen(tensor: Tensor) -> tuple[Any, ...]:
    return (tensor.dtype, tensor.shape, tensor.offset, tensor.strides, tensor.shared)


def _filled(
    plugin: Any,
    frame: Version,
    base: Version | None,
    models: Sequence[Version],
    merged: Mapping[str, Tensor],
    read_range: ReadRange,
) -> Assembled:
    segments = [
        _segment_for(key, index, frame, base, models, merged)
        for index, key in enumerate(frame.keys)
    ]
    data = _patched(plugin, frame, models, segments, read_range)
    order = tuple(
        entry if isinstance(entry, str) else bytes.fromhex(segments[index].digest)
        for index, entry in enumerate(frame.skeleton.order)
    )
    shared = tuple(segments[index] for index, entry in enumerate(order) if isinstance(entry, bytes))
    size = len(data) + sum(segment.size for segment in segments)
    skeleton = Skeleton(frame.skeleton.runs, order, data)
    return Assembled(skeleton=skeleton, size=size, shared=shared, tensors=merged)


def _segment_for(
    key: Key,
    index: int,
    frame: Version,
    base: Version | None,
    models: Sequence[Version],
    merged: Mapping[str, Tensor],
) -> Segment:
    if isinstance(key, str):
        return merged[key].segment
    if isinstance(key, tuple):
        return merged[key[0]].segment
    of_nobody = [_nobody(model, key) for model in models]
    before = None if base is None else _nobody(base, key)
    verdict = threeway.classify(
        before and before.digest, [segment and segment.digest for segment in of_nobody]
    )
    found = frame.segments[index] if verdict.winner is None else of_nobody[verdict.winner]
    if found is None or found.size != frame.segments[index].size:
        return frame.segments[index]
    return found


def _nobody(version: Version, key: int) -> Segment | None:
    for segment, other in zip(version.segments, version.keys, strict=True):
        if other == key and isinstance(other, int):
            return segment
    return None


def _patched(
    plugin: Any,
    frame: Version,
    models: Sequence[Version],
    segments: Sequence[Segment],
    read_range: ReadRange,
) -> bytes:
    """The frame's bytes with the checksums of what is not the frame's own."""
    if frame.skeleton.runs is None:
        return frame.skeleton.data
    data = bytearray(frame.skeleton.data)
    left = []
    for index, segment in enumerate(segments):
        if segment.digest != frame.segments[index].digest:
            copied = _copied(frame, models, index, segment)
            if copied is None:
                left.append(index)
            else:
                for offset, raw in copied:
                    at = frame.file.at(offset)
                    data[at : at + len(raw)] = raw
    if left and hasattr(plugin, "refresh"):
        file = ManifestFile(frame.skeleton, segments, read_range)
        patches: Mapping[int, bytes] = plugin.refresh(file, _ranges(file, segments, left))
        for offset, raw in patches.items():
            at = frame.file.at(offset)
            data[at : at + len(raw)] = raw
    return bytes(data)


def _copied(
    frame: Version, models: Sequence[Version], index: int, segment: Segment
) -> list[tuple[int, bytes]] | None:
    """The checksums of a segment from the version that has the same bytes, or None."""
    if not frame.checks:
        return None
    places = frame.checks.get(index, ())
    for model in models:
        for other, theirs in enumerate(model.segments):
            if theirs.digest != segment.digest:
                continue
            found = model.checks.get(other, ())
            if [size for _, size in found] == [size for _, size in places]:
                return [
                    (offset, model.file.read(there, size))
                    for (offset, size), (there, _) in zip(places, found, strict=True)
                ]
    return None


def _reconciled(
    plugin: Any,
    base: Version | None,
    models: Sequence[Version],
    merged: Mapping[str, Tensor],
    read_range: ReadRange,
) -> Assembled:
    if not hasattr(plugin, "reconcile"):
        raise MergeError(
            "both sides changed the file's structure or what it holds besides tensors",
            hint="this format cannot reconcile them: take a side",
        )
    specs = [TensorSpec(name=n, dtype=t.dtype, shape=t.shape) for n, t in sorted(merged.items())]
    try:
        found: Reconciled = plugin.reconcile(
            None if base is None else base.file, [model.file for model in models], specs
        )
    except FormatError as error:
        raise MergeError(f"the files cannot be reconciled: {error}", hint=error.hint) from error
    if found.relaid is not None:
        return replace(_relaid(found.relaid, merged), notes=found.notes)
    frame = models[found.frame]
    if not _fits(frame, merged):
        raise MergeError(
            "both sides changed which tensors there are, and this format cannot be written for "
            "others",
            hint="take a side, or add the tensors of one side with PyTorch",
        )
    filled = _filled(plugin, frame, base, models, merged, read_range)
    data = bytearray(filled.skeleton.data)
    for offset, raw in found.patches.items():
        at = frame.file.at(offset)
        data[at : at + len(raw)] = raw
    return replace(filled, skeleton=replace(filled.skeleton, data=bytes(data)), notes=found.notes)


def _relaid(relaid: Relaid, merged: Mapping[str, Tensor]) -> Assembled:
    layout = relaid.layout
    names = {view.segment: view.name for view in layout.tensors}
    runs, at = [], 0
    for segment in layout.segments:
        runs.append(segment.offset - at)
        at = segment.offset + segment.size
    runs.append(len(relaid.skeleton) - sum(runs))
    order = tuple(names[index] for index in range(len(layout.segments)))
    tensors = {
        name: Tensor(tensor.dtype, tensor.shape, tensor.segment) for name, tensor in merged.items()
    }
    skeleton = Skeleton(tuple(runs), order, relaid.skeleton)
    return Assembled(skeleton=skeleton, size=at + runs[-1], tensors=tensors)
