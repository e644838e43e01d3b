"""What a file would run if somebody loaded it: found by reading it, never by loading it.

A pickle is a program, and loading one imports and calls what it names. Names that PyTorch and
NumPy write into every checkpoint are known; a few others are known to hand over the machine; all
the rest is said to be unknown. What cannot be read to its end, or what two readers could take for
different things, is not called safe.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from git_theta.core.layout import RangeReader
from git_theta.errors import FormatError
from git_theta.formats.pickle_machine import Global, Machine, Node, NoOperationError
from git_theta.formats.pickle_reader import run
from git_theta.formats.suspects import may_run
from git_theta.formats.zip_directory import Member, read_members, unpack

MAX_PICKLE = 64 << 20
MAX_PICKLES = 64
_HEAD = 4096
_WINDOW = 4 << 20
_ARCHIVES = 3
DANGEROUS, UNKNOWN = "dangerous", "unknown"

_TORCH = re.compile(
    r"torch\.(?:_utils\._rebuild_[a-z0-9_]+|[A-Za-z0-9]+Storage|(?:storage\.)?(?:Typed|Untyped)Storage"
    r"|u?int\d+|q?u?int\d+(?:x\d)?|b?float\d+[a-z0-9_]*|bfloat16|complex\d+|bool|half|double|long"
    r"|Size|device|dtype|layout|per_tensor_affine|per_channel_affine|strided|sparse_coo"
    r"|_tensor\._rebuild_from_type_v2|_tensor\.Tensor|Tensor|nn\.parameter\.(?:Buffer|Parameter)"
    r"|serialization\._get_layout|jit\._pickle\.[a-z_]+|_C\._pickle\.[a-z_]+)\Z"
)
_NUMPY = re.compile(
    r"(?:numpy|numpy\._?core(?:\.multiarray|\.numeric|\.numerictypes)?|numpy\.dtypes)\."
    r"(?:ndarray|dtype|_reconstruct|scalar|_frombuffer|[A-Za-z0-9]+DType|bool_?|u?int\d+|float\d+)\Z"
)
_PLAIN = frozenset(
    [
        "collections.OrderedDict",
        "collections.defaultdict",
        "collections.Counter",
        "_codecs.encode",
        "copyreg._reconstructor",
        "builtins.set",
        "builtins.frozenset",
        "builtins.bytearray",
        "builtins.complex",
        "builtins.object",
        "builtins.list",
        "builtins.dict",
        "builtins.tuple",
        "builtins.int",
        "builtins.float",
        "builtins.str",
        "builtins.bool",
        "builtins.bytes",
        "builtins.slice",
        "builtins.range",
        "argparse.Namespace",
        "datetime.datetime",
        "datetime.timedelta",
        "datetime.date",
        "pathlib.PosixPath",
        "pathlib.PurePosixPath",
        "joblib.numpy_pickle.NumpyArrayWrapper",
    ]
)
_TAKES_OVER = re.compile(
    r"(?:os|posix|nt|ntpath|posixpath|subprocess|sys|runpy|importlib(?:\..+)?|imp|socket|shutil"
    r"|webbrowser|pty|code|codeop|ctypes(?:\..+)?|_?pickle|dill(?:\..+)?|cloudpickle(?:\..+)?|marshal"
    r"|commands|platform|pip(?:\..+)?|pydoc|pdb|bdb|cProfile|profile|timeit|trace|asyncio(?:\..+)?"
    r"|multiprocessing(?:\..+)?|threading|signal|tempfile|urllib(?:\..+)?|requests(?:\..+)?"
    r"|http(?:\..+)?|ftplib|smtplib|operator|functools|types|inspect|gc|builtins|__builtin__"
    r"|torch\.hub|torch\.utils\.cpp_extension|torch\.serialization|torch\.jit|torch\.package(?:\..+)?"
    r"|numpy\.testing(?:\..+)?|numpy\.f2py(?:\..+)?|ensurepip|venv|zipimport|ast)\.[^.]+"
)
_LAMBDA = re.compile(rb'"class_name"\s*:\s*"(?:Lambda|TFOpLambda|SlicingOpLambda)"')
_NPY_OBJECTS = re.compile(rb"'descr':\s*'?\|?O|\|O'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that loading the file would do.

    `where` names the member of an archive, or is empty; `what` the class or function; `verdict`
    is dangerous (known to hand over the machine) or unknown.
    """

    verdict: str
    where: str
    what: str
    message: str


def scan(file: RangeReader, *, where: str = "", depth: int = 0) -> list[Finding]:
    """Everything that loading a file could run, as far as reading it can tell."""
    head = file.read(0, _HEAD)
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return list(dict.fromkeys(_archive(file, where, depth)))
    if head.startswith(b"\x93NUMPY"):
        return _objects_in_numpy(file, head, where)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return list(_layers(file, where))
    if may_run(head):
        return list(dict.fromkeys(_pickles(file, where, text=not head.startswith(b"\x80"))))
    return []


# --- pickles -------------------------------------------------------------------------------------


class _Listener(Machine):
    """Reads a pickle and keeps the name of every class or function that it asks for."""

    __slots__ = ("named",)

    def __init__(self, data: bytes, start: int) -> None:
        super().__init__(data, start, lambda pid: Node(None, pid), lambda _call, _args: None)
        self.named: dict[Global, None] = {}

    @override
    def made(self, value: Any) -> None:
        if isinstance(value, Global):
            self.named[value] = None
        super().made(value)


def _listen(data: bytes, start: int) -> tuple[dict[Global, None], int, str]:
    """The names in one pickle, where it ends, and what is wrong with it, if anything is.

    Raises:
        NoOperationError: these are no pickle's bytes: nothing was named when they stopped to be.
    """
    machine = _Listener(data, start)
    try:
        run(machine)
    except NoOperationError as error:
        if not machine.named and _may_be_safetensors(data, start):
            raise
        return machine.named, machine.pos, str(error)
    except (
        FormatError,
        IndexError,
        UnicodeError,
        ValueError,
        LookupError,
        RecursionError,
    ) as error:
        return machine.named, machine.pos, str(error) or type(error).__name__
    return machine.named, machine.pos, ""


def _pickles(file: RangeReader, where: str, *, text: bool = False) -> Iterator[Finding]:
    """All pickles at the start of a file, one behind the other."""
    data = file.read(0, MAX_PICKLE)
    at = 0
    for number in range(MAX_PICKLES):
        try:
            named, end, problem = _listen(data, at)
        except NoOperationError:
            return
        if problem and number == 0 and text and not named:
            return  # some other file that happens to begin with a letter
        yield from _judged(named, where)
        if problem:
            if not number or named:
                yield _unreadable(where, problem)
            return
        at = end
        if at >= len(data) or data[at : at + 1] not in (b"\x80", b"("):
            return
    yield _unreadable(where, f"more than {MAX_PICKLES} pickles, one behind the other")


def _may_be_safetensors(data: bytes, start: int) -> bool:
    """Whether the length of a header may stand here: 1 in 32 begins with a pickle's first byte."""
    return not start and data[4:8] == bytes(4) and data[8:9] in b"{ \t\r\n"


def _unreadable(where: str, problem: str) -> Finding:
    message = f"cannot be read to its end, so what it would run is not known: {problem}"
    return Finding(verdict=UNKNOWN, where=where, what="a pickle", message=message)


def _judged(named: dict[Global, None], where: str) -> Iterator[Finding]:
    for name in named:
        path = name.path
        if path in _PLAIN or path.replace("__builtin__.", "builtins.") in _PLAIN:
            continue
        if _TORCH.match(path) or _NUMPY.match(path):
            continue
        if _TAKES_OVER.match(path):
            message = "loading it can run any program"
            yield Finding(verdict=DANGEROUS, where=where, what=path, message=message)
        else:
            message = "loading it imports this, and may call it"
            yield Finding(verdict=UNKNOWN, where=where, what=path, message=message)


# --- archives and others -------------------------------------------------------------------------


class _Bytes:
    """The bytes of an archive's member as a file."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    def read(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]


def _archive(file: RangeReader, where: str, depth: int) -> Iterator[Finding]:
    try:
        members = read_members(file)
    except FormatError as error:
        message = f"readers could disagree about this zip archive: {error}"
        yield Finding(verdict=UNKNOWN, where=where, what="a zip archive", message=message)
        return
    for member in members:
        inside = f"{where}!{member.name}" if where else member.name
        if re.search(r"(?:\A|/)code/.+\.py\Z", member.name):
            yield Finding(
                verdict=UNKNOWN,
                where=inside,
                what="TorchScript",
                message="code that runs when the model is called",
            )
            continue
        yield from _member(file, member, inside, depth)


def _member(file: RangeReader, member: Member, inside: str, depth: int) -> Iterator[Finding]:
    """A member that could be a program itself; plain data is told by its first bytes."""
    named = member.name.lower().endswith((".pkl", ".pickle", ".npy", ".json", ".h5", ".zip"))
    head = file.read(member.data, min(member.packed, _HEAD)) if not member.method else b""
    if not named and not (member.method or _starts_program(head)):
        return
    try:
        data = unpack(file, member, limit=MAX_PICKLE)
    except FormatError as error:
        if named or member.method:
            message = f"cannot be read, so what it would run is not known: {error}"
            yield Finding(verdict=UNKNOWN, where=inside, what="a member", message=message)
        return
    if member.name.endswith(".json"):
        yield from _layers(_Bytes(data), inside)
    elif depth < _ARCHIVES:
        yield from scan(_Bytes(data), where=inside, depth=depth + 1)


def _starts_program(head: bytes) -> bool:
    protocol = head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5" and len(head) > 2
    return protocol or head.startswith((b"PK\3\4", b"\x89HDF", b"\x93NUMPY"))


def _layers(file: RangeReader, where: str) -> Iterator[Finding]:
    """Keras keeps Lambda layers as marshalled code in its configuration."""
    size = file.size or 0
    for at in range(0, max(size, 1), _WINDOW - _HEAD):
        if _LAMBDA.search(file.read(at, _WINDOW)):
            message = "a layer that is code: loading the model runs it"
            yield Finding(verdict=DANGEROUS, where=where, what="Lambda layer", message=message)
            return


def _objects_in_numpy(file: RangeReader, head: bytes, where: str) -> list[Finding]:
    """An array of objects is a pickle behind NumPy's header."""
    wide = head[6:7] >= b"\2"
    length = int.from_bytes(head[8 : 12 if wide else 10], "little")
    start = (12 if wide else 10) + length
    if not _NPY_OBJECTS.search(head[:start]):
        return []
    data = file.read(start, MAX_PICKLE)
    return list(_pickles(_Bytes(data), where))
