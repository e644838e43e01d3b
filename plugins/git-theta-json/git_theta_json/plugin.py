"""The format: a JSON text split into its lists of numbers and the text around them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import msgpack
import numpy as np

from git_theta.core.layout import RangeReader, SplitTensor
from git_theta.errors import CorruptError, FormatError
from git_theta_json.numbers import DTYPES, Numbers, Style, read, write
from git_theta_json.scan import number_lists

_VERSION = 1
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
        start = 0
        for found in number_lists(text):
            if found.name in parts.tensors:
                continue  # a key that stands twice
            numbers = read(text[found.start : found.end], found.lists)
            if numbers is not None:
                parts.add(text[start : found.start], found.name, numbers)
                start = found.end
                parts.weigh(start, _MANY)
        if not parts.tensors:
            raise FormatError("it holds no list of numbers that could be written again exactly")
        parts.weigh(start, _FEW)
        return parts.pack(text[start:]), list(parts.tensors.values())

    def join(self, skeleton: bytes, tensors: Iterable[SplitTensor]) -> Iterator[bytes]:
        """Write the file again.

        Raises:
            CorruptError: the skeleton is damaged, or of other tensors.
        """
        texts, styles = _unpack(skeleton)
        count = 0
        for count, tensor in enumerate(tensors, 1):
            if count > len(styles) or tensor.dtype not in DTYPES:
                raise CorruptError(f"the tensor {tensor.name!r} is not one of the JSON file")
            yield texts[count - 1]
            if len(tensor.data) % _NUMBER:
                raise CorruptError(f"the tensor {tensor.name!r} has the wrong number of bytes")
            values = np.frombuffer(tensor.data, DTYPES[tensor.dtype])
            yield from write(styles[count - 1], tensor.shape, values)
        if count != len(styles):
            raise CorruptError("a tensor of the JSON file is missing")
        yield texts[-1]


class _Parts:
    """What a file is made of, as it is found: text, tensor, text, tensor."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.tensors: dict[str, SplitTensor] = {}
        self._styles: dict[Style, int] = {}
        self._used: list[int] = []
        self._kept = 0

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
        styles = [[style.spelling, style.depths] for style in self._styles]
        packed: bytes = msgpack.packb([_VERSION, [*self.texts, rest], styles, self._used])
        return packed


def _unpack(skeleton: bytes) -> tuple[list[bytes], list[Style]]:
    try:
        version, texts, styles, used = msgpack.unpackb(skeleton)
        if version != _VERSION:
            raise CorruptError(
                f"the JSON file was split by version {version!r} of its format",
                hint="pip install --upgrade git-theta-json",
            )
        known = [Style(str(spelling), _depths(depths)) for spelling, depths in styles]
        if len(texts) != len(used) + 1 or not all(isinstance(text, bytes) for text in texts):
            raise ValueError("texts and lists do not alternate")
        return texts, [known[index] for index in used]
    except (ValueError, TypeError, IndexError, msgpack.UnpackException) as error:
        raise CorruptError(f"the skeleton of a JSON file is damaged: {error}") from error


def _depths(raw: Any) -> tuple[tuple[str, str, str], ...]:
    return tuple((str(before), str(between), str(behind)) for before, between, behind in raw)
