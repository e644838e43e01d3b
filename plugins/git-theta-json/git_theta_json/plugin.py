"""The format: a JSON text split into its lists of numbers and the text around them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import msgpack
import numpy as np

from git_theta.core.layout import RangeReader, SplitTensor, TensorSpec
from git_theta.errors import CorruptError, FormatError
from git_theta_json.numbers import DTYPES, Numbers, Style, read, write
from git_theta_json.relayout import Relaid, relaid
from git_theta_json.scan import number_lists

_VERSION = 1
# As version 1, and then which of the tensors that `join` gets stands at each place.
_ORDERED = 2
_NUMBER = 8
_MANIFEST = b'{"git-theta":'
_HEAD = re.compile(rb'(?:\xef\xbb\xbf)?[ \t\r\n]*(?:\{[ \t\r\n]*"|\[[ \t\r\n\[]*[-0-9{"])')
_LIST = re.compile(rb"\[[ \t\r\n]*[-0-9]")

# A line of the manifest costs about as much as this many bytes of JSON.
_LINE = 256
_FEW, _MANY = 1000, 20_000


class JsonFormat:
    """JSON whose lists of numbers are tensors, named by the keys that lead to them."""

    name: ClassVar[str] = "json"
    suffixes: ClassVar[tuple[str, ...]] = (".json",)

    def detect(self, head: bytes) -> bool:
        """Say whether a file that begins with `head` may be a JSON text with lists in it."""
        return _HEAD.match(head) is not None and not head.startswith(_MANIFEST)

    def split(self, file: RangeReader) -> tuple[bytes, Sequence[SplitTensor]]:
        """Take the lists of numbers out.

        Raises:
            FormatError: the file is no JSON, or has no lists that are worth it.
        """
        if file.size is None:
            raise FormatError("a JSON file is only read as a whole")
        text = file.read(0, file.size)
        if _LIST.search(text) is None:
            raise FormatError("it holds no list of numbers")
        parts = _Parts()
        start = parts.read(text, _MANY)
        if not parts.tensors:
            raise FormatError("it holds no list of numbers that could be written again exactly")
        parts.weigh(start, _FEW)
        return parts.pack(text[start:]), list(parts.tensors.values())

    def join(self, skeleton: bytes, tensors: Iterable[SplitTensor]) -> Iterator[bytes]:
        """Write the file again.

        Raises:
            CorruptError: the skeleton is damaged, or of other tensors.
        """
        texts, styles, order = _unpack(skeleton)
        waiting: dict[int, SplitTensor] = {}
        done = 0
        for index, tensor in enumerate(tensors):
            if index >= len(styles) or tensor.dtype not in DTYPES:
                raise CorruptError(f"the tensor {tensor.name!r} is not one of the JSON file")
            waiting[index] = tensor
            while done < len(styles) and order[done] in waiting:
                yield texts[done]
                yield from _written(styles[done], waiting.pop(order[done]))
                done += 1
        if done != len(styles):
            raise CorruptError("a tensor of the JSON file is missing")
        yield texts[-1]

    def describe(self, skeleton: bytes) -> Iterator[tuple[str, str]]:
        """Name every plain value that is in no list of numbers.

        Raises:
            CorruptError: the skeleton is damaged.
        """
        texts, _, _ = _unpack(skeleton)
        try:
            root = json.loads(b"[]".join(texts))
        except (ValueError, RecursionError) as error:
            raise CorruptError(f"the text around the tensors is damaged: {error}") from error
        stack: list[tuple[str, Any]] = [("", root)]
        while stack:
            path, value = stack.pop()
            if isinstance(value, dict | list):
                below = value.items() if isinstance(value, dict) else enumerate(value)
                stack += [(f"{path}.{key}" if path else str(key), child) for key, child in below]
            else:
                yield path or "value", value if isinstance(value, str) else json.dumps(value)

    def relayout(self, skeleton: bytes, tensors: Sequence[TensorSpec]) -> bytes:
        """A skeleton for other shapes or another set of tensors.

        Raises:
            FormatError: no JSON file like this one holds these tensors.
            CorruptError: the skeleton is damaged.
        """
        texts, styles, order = _unpack(skeleton)
        new = relaid(texts, styles, tensors)
        if (new.texts, new.styles, new.order) == (texts, styles, order):
            return skeleton
        _prove(new, tensors)
        return _pack(new.texts, new.styles, new.order)


def _written(style: Style, tensor: SplitTensor) -> Iterator[bytes]:
    if len(tensor.data) % _NUMBER:
        raise CorruptError(f"the tensor {tensor.name!r} has the wrong number of bytes")
    values = np.frombuffer(tensor.data, DTYPES[tensor.dtype])
    yield from write(style, tensor.shape, values)


def _prove(new: Relaid, tensors: Sequence[TensorSpec]) -> None:
    """See that a file of these texts, with short lists in it, is split at the same places."""
    pieces = [new.texts[0]]
    for style, index, behind in zip(new.styles, new.order, new.texts[1:], strict=True):
        values = np.ones(1, DTYPES[tensors[index].dtype])
        pieces += [*write(style, (1,) * len(style.depths), values), behind]
    text = b"".join(pieces)
    parts = _Parts()
    start = parts.read(text, len(text))
    placed = [tensors[index].name for index in new.order]
    if list(parts.tensors) != placed or [*parts.texts, text[start:]] != new.texts:
        raise FormatError("its other data cannot be told from these tensors")


class _Parts:
    """What a file is made of, as it is found: text, tensor, text, tensor."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.tensors: dict[str, SplitTensor] = {}
        self._styles: dict[Style, int] = {}
        self._used: list[int] = []
        self._kept = 0

    def read(self, text: bytes, most: int) -> int:
        """Take the lists out of a text, and return where the last one ends."""
        start = 0
        for found in number_lists(text):
            if found.name in self.tensors:
                continue  # a key that stands twice
            numbers = read(text[found.start : found.end], found.lists)
            if numbers is not None:
                self.add(text[start : found.start], found.name, numbers)
                start = found.end
                self.weigh(start, most)
        return start

    def add(self, before: bytes, name: str, numbers: Numbers) -> None:
        self.texts.append(before)
        self._kept += len(before)
        self._used.append(self._styles.setdefault(numbers.style, len(self._styles)))
        data = numbers.values.tobytes()
        self.tensors[name] = SplitTensor(
            name=name, dtype=numbers.dtype, shape=numbers.shape, data=data
        )

    def weigh(self, size: int, free: int) -> None:
        """Refuse more than `free` tensors if they replace less text than the manifest needs."""
        if len(self.tensors) > free and size - self._kept < _LINE * len(self.tensors):
            raise FormatError("its lists of numbers are many and small: data, and no model")

    def pack(self, rest: bytes) -> bytes:
        """The skeleton: version, texts, styles, and which list has which style."""
        known = list(self._styles)
        return _pack([*self.texts, rest], [known[index] for index in self._used])


def _pack(texts: list[bytes], used: Sequence[Style], order: Sequence[int] = ()) -> bytes:
    styles = {style: index for index, style in enumerate(dict.fromkeys(used))}
    written = [[style.spelling, style.depths] for style in styles]
    parts = [_VERSION, texts, written, [styles[style] for style in used]]
    if list(order) != list(range(len(order))):
        parts = [_ORDERED, *parts[1:], list(order)]
    packed: bytes = msgpack.packb(parts)
    return packed


def _unpack(skeleton: bytes) -> tuple[list[bytes], list[Style], list[int]]:
    try:
        version, texts, styles, used, *more = msgpack.unpackb(skeleton)
        if version not in (_VERSION, _ORDERED):
            raise CorruptError(
                f"the JSON file was split by version {version!r} of its format",
                hint="pip install --upgrade git-theta-json",
            )
        known = [Style(str(spelling), _depths(depths)) for spelling, depths in styles]
        if len(texts) != len(used) + 1 or not all(isinstance(text, bytes) for text in texts):
            raise ValueError("texts and lists do not alternate")
        order = list(more[0]) if version == _ORDERED else list(range(len(used)))
        if sorted(order) != list(range(len(used))):
            raise ValueError("its tensors have no order")
        return texts, [known[index] for index in used], order
    except (ValueError, TypeError, IndexError, msgpack.UnpackException) as error:
        raise CorruptError(f"the skeleton of a JSON file is damaged: {error}") from error


def _depths(raw: Any) -> tuple[tuple[str, str, str], ...]:
    return tuple((str(before), str(between), str(behind)) for before, between, behind in raw)
