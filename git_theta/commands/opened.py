"""`git_theta.open`: a version of a checkpoint, read tensor by tensor.

It has the methods of safetensors' `safe_open`. Only the objects that a tensor, or the rows of one,
are made of are fetched and read; nothing else of the file needs to be on this machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from git_theta.commands.model_versions import Stored
from git_theta.commands.plain_data import texts
from git_theta.commands.reading import Source
from git_theta.commands.session import Session
from git_theta.commands.tensors import gathered, views_of
from git_theta.core.layout import TensorView
from git_theta.core.manifest import Manifest, Segment
from git_theta.core.values import array_dtype
from git_theta.errors import FormatError, NotTrackedError, UsageError

_METADATA = "metadata."

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Lazy:
    """A tensor that is read when it is needed."""

    source: Source
    segment: Segment
    view: TensorView

    @property
    def dtype(self) -> np.dtype[Any]:
        """What numpy calls its dtype.

        Raises:
            FormatError: there is none.
        """
        found = array_dtype(self.view.dtype)
        if found is None:
            raise FormatError(
                f"tensor {self.view.name!r} is of {self.view.dtype}, which no array can be"
            )
        return found

    def whole(self) -> Array:
        dtype = self.dtype
        self.source.fetch([self.segment])
        data = gathered(self.view, self.source.whole(self.segment).copy())
        return data.view(dtype).reshape(self.view.shape)

    def rows(self, start: int, stop: int) -> Array:
        """Rows of a contiguous tensor; no chunk is fetched that holds none of them."""
        shape = self.view.shape
        row = math.prod(shape[1:]) * self.dtype.itemsize
        low, high = self.view.offset + start * row, self.view.offset + stop * row
        self.source.fetch([_covering(self.segment, low, high)])
        data = self.source.range(self.segment, low, high).copy()  # what is kept is not given away
        found: Array = data.view(self.dtype).reshape(stop - start, *shape[1:])
        return found


def _covering(segment: Segment, low: int, high: int) -> Segment:
    """A segment with only those of its chunks that hold some of the bytes `low` to `high`."""
    chunks, at = [], 0
    for chunk in segment.chunks:
        if at < high and at + chunk.size > low:
            chunks.append(chunk)
        at += chunk.size
    return segment._replace(chunks=tuple(chunks))


class OpenModel:
    """A version of a checkpoint, open for reading. Close it, or use it in a `with` statement."""

    def __init__(self, session: Session, manifest: Manifest, framework: str) -> None:
        """Open a manifest; tensors come as torch tensors ("pt") or numpy arrays ("np").

        Raises:
            UsageError: the framework is another one, or is not installed.
        """
        self._made = _maker(framework)
        self._session, self._manifest = session, manifest
        source = Source(session, [manifest])
        self._source = source
        self._tensors = {
            name: _Lazy(source, manifest.tensors[name].segment, view)
            for name, view in views_of(manifest).items()
        }

    def __enter__(self) -> OpenModel:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End helper processes and close files."""
        self._session.close()

    def keys(self) -> list[str]:
        """The names of the tensors."""
        return list(self._tensors)

    def metadata(self) -> dict[str, str] | None:
        """What a safetensors file says of itself (`__metadata__`); None where that is nothing.

        Raises:
            MissingError: the object that holds it is nowhere.
        """
        self._source.fetch([self._manifest.skeleton])
        said = texts(Stored(self._session, self._manifest)) or {}
        return {k[len(_METADATA) :]: v for k, v in said.items() if k.startswith(_METADATA)} or None

    def get_tensor(self, name: str) -> Any:
        """A tensor, all of it.

        Raises:
            NotTrackedError: there is no such tensor.
            MissingError: an object is nowhere.
            FormatError: there is no array of its dtype.
        """
        return self._made(self._named(name).whole())

    def get_slice(self, name: str) -> TensorSlice:
        """A tensor of which a part is to be read: `get_slice(name)[:100]`.

        Raises:
            NotTrackedError: there is no such tensor.
        """
        return TensorSlice(self._named(name), self._made)

    def _named(self, name: str) -> _Lazy:
        if name not in self._tensors:
            raise NotTrackedError(f"there is no tensor {name!r}", hint="keys() lists them")
        return self._tensors[name]


class TensorSlice:
    """A tensor that is read when it is indexed, and no chunk without a row that is asked for."""

    def __init__(self, tensor: _Lazy, made: Callable[[Array], Any]) -> None:
        self._tensor, self._made = tensor, made

    def get_shape(self) -> list[int]:
        """The lengths of the dimensions."""
        return list(self._tensor.view.shape)

    def get_dtype(self) -> str:
        """The dtype's name, as safetensors has it."""
        return self._tensor.view.dtype

    def __getitem__(self, key: Any) -> Any:
        """A part of the tensor, as numpy would index it.

        Raises:
            IndexError: the index does not fit the shape.
            MissingError: an object is nowhere.
        """
        return self._made(np.asarray(self._part(key if isinstance(key, tuple) else (key,))))

    def _part(self, keys: tuple[Any, ...]) -> Any:
        view = self._tensor.view
        first = keys[0] if keys else None
        if view.strides is not None or not view.shape or not isinstance(first, int | slice):
            return self._tensor.whole()[keys]
        # Tried first on an array that takes no memory: numpy knows the rules, and what is wrong.
        np.broadcast_to(np.zeros((), np.uint8), view.shape)[keys]
        wanted = range(view.shape[0])[first]
        if isinstance(wanted, int):
            low, high, then = wanted, wanted + 1, (0, *keys[1:])
        else:
            low, high = (min(wanted), max(wanted) + 1) if wanted else (0, 0)
            then = (slice(None, None, wanted.step), *keys[1:])
        return self._tensor.rows(low, high)[then]


def _maker(framework: str) -> Callable[[Array], Any]:
    """What turns arrays into the framework's tensors."""
    if framework == "np":
        return np.asarray
    if framework != "pt":
        raise UsageError(f"there is no framework {framework!r}", hint="pt or np")
    try:
        from git_theta.compute import from_array
    except ImportError as error:
        raise UsageError(
            "torch is not installed",
            hint='pip install "git-theta[torch]", or ask for framework="np"',
        ) from error
    return from_array
