"""What the calls in a PyTorch pickle mean: storages, tensors, and the names of tensors.

Both of PyTorch's file formats keep one pickle that describes the objects and, elsewhere, the bytes
of the storages. Here the descriptions of `pickle_reader` become tensors with names. Nothing
unknown is an error: an object of a foreign class is walked through by its state.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from git_theta.core import limits
from git_theta.core.dtypes import DTYPES, word
from git_theta.core.layout import MAX_DIMENSIONS, MAX_LENGTH, TensorView
from git_theta.errors import FormatError
from git_theta.formats.pickle_machine import Global, Node
from git_theta.formats.pickle_reader import read_pickle

MAX_VISITS = 4_000_000
MAX_WALKS = 16
MAX_NAMES = 64 << 20
MAX_NAME = 4096
MAX_SCALARS = 20_000

_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "ComplexDoubleStorage": "C128",
    "ComplexFloatStorage": "C64",
    "ComplexHalfStorage": "C32",
    "QInt8Storage": "QINT8",
    "QUInt8Storage": "QUINT8",
    "QInt32Storage": "QINT32",
    "QUInt4x2Storage": "QUINT4X2",
    "QUInt2x4Storage": "QUINT2X4",
    "UntypedStorage": "U8",
}
_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
    "complex128": "C128",
    "complex64": "C64",
    "complex32": "C32",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
}
# What a state dict leaves out of its names, so that a pickled module has the names of its own.
_MODULE_PARTS = {"_parameters", "_buffers", "_modules"}


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """Bytes kept elsewhere in the file under `key`; `start` counts elements into them."""

    key: str
    dtype: str
    length: int
    start: int = 0

    @property
    def width(self) -> int:
        """Bytes of an element as the storage counts them; packed types count bytes."""
        return max(1, DTYPES[self.dtype].bits // 8)


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A storage seen with a shape; `offset` and `strides` count elements of `dtype`."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_PARTS = (Tensor, Storage, Node, list, tuple)
_PLAIN = (str, int, float, bool, bytes)
_WALKED = (Node, list, tuple)
# Marks a mapping whose pairs were given as arguments.
_PAIRS = object()


def read_objects(data: bytes, start: int = 0, *, storage: Callable[[Any], Any]) -> tuple[Any, int]:
    """Read one pickle; `storage` is asked what a persistent id stands for."""
    return read_pickle(data, start, persistent=storage, reduce=_rebuild)


def storage_of(pid: Any) -> Storage | None:
    """Understand ('storage', type, key, location, numel[, view]); None for anything else."""
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
        return None
    kind, key, length = pid[1], pid[2], pid[4]
    if not isinstance(kind, Global) or not isinstance(key, str):
        raise FormatError("a storage has no usable type or key")
    dtype = _STORAGES.get(kind.name)
    if dtype is None:
        raise FormatError(f"storage {key[:40]!r} is of the unknown type {kind.path[:80]}")
    start = 0
    if len(pid) > 5 and pid[5] is not None:
        # (key of the view, offset, length): files of the first releases kept views of storages.
        start, length = _sizes(pid[5][1:]) if isinstance(pid[5], tuple) else (-1, -1)
    start, length = _sizes((start, length))
    return Storage(key, dtype, length, start)


def name_tensors(roots: Mapping[str, Any], places: Mapping[str, int]) -> Iterator[TensorView]:
    """Name every tensor whose storage has a place; `places` maps keys to segment numbers."""
    taken: dict[str, int] = {}
    room, most = MAX_NAMES, limits.current().tensors
    for prefix, root in roots.items():
        for path, found in _walk(root, prefix):
            tensor = _whole(found) if isinstance(found, Storage) else found
            if tensor.storage.key not in places:
                continue
            if len(taken) >= most:
                told = limits.current().told("tensors")
                raise FormatError(f"the file has more than {most:,} tensors; {told}")
            name = _unused(path or "tensor", taken)
            room -= len(name)
            if room < 0:
                raise FormatError(f"the names of tensors fill more than {MAX_NAMES} bytes")
            yield _view(name, tensor, places[tensor.storage.key])


def name_scalars(root: Any) -> Iterator[tuple[str, str]]:
    """Name every plain value beside the tensors, and write it as text; at most `MAX_SCALARS`."""
    stack: list[tuple[str, Any, int]] = [("", root, 0)]
    walks: dict[int, int] = {}
    found, deepest = 0, limits.current().nesting
    while stack and found < MAX_SCALARS:
        path, value, depth = stack.pop()
        if value is None or isinstance(value, _PLAIN):
            found += 1
            yield path or "value", str(value)[:MAX_NAME]
        elif isinstance(value, _WALKED) and depth <= deepest and len(path) <= MAX_NAME:
            walks[id(value)] = walks.get(id(value), 0) + 1
            if walks[id(value)] <= MAX_WALKS:
                below = ((_join(path, key), child, depth + 1) for key, child in _children(value))
                stack.extend(reversed(list(itertools.islice(below, MAX_SCALARS))))


def words(
    storages: Mapping[str, Storage], tensors: Iterable[TensorView], places: Mapping[str, int]
) -> dict[int, int]:
    """The width of the numbers in each segment; tensors know better than untyped storages."""
    widths = {places[key]: word(s.dtype) for key, s in storages.items() if key in places}
    for tensor in tensors:
        widths[tensor.segment] = max(widths[tensor.segment], word(tensor.dtype))
    return widths


def _view(name: str, tensor: Tensor, segment: int) -> TensorView:
    bits = DTYPES[tensor.dtype].bits
    if tensor.offset * bits % 8:
        raise FormatError(f"tensor {name!r} begins within a byte")
    start = tensor.storage.start * tensor.storage.width + tensor.offset * bits // 8
    return TensorView(
        name=name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        segment=segment,
        offset=start,
        strides=None if _is_contiguous(tensor) else tensor.strides,
    )


def _is_contiguous(tensor: Tensor) -> bool:
    """Say whether the elements follow one another; a dimension of length 1 takes no step."""
    step = 1
    if 0 in tensor.shape:
        return True
    for length, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if length != 1 and stride != step:
            return False
        step *= length
    return True


def _unused(path: str, taken: dict[str, int]) -> str:
    """Return the name, or the name with the first free number; `taken` counts its uses."""
    name = path
    while name in taken:
        taken[path] += 1
        name = f"{path}#{taken[path]}"
    taken[name] = 1
    return name


def _walk(root: Any, prefix: str) -> Iterator[tuple[str, Tensor | Storage]]:
    """Find tensors depth first, in the order of the file.

    A container that is shared is walked again under its other name, as two names of one tensor
    are two tensors to whoever loads the file; how often, and the visits in all, are bounded.
    """
    stack: list[tuple[str, Any, int]] = [(prefix, root, 0)]
    walks: dict[int, int] = {}
    visits, deepest = 0, limits.current().nesting
    while stack:
        path, value, depth = stack.pop()
        if depth > deepest or len(path) > MAX_NAME:
            told = limits.current().told("nesting")
            raise FormatError(f"the objects are nested too deep; {told}")
        if isinstance(value, Tensor | Storage):
            yield path, value
            continue
        walks[id(value)] = walks.get(id(value), 0) + 1
        if walks[id(value)] > MAX_WALKS:
            continue
        below = []
        for key, child in _children(value):
            visits += 1
            if isinstance(child, _PARTS):
                below.append((_join(path, key), child, depth + 1))
        if visits > MAX_VISITS:
            raise FormatError("the objects refer to one another in too many ways")
        stack.extend(reversed(below))


def _children(value: Any) -> Iterator[tuple[Any, Any]]:
    """The parts of a container with their keys; the key None adds nothing to a name."""
    if isinstance(value, list | tuple):
        yield from enumerate(value)
    if not isinstance(value, Node):
        return
    if value.call is _PAIRS:
        yield from _pairs(value.args)
    elif isinstance(value.args, list | tuple):
        yield from enumerate(value.args)
    yield from value.items or ()
    yield from enumerate(value.elements or ())
    yield from _state(value.state)


def _pairs(pairs: Any) -> Iterator[tuple[Any, Any]]:
    """The items of a mapping made from pairs, or from another mapping."""
    if not isinstance(pairs, list | tuple):
        yield None, pairs
        return
    for pair in pairs:
        if isinstance(pair, list | tuple) and len(pair) == 2:
            yield pair[0], pair[1]


def _state(state: Any) -> Iterator[tuple[Any, Any]]:
    """The attributes of an object: a mapping, or a pair of mappings where it has slots."""
    parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    for part in parts:
        if not isinstance(part, Node) or part.call is not None:
            yield None, part
            continue
        pairs = part.items or ()
        keys = {key for key, _ in pairs if isinstance(key, str)}
        module = keys >= _MODULE_PARTS
        for key, child in pairs:
            hidden = module and isinstance(key, str) and key in _MODULE_PARTS
            yield (None if hidden else key), child


def _join(path: str, key: Any) -> str:
    if key is None:
        return path
    text = key if isinstance(key, str) else _spell(key)
    # Cut, so that one long key under many paths cannot fill the memory before names are counted.
    return (f"{path}.{text}" if path else text)[: MAX_NAME + 1]


def _spell(key: Any) -> str:
    """Write a key that is no text; only plain values have a spelling of their own."""
    if isinstance(key, bool | int | float):
        return str(key)
    if isinstance(key, bytes):
        return key.decode("utf-8", "replace")
    return key.path if isinstance(key, Global) else "?"


def _sizes(values: Any) -> tuple[int, ...]:
    """Check a tuple of sizes, strides or offsets."""
    if isinstance(values, Node) and isinstance(values.args, tuple) and len(values.args) == 1:
        values = values.args[0]
    if not isinstance(values, tuple | list) or len(values) > MAX_DIMENSIONS:
        raise FormatError("a tensor has no usable shape or strides")
    if any(type(number) is not int or not 0 <= number <= MAX_LENGTH for number in values):
        # What else may be in there can be without end.
        told = [str(n)[:20] if type(n) is int else type(n).__name__ for n in values[:8]]
        raise FormatError(f"a tensor has the sizes {told}")
    return tuple(values)


def _whole(storage: Storage) -> Tensor:
    return Tensor(storage, storage.dtype, 0, (storage.length,), (1,))


def _tensor(args: tuple[Any, ...], dtype: str | None = None) -> Any:
    """(storage, offset, shape, strides, ...), or None where it is no tensor after all."""
    if len(args) < 4 or not isinstance(args[0], Storage):
        return None
    (offset,), shape, strides = _sizes((args[1],)), _sizes(args[2]), _sizes(args[3])
    if len(shape) != len(strides):
        raise FormatError(f"a tensor has {len(shape)} dimensions but {len(strides)} strides")
    return Tensor(args[0], dtype or args[0].dtype, offset, shape, strides)


def _tensor_of_dtype(args: tuple[Any, ...]) -> Any:
    if len(args) < 7 or not isinstance(args[6], Global):
        return None
    dtype = _DTYPES.get(args[6].name)
    # A dtype without a name here leaves the bytes a storage that no tensor claims.
    return () if dtype is None else _tensor(args, dtype)


def _quantized(args: tuple[Any, ...]) -> Any:
    found = Node()
    found.items = [(None, _tensor(args))]
    scheme = args[4] if len(args) > 4 else None
    if isinstance(scheme, tuple):
        found.items += zip((None, "scales", "zero_points", "axis"), scheme, strict=False)
    return found


def _sparse(args: tuple[Any, ...]) -> Any:
    if len(args) < 2 or not isinstance(args[1], tuple):
        return None
    parts = [part for part in args[1][:8] if isinstance(part, Tensor)]
    names = ("indices", "values") if len(parts) == 2 else ("pointers", "indices", "values")
    found = Node()
    found.items = list(zip(names, parts, strict=False))
    return found


def _first(args: tuple[Any, ...]) -> Any:
    return args[0] if args and isinstance(args[0], Tensor | Node | list | tuple) else None


def _mapping(args: tuple[Any, ...]) -> Any:
    """OrderedDict([[key, value], ...]): how Python 2 wrote it, and Python 3 writes it empty."""
    return Node(_PAIRS, args[-1]) if args else Node()


def _from_type(args: tuple[Any, ...]) -> Any:
    """_rebuild_from_type_v2(function, type, arguments, state): the function's tensor."""
    if len(args) < 3 or not isinstance(args[0], Global) or not isinstance(args[2], tuple):
        return None
    if args[0].name == "_rebuild_from_type_v2":
        return None
    return _rebuild(args[0], args[2])


_CALLS: dict[tuple[str, str], Callable[[tuple[Any, ...]], Any]] = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_dtype,
    ("torch._utils", "_rebuild_qtensor"): _quantized,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch._utils", "_rebuild_sparse_tensor"): _sparse,
    ("torch._utils", "_rebuild_sparse_csr_tensor"): _sparse,
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("torch.nn.parameter", "Parameter"): _first,
    ("torch.autograd.variable", "Variable"): _first,
    ("torch", "Size"): _first,
    ("torch.jit._pickle", "build_intlist"): _first,
    ("torch.jit._pickle", "build_tensorlist"): _first,
    ("torch.jit._pickle", "build_doublelist"): _first,
    ("torch.jit._pickle", "build_boollist"): _first,
    ("torch.jit._pickle", "restore_type_tag"): _first,
    ("collections", "OrderedDict"): _mapping,
    ("collections", "defaultdict"): lambda args: _mapping(args[1:]),
    ("builtins", "set"): _first,
    ("__builtin__", "set"): _first,
}


def _rebuild(what: Global, args: tuple[Any, ...]) -> Any:
    call = _CALLS.get((what.module, what.name))
    return None if call is None else call(args)
