"""Tensors by name: of a checkpoint that is a file, and of one that a manifest stands for."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from git_theta import registry
from git_theta.commands.session import Session
from git_theta.core.chain import Bytes
from git_theta.core.checkpoint import read_segment
from git_theta.core.dtypes import DTYPES, nbytes
from git_theta.core.layout import Layout, TensorView
from git_theta.core.manifest import Manifest
from git_theta.core.values import Doubles, Integers, to_float, to_integer
from git_theta.errors import FormatError, NotTrackedError, PluginError
from git_theta.repo.streams import FileReader, open_regular

_HEAD = 4096


class Tensors(Protocol):
    """Named tensors that can be read one at a time."""

    @property
    def views(self) -> Mapping[str, TensorView]: ...

    def read(self, name: str) -> Bytes:
        """The bytes of a tensor, its elements in C order."""
        ...

    def identity(self, name: str) -> object:
        """What is equal only for equal tensors; None where that is not known without reading."""
        ...


@dataclass(frozen=True)
class OpenFile:
    """A checkpoint file, open: what it is, and where its tensors lie."""

    reader: FileReader
    plugin: Any
    layout: Layout

    @cached_property
    def views(self) -> Mapping[str, TensorView]:
        return {tensor.name: tensor for tensor in self.layout.tensors}

    def read(self, name: str) -> Bytes:
        """The bytes of a tensor, its elements in C order."""
        view = self.views[name]
        segment = self.layout.segments[view.segment]
        return gathered(view, self.reader.read(segment.offset, segment.size))

    def identity(self, name: str) -> object:  # noqa: ARG002
        """Nothing is known without reading."""
        return None

    def floats(self, name: str) -> Doubles:
        """A tensor's numbers, in its shape."""
        view = self.views[name]
        return to_float(self.read(name), view.dtype).reshape(view.shape)

    def integers(self, name: str) -> Integers:
        """A tensor's whole numbers, flat."""
        return to_integer(self.read(name), self.views[name].dtype)


def views_of(manifest: Manifest) -> Mapping[str, TensorView]:
    """How each tensor lies in its own segment."""
    return {
        name: TensorView(
            name=name, dtype=t.dtype, shape=t.shape, segment=0, offset=t.offset, strides=t.strides
        )
        for name, t in manifest.tensors.items()
    }


class StoredFile:
    """A checkpoint that a manifest stands for, read tensor by tensor."""

    def __init__(self, session: Session, manifest: Manifest) -> None:
        self._session = session
        self._manifest = manifest
        self.views = views_of(manifest)

    def read(self, name: str) -> Bytes:
        """The bytes of a tensor, its elements in C order."""
        segment = self._manifest.tensors[name].segment
        session = self._session
        data = read_segment(segment, self._manifest, session.store.read, session.plugins.updates)
        return gathered(self.views[name], data)

    def identity(self, name: str) -> object:
        """What the manifest says of a tensor."""
        t = self._manifest.tensors[name]
        return t.segment.digest, t.dtype, t.shape, t.offset, t.strides


def gathered(view: TensorView, segment: bytes | Bytes) -> Bytes:
    """The elements of a view, in C order, out of the bytes of its segment.

    Raises:
        FormatError: the segment ends before the view does.
    """
    bits = DTYPES[view.dtype].bits if view.dtype in DTYPES else 0
    data = np.frombuffer(segment, np.uint8)
    if view.strides is None:
        size = nbytes(view.dtype, view.shape)
        part = data[view.offset :] if size is None else data[view.offset : view.offset + size]
        if size is not None and len(part) != size:
            raise FormatError(f"tensor {view.name!r} is cut short")
        return part
    if bits % 8 or not bits:
        raise FormatError(f"tensor {view.name!r} of {view.dtype} cannot be read out of order")
    width = bits // 8
    if math.prod(view.shape) * width > len(data):
        raise FormatError(f"tensor {view.name!r} repeats its bytes")
    last = sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True))
    if 0 not in view.shape and view.offset + (last + 1) * width > len(data):
        raise FormatError(f"tensor {view.name!r} is cut short")
    strided = np.lib.stride_tricks.as_strided(
        data[view.offset :], (*view.shape, width), (*(s * width for s in view.strides), 1)
    )
    flat: Bytes = np.ascontiguousarray(strided).reshape(-1)
    return flat


@contextmanager
def open_tensors(path: Path) -> Iterator[OpenFile]:
    """Open a file of tensors, whatever installed format it is of.

    Raises:
        NotTrackedError: there is no such file.
        FormatError: no format knows it, or it is damaged.
    """
    handle = open_regular(path)
    if handle is None:
        raise NotTrackedError(f"there is no file {str(path)!r}", hint="check the path")
    try:
        yield _located(path, FileReader(handle))
    finally:
        os.close(handle)


def _located(path: Path, reader: FileReader) -> OpenFile:
    plugin = format_of(path.name, reader.read(0, _HEAD))
    if plugin is None or not hasattr(plugin, "locate"):
        raise FormatError(
            f"{path} is of no format whose tensors can be read here",
            hint="use a .safetensors file",
        )
    try:
        return OpenFile(reader, plugin, plugin.locate(reader))
    except FormatError as error:
        raise FormatError(f"{path}: {error}", hint=error.hint) from error


def format_of(name: str, head: bytes) -> Any | None:
    """The installed format that a file's first bytes show, else the one of its name."""
    plugins = [plugin for name in registry.names("formats") if (plugin := _quiet(name))]
    for plugin in plugins:
        if plugin.detect(head):
            return plugin
    return next((p for p in plugins if name.lower().endswith(p.suffixes)), None)


def _quiet(name: str) -> Any | None:
    try:
        return registry.load("formats", name)
    except PluginError:
        return None
