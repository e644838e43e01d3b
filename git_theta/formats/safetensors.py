"""safetensors: a length, a JSON header, then the tensors one after another.

The header is kept verbatim, so key order, padding and metadata survive; gaps between tensors and
trailing bytes are no concern of the parser either. What is refused is what would make two readers
disagree about a tensor: doubled keys, ranges that overlap, sizes that do not fit dtype and shape.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NoReturn

from git_theta.core import limits
from git_theta.core.dtypes import nbytes, word
from git_theta.core.layout import (
    MAX_DIMENSIONS,
    MAX_LENGTH,
    Layout,
    RangeReader,
    Reconciled,
    Relaid,
    Segment,
    TensorSpec,
    TensorView,
)
from git_theta.core.threeway import classify
from git_theta.errors import FormatError
from git_theta.formats.collecting import uncollected

HEADER_LIMIT = 100_000_000
METADATA = "__metadata__"
ALIGNMENT = 8

# A header of more than this is worth a look at its brackets before they are turned into objects.
_LARGE = 1 << 20
_BLANK = " \t\r\n\0"
_DTYPE = re.compile(r"[A-Z][A-Z0-9_]{0,31}\Z")
# The order in which the format's own writer lays tensors out: the widest last here, first there.
_WIDTHS = (
    "BOOL",
    "F4",
    "F6_E2M3",
    "F6_E3M2",
    "U8",
    "I8",
    "F8_E5M2",
    "F8_E4M3",
    "F8_E8M0",
    "F8_E4M3FNUZ",
    "F8_E5M2FNUZ",
    "I16",
    "U16",
    "F16",
    "BF16",
    "I32",
    "U32",
    "F32",
    "C64",
    "F64",
    "I64",
    "U64",
)


class SafetensorsFormat:
    """Locates tensors from the header alone, so that it works on a stream."""

    name: ClassVar[str] = "safetensors"
    sequential: ClassVar[bool] = True
    suffixes: ClassVar[tuple[str, ...]] = (".safetensors",)

    def __init__(self, *, header_limit: int | None = None) -> None:
        self._header_limit = header_limit

    def detect(self, head: bytes) -> bool:
        """Say whether a plausible length is followed by the start of a JSON object."""
        size = int.from_bytes(head[:8], "little")
        if not 2 <= size <= max(HEADER_LIMIT, self._limit()):
            return False
        text = head[8 : 8 + size].lstrip()
        return text.startswith(b"{") and text[1:].lstrip()[:1] in (b'"', b"}")

    @uncollected()
    def locate(self, file: RangeReader) -> Layout:
        header, start = self._read_header(file)
        header.pop(METADATA, None)
        if len(header) > limits.current().tensors:
            told = limits.current().told("tensors")
            raise FormatError(f"the header names {len(header):,} tensors; {told}")
        if not _is_text(header):
            raise FormatError("the header holds a tensor name that is not valid Unicode")
        placed = sorted((*_entry(name, entry), name) for name, entry in header.items())
        _check_order(placed, room=None if file.size is None else file.size - start)
        return Layout(
            segments=tuple(
                Segment(offset=start + begin, size=end - begin, word=word(dtype))
                for begin, end, dtype, _, _ in placed
            ),
            tensors=tuple(
                TensorView(name=name, dtype=dtype, shape=shape, segment=index)
                for index, (_, _, dtype, shape, name) in enumerate(placed)
            ),
        )

    def describe(self, file: RangeReader) -> Iterator[tuple[str, str]]:
        """The metadata of the header."""
        header, _ = self._read_header(file)
        metadata = header.get(METADATA, {})
        for key, value in metadata.items() if isinstance(metadata, dict) else ():
            yield f"metadata.{key}", value if isinstance(value, str) else json.dumps(value)

    def refresh(self, file: RangeReader, layout: Layout) -> Mapping[int, bytes]:  # noqa: ARG002
        """Patch nothing: a header says nothing of the tensors' values."""
        return {}

    def relayout(
        self,
        file: RangeReader,
        layout: Layout,  # noqa: ARG002
        tensors: Sequence[TensorSpec],
    ) -> Relaid:
        """Write a header for other tensors, keeping the metadata of the file."""
        header, _ = self._read_header(file)
        kept = {METADATA: header[METADATA]} if METADATA in header else {}
        return _relaid(kept, tensors)

    def reconcile(
        self,
        base: RangeReader | None,
        models: Sequence[RangeReader],
        tensors: Sequence[TensorSpec],
    ) -> Reconciled:
        """Write a header for other tensors, with the metadata of all versions merged by key."""
        before = {} if base is None else self._metadata(base)
        sides = [self._metadata(model) for model in models]
        merged, notes = {}, []
        for key in dict.fromkeys(key for side in (*sides, before) for key in side):
            verdict = classify(before.get(key), [side.get(key) for side in sides])
            if verdict.winner is None:
                notes.append(f"the metadata {key!r} was changed on both sides: ours was kept")
            value = sides[verdict.winner or 0].get(key)
            if value is not None:
                merged[key] = value
        has_any = any(METADATA in self._read_header(model)[0] for model in models)
        kept = {METADATA: merged} if merged or has_any else {}
        return Reconciled(relaid=_relaid(kept, tensors), notes=tuple(notes))

    def _limit(self) -> int:
        return limits.current().header if self._header_limit is None else self._header_limit

    def _told(self) -> str:
        given = self._header_limit
        return limits.current().told("header") if given is None else f"the limit is {given:,}"

    def _metadata(self, file: RangeReader) -> dict[str, str]:
        found: dict[str, str] = self._read_header(file)[0].get(METADATA, {})
        return found

    def _read_header(self, file: RangeReader) -> tuple[dict[str, Any], int]:
        """Return the parsed header and the offset of the first byte after it."""
        prefix = file.read(0, 8)
        if len(prefix) < 8:
            raise FormatError(f"the file has {len(prefix)} bytes, too few for a header length")
        size = int.from_bytes(prefix, "little")
        if size > self._limit():
            raise FormatError(f"the header claims {size:,} bytes; {self._told()}")
        if file.size is not None and size > file.size - 8:
            raise FormatError(f"the header claims {size} bytes in a file of {file.size}")
        text = file.read(8, size)
        if len(text) < size:
            raise FormatError(
                f"the header claims {size} bytes, but the file ends after {len(text)}"
            )
        return _parse(text), 8 + size


def _parse(raw: bytes) -> dict[str, Any]:
    """Parse a header strictly: one object, no doubled keys, no numbers but whole ones."""
    if len(raw) > _LARGE and sum(map(raw.count, (b"{", b"[", b","))) > len(raw) // 4:
        raise FormatError("the header is made of brackets and commas")
    try:
        header = json.loads(
            raw.decode().strip(_BLANK),
            object_pairs_hook=_unique,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except RecursionError:
        raise FormatError("the header is nested too deep") from None
    except ValueError as error:
        # What Python says of a number with thousands of digits is how to allow it.
        why = "a number is too long" if "set_int_max_str_digits" in str(error) else error
        raise FormatError(f"the header is not JSON: {why}") from None
    if not isinstance(header, dict):
        raise FormatError("the header is not a JSON object")
    metadata = header.get(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError(f"{METADATA} must map names to texts")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise FormatError(f"the header names {twice!r} twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise FormatError(f"the header holds {text[:40]}, where only whole numbers may stand")


def _is_text(names: Iterable[str]) -> bool:
    """Say whether names can be written as UTF-8 (JSON escapes can spell half a character)."""
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        return False
    return True


def _entry(name: str, entry: Any) -> tuple[int, int, str, tuple[int, ...]]:
    """Check one tensor's description: begin, end, dtype, shape."""
    if not isinstance(entry, dict):
        raise FormatError(f"tensor {name!r} is not described by an object")
    dtype = entry.get("dtype")
    if not isinstance(dtype, str) or not _DTYPE.match(dtype):
        raise FormatError(f"tensor {name!r} has no usable dtype: {str(dtype)[:40]!r}")
    shape = _naturals(name, "shape", entry.get("shape"))
    offsets = _naturals(name, "data_offsets", entry.get("data_offsets"))
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FormatError(f"tensor {name!r} has the data_offsets {list(offsets)}")
    begin, end = offsets
    _check_size(name, dtype, shape, end - begin)
    return begin, end, dtype, shape


def _naturals(name: str, field: str, value: Any) -> tuple[int, ...]:
    """Check a list of sizes; a bool is a number in Python, but not in this format."""
    if not isinstance(value, list) or len(value) > MAX_DIMENSIONS:
        raise FormatError(f"tensor {name!r}: {field} is no list of at most {MAX_DIMENSIONS} sizes")
    for number in value:
        if type(number) is not int or not 0 <= number <= MAX_LENGTH:
            raise FormatError(f"tensor {name!r}: {field} holds {str(number)[:40]}")
    return tuple(value)


def _check_size(name: str, dtype: str, shape: tuple[int, ...], size: int) -> None:
    if dtype not in _WIDTHS:
        # Newer than this table: the bytes are kept all the same, nothing is known of their width.
        return
    needed = nbytes(dtype, shape)
    if needed != size:
        what = "no whole number of" if needed is None else needed
        raise FormatError(
            f"tensor {name!r} of {dtype} {list(shape)} takes {what} bytes, not {size}"
        )


def _check_order(
    placed: Sequence[tuple[int, int, str, tuple[int, ...], str]], *, room: int | None
) -> None:
    """Refuse tensors that overlap, or that end after the file does."""
    last, owner = 0, ""
    for begin, end, _, _, name in placed:
        if begin < last:
            raise FormatError(
                f"tensors {owner!r} and {name!r} overlap: one ends at {last}, one begins at {begin}"
            )
        if room is not None and end > room:
            raise FormatError(f"tensor {name!r} ends at {end}, but only {room} bytes follow")
        last, owner = end, name


def _width(spec: TensorSpec) -> int:
    if spec.dtype not in _WIDTHS:
        raise FormatError(f"tensor {spec.name!r}: safetensors has no dtype {spec.dtype}")
    return _WIDTHS.index(spec.dtype)


def _size_of(spec: TensorSpec) -> int:
    size = nbytes(spec.dtype, spec.shape)
    if size is None or not _is_text([spec.name]) or spec.name == METADATA:
        raise FormatError(f"safetensors cannot hold {spec.name!r}, {spec.dtype} {spec.shape}")
    return size


def _relaid(kept: dict[str, Any], tensors: Sequence[TensorSpec]) -> Relaid:
    ordered = sorted(tensors, key=lambda spec: (-_width(spec), spec.name))
    skeleton, start = write_header(kept, ordered)
    segments, views = [], []
    for index, spec in enumerate(ordered):
        size = _size_of(spec)
        segments.append(Segment(offset=start, size=size, word=word(spec.dtype)))
        views.append(TensorView(name=spec.name, dtype=spec.dtype, shape=spec.shape, segment=index))
        start += size
    return Relaid(skeleton=skeleton, layout=Layout(segments=tuple(segments), tensors=tuple(views)))


def write_header(kept: dict[str, Any], ordered: Sequence[TensorSpec]) -> tuple[bytes, int]:
    """Return the length, the header padded to 8 bytes, and where the tensors begin."""
    header, offset = dict(kept), 0
    for spec in ordered:
        end = offset + _size_of(spec)
        if spec.name in header:
            raise FormatError(f"two tensors are called {spec.name!r}")
        header[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    try:
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a character, which can be written as an escape alone
        text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, 8 + len(text)
