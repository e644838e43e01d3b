"""What a format says of a file: which byte ranges hold tensors, and what the tensors are.

A format never loads a model. `locate` names byte ranges of the file (segments); every other byte
belongs to the skeleton and is kept verbatim. Interleaving the two gives the file back, whatever
the format thought of it, so a wrong layout can never lose a byte.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from git_theta.core.dtypes import DTYPES, nbytes
from git_theta.errors import FormatError

EVERYTHING = -1
MAX_DIMENSIONS = 64
MAX_LENGTH = 2**63 - 1


class RangeReader(Protocol):
    """Random access to the bytes of a file.

    `size` is the length of the file in bytes, or None while only its head is known (a stream).
    """

    @property
    def size(self) -> int | None: ...

    def read(self, offset: int, size: int) -> bytes:
        """Return exactly `size` bytes from `offset`, or fewer where the file ends before."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A contiguous byte range of the file: one storage.

    `word` is the width in bytes (1, 2, 4 or 8) of the numbers inside, which the encoder uses to
    lay bytes out in planes; it is a hint for compression and no part of the segment's identity.
    """

    offset: int
    size: int
    word: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorView:
    """A named tensor: a segment seen with a dtype and a shape.

    `segment` is an index into `Layout.segments`. `offset` is in bytes from the segment's start.
    `strides` counts elements, one number per dimension, and is None for a contiguous (C order)
    tensor. `dtype` is a name of `git_theta.core.dtypes`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    segment: int
    offset: int = 0
    strides: tuple[int, ...] | None = None


class View(Protocol):
    """What a tensor says of how it lies in its segment, in a layout or in a manifest."""

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def offset(self) -> int: ...

    @property
    def strides(self) -> tuple[int, ...] | None: ...


def is_whole(view: View, size: int) -> bool:
    """Whether a tensor is its segment of `size` bytes, in C order."""
    return not view.offset and view.strides is None and nbytes(view.dtype, view.shape) == size


def columns_of(shape: tuple[int, ...]) -> int:
    """Elements in a row: the product of all dimensions but the first; 0 with fewer than two."""
    return math.prod(shape[1:]) if len(shape) > 1 else 0


def check_view(tensor: TensorView, size: int) -> None:
    """Refuse a tensor that reads outside its segment of `size` bytes.

    This is the one place that stands between a hostile header and reads out of bounds: whoever
    follows a view's offset and strides may rely on it. A view may still repeat bytes (stride 0),
    so that its elements are more than the segment holds.
    """
    end = tensor.offset + _extent(tensor)
    if tensor.offset < 0 or end > size:
        raise FormatError(
            f"tensor {tensor.name!r} reads bytes {tensor.offset} to {end} of a range of {size}"
        )


def _is_text(name: str) -> bool:
    """Whether a name can be written at all: a string may hold halves of characters."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _extent(tensor: TensorView) -> int:
    """The number of bytes from a view's first element to the end of its last."""
    shape, strides = tensor.shape, tensor.strides
    if len(shape) > MAX_DIMENSIONS or any(not 0 <= length <= MAX_LENGTH for length in shape):
        raise FormatError(f"tensor {tensor.name!r} cannot have the shape {list(shape)[:8]}")
    dtype = DTYPES.get(tensor.dtype)
    if dtype is None:
        # The width is unknown, so nothing but "the whole range, as it lies" can be vouched for.
        if tensor.offset or strides is not None:
            raise FormatError(f"tensor {tensor.name!r} views a range as unknown {tensor.dtype!r}")
        return 0
    if strides is None:
        return (math.prod(shape) * dtype.bits + 7) // 8
    if len(strides) != len(shape) or any(not 0 <= step <= MAX_LENGTH for step in strides):
        raise FormatError(f"tensor {tensor.name!r} cannot have the strides {list(strides)[:8]}")
    if 0 in shape:
        return 0
    last = sum((length - 1) * step for length, step in zip(shape, strides, strict=True))
    return ((last + 1) * dtype.bits + 7) // 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the tensors of a file lie. Segments are sorted by offset and do not overlap."""

    segments: tuple[Segment, ...]
    tensors: tuple[TensorView, ...]

    def __post_init__(self) -> None:
        """Refuse what could not be rebuilt: overlaps, disorder, doubled names."""
        end = 0
        for segment in self.segments:
            if segment.offset < end or segment.size < 0:
                raise FormatError(f"byte ranges overlap at offset {segment.offset}")
            end = segment.offset + segment.size
        names = {tensor.name for tensor in self.tensors}
        if len(names) != len(self.tensors):
            raise FormatError("two tensors have the same name")
        for tensor in self.tensors:
            if not _is_text(tensor.name):
                raise FormatError(f"tensor {tensor.name!r} has half a character in its name")
            if not 0 <= tensor.segment < len(self.segments):
                raise FormatError(f"tensor {tensor.name!r} points at no byte range")
            check_view(tensor, self.segments[tensor.segment].size)

    @property
    def end(self) -> int:
        """The offset at which the last segment ends."""
        return self.segments[-1].offset + self.segments[-1].size if self.segments else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A tensor to be written by `relayout`: name, dtype and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaid:
    """A skeleton for another set of tensors, and where their segments go between its bytes."""

    skeleton: bytes
    layout: Layout


class Format(Protocol):
    """A checkpoint format whose tensors are byte ranges of the file.

    `name` goes into manifests and is a promise. A format is looked for first by `detect` on the
    first bytes of the file, then by the file's name. `sequential` says that `locate` reads only
    from the start of the file up to the last byte before the tensors, so that it works on a
    stream; others need the whole file.
    """

    name: ClassVar[str]
    sequential: ClassVar[bool]
    suffixes: ClassVar[tuple[str, ...]]

    def detect(self, head: bytes) -> bool:
        """Say whether a file that begins with `head` (up to 4096 bytes) looks like this format."""
        ...

    def locate(self, file: RangeReader) -> Layout:
        """Find the tensors.

        Raises:
            FormatError: the file is not of this format, or is damaged or hostile.
        """
        ...

    def refresh(self, file: RangeReader, layout: Layout) -> Mapping[int, bytes]:
        """Recompute what depends on the segments' bytes, such as checksums.

        `file` has new segments between the old skeleton's bytes. Returns patches of the skeleton:
        offset in the file -> bytes, never changing its length.
        """
        ...


class Relayout(Protocol):
    """A format that can also write a skeleton for other shapes or another set of tensors."""

    def relayout(
        self, file: RangeReader, layout: Layout, tensors: Sequence[TensorSpec]
    ) -> Relaid: ...


class Describe(Protocol):
    """A format that can also say what a file holds beside its tensors, for people to read."""

    def describe(self, file: RangeReader) -> Iterable[tuple[str, str]]:
        """Names and texts of what is no tensor; in `file`, all tensors are zeros.

        Raises:
            FormatError: the skeleton is not understood.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """A skeleton made of several: a new one, or that of one model with patches.

    `relaid` is the new one. Without it, the skeleton of the model `frame` holds the same tensors
    in the same order, and `patches` are offsets in that model's file with the bytes to be written
    there, outside of its tensors. `notes` are for the user.
    """

    relaid: Relaid | None = None
    frame: int = 0
    patches: Mapping[int, bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Reconciling(Protocol):
    """A format that can merge what stands around the tensors: metadata, names, scalars."""

    def reconcile(
        self,
        base: RangeReader | None,
        models: Sequence[RangeReader],
        tensors: Sequence[TensorSpec],
    ) -> Reconciled:
        """Write one skeleton from those of an ancestor and several models, for these tensors.

        Raises:
            FormatError: they differ in what cannot be merged.
        """
        ...


class Checking(Protocol):
    """A format that repeats something computed from the segments' bytes, such as checksums."""

    def checks(
        self, file: RangeReader, layout: Layout
    ) -> Mapping[int, tuple[tuple[int, int], ...]]:
        """Where that stands: segment -> (offset, size) of each place, in the same order always.

        A merge copies these bytes with a segment that it takes from another version of the file,
        so that it need not read the segment. Under `EVERYTHING` stands what no reader checks and
        every writer makes anew: a difference there is no change.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitTensor:
    """One tensor taken out of a file by `split`: C order, little-endian bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


class SplitFormat(Protocol):
    """A format whose tensors are not byte ranges of the file, such as numbers written as text.

    The law `b"".join(join(*split(f))) == f` is checked on every add; a file that breaks it is
    stored as opaque chunks.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]

    def detect(self, head: bytes) -> bool: ...

    def split(self, file: RangeReader) -> tuple[bytes, Sequence[SplitTensor]]:
        """Return the skeleton (opaque to git-theta) and the tensors."""
        ...

    def join(self, skeleton: bytes, tensors: Iterable[SplitTensor]) -> Iterator[bytes]:
        """Write the file again from what `split` returned."""
        ...


class SplitDescribe(Protocol):
    """A split format that can also say what a file holds beside its tensors."""

    def describe(self, skeleton: bytes) -> Iterable[tuple[str, str]]: ...


class SplitRelayout(Protocol):
    """A split format that can also write a skeleton for other shapes or another set of tensors."""

    def relayout(self, skeleton: bytes, tensors: Sequence[TensorSpec]) -> bytes:
        """Return the skeleton with which `join` writes these tensors, in this order.

        Raises:
            FormatError: no file like this one holds these tensors.
        """
        ...
