"""Reads a pickle without running it.

A pickle is a program for a small stack machine. This one can build nothing but Python's own plain
values and inert descriptions: a class or function is its name (`Global`), a call is a record of
what would have been called (`Node`). What a call means, if anything, is said by the `reduce`
function given to `read_pickle`. Every resource is bounded: operations, objects, long integers.
Nothing is hashed or compared that the pickle can choose, and nothing is copied twice, so a small
pickle cannot ask for much time or memory.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from git_theta.errors import FormatError
from git_theta.formats.pickle_machine import (
    Global,
    Machine,
    Node,
    NoOperationError,
    Persistent,
    PickleTruncatedError,
    Reduce,
)

MAX_OPERATIONS = 16_000_000
MAX_NUMBER = 1024
MAX_CLASS_NAME = 1024


def read_pickle(
    data: bytes, start: int = 0, *, persistent: Persistent, reduce: Reduce
) -> tuple[Any, int]:
    """Return what the pickle at `start` describes, and the offset after it.

    `persistent` turns a persistent id into a value; `reduce` turns a call into a value, or returns
    None to have it described by a `Node`.

    Raises:
        PickleTruncatedError: the data ends within the pickle.
        FormatError: the pickle is malformed, or asks for too much.
    """
    machine = Machine(data, start, persistent, reduce)
    return perform(machine, run), machine.pos


def perform(machine: Machine, part: Callable[[Machine], Any]) -> Any:
    """Run a part of a program; what it does wrong is a fault of the file.

    Raises:
        FormatError: the pickle is malformed.
    """
    try:
        return part(machine)
    except (IndexError, UnicodeError, ValueError, RecursionError, struct.error) as error:
        raise FormatError(f"malformed pickle near byte {machine.pos}: {error}") from None


def run(machine: Machine) -> Any:
    """Perform a program to its end: what it leaves on the stack."""
    operations, limit, data = OPERATIONS, machine.limit, machine.data
    for _ in range(MAX_OPERATIONS):
        if machine.pos >= limit:
            raise PickleTruncatedError("the pickle has no end")
        code = data[machine.pos]
        machine.pos += 1
        if code == 0x2E:
            return machine.stack.pop()
        operation = operations.get(code)
        if operation is None:
            at = machine.pos - 1
            raise NoOperationError(f"byte {at} of the pickle, {code:#x}, is no operation")
        operation(machine)
    raise FormatError(f"the pickle has more than {MAX_OPERATIONS} operations")


def _text(raw: bytes) -> str:
    # Names end up in a manifest, which is UTF-8; what is not text there is no name worth keeping.
    return raw.decode("utf-8", "replace")


def _whole(raw: bytes) -> int:
    """Read a decimal number; int() itself is quadratic in the number of digits."""
    digits = raw.strip().removesuffix(b"L")
    if len(digits) > MAX_NUMBER:
        raise FormatError(f"the pickle holds a number of {len(digits)} digits")
    return int(digits)


def _mark(m: Machine) -> None:
    m.count()
    m.marks.append(m.stack)
    m.stack = []


def _int(m: Machine) -> None:
    raw = m.line()
    m.stack.append({b"00": False, b"01": True}[raw] if raw in (b"00", b"01") else _whole(raw))


def _float(m: Machine) -> None:
    raw = m.line()
    if len(raw) > MAX_NUMBER:
        raise FormatError(f"the pickle holds a number of {len(raw)} digits")
    m.stack.append(float(raw))


def _long(m: Machine, width: int) -> None:
    size = m.number(width)
    if size > MAX_NUMBER:
        raise FormatError(f"the pickle holds a number of {size} bytes")
    m.stack.append(int.from_bytes(m.take(size), "little", signed=True))


def _string(m: Machine) -> None:
    raw = m.line().strip()
    if len(raw) < 2 or raw[:1] not in (b"'", b'"') or raw[-1:] != raw[:1]:
        raise FormatError("the pickle holds a text without its quotes")
    m.stack.append(_text(raw[1:-1]))


def _unicode(m: Machine) -> None:
    text = m.line().decode("raw-unicode-escape", "replace")
    m.stack.append(_text(text.encode("utf-8", "replace")))


def _append(m: Machine) -> None:
    value = m.stack.pop()
    _extend(m.stack[-1], [value])


def _appends(m: Machine) -> None:
    values = m.since_mark()
    _extend(m.stack[-1], values)


def _extend(target: Any, values: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(values)
    elif isinstance(target, Node):
        target.elements = target.elements or []
        target.elements.extend(values)
    else:
        raise FormatError("the pickle appends to what is no list")


def _setitem(m: Machine) -> None:
    value = m.stack.pop()
    key = m.stack.pop()
    _update(m.stack[-1], [key, value])


def _setitems(m: Machine) -> None:
    values = m.since_mark()
    _update(m.stack[-1], values)


def _update(target: Any, values: list[Any]) -> None:
    if len(values) % 2:
        raise FormatError("the pickle sets a key without a value")
    if isinstance(target, Node):
        target.items = target.items or []
        target.items.extend(zip(values[::2], values[1::2], strict=True))
    elif not isinstance(target, list):
        # Setting items of anything else (a list among them) changes no tensor we know of.
        raise FormatError("the pickle sets items of what is no mapping")


def _dict(m: Machine) -> None:
    values = m.since_mark()
    m.made(Node())
    _update(m.stack[-1], values)


def _tuple(m: Machine, size: int) -> None:
    if len(m.stack) < size:
        raise FormatError("the pickle makes a tuple of more than there is")
    values = tuple(m.stack[-size:])
    del m.stack[-size:]
    m.made(values)


def _global(m: Machine) -> None:
    module = _text(m.line())
    _named(m, module, _text(m.line()))


def _named(m: Machine, module: str, name: str) -> None:
    if len(module) + len(name) > MAX_CLASS_NAME:
        raise FormatError(f"the pickle names a class by {len(module) + len(name)} characters")
    m.made(Global(module, name))


def _stack_global(m: Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise FormatError("the pickle names a class by what is no text")
    _named(m, module, name)


def _reduce(m: Machine) -> None:
    args = m.stack.pop()
    m.call(m.stack.pop(), args)


def _newobj_ex(m: Machine) -> None:
    kwargs = m.stack.pop()
    _reduce(m)
    made = m.stack[-1]
    if isinstance(made, Node) and isinstance(kwargs, Node):
        # Nested rather than joined: arguments may be shared, and are never copied.
        made.args = (made.args, kwargs)


def _inst(m: Machine) -> None:
    args = tuple(m.since_mark())
    _global(m)
    m.call(m.stack.pop(), args)


def _obj(m: Machine) -> None:
    values = m.since_mark()
    m.call(values[0], tuple(values[1:]))


def _build(m: Machine) -> None:
    state = m.stack.pop()
    target = m.stack[-1]
    if isinstance(target, Node):
        target.state = state


def _pop(m: Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.since_mark()


def _persid(m: Machine) -> None:
    m.made(m.persistent(_text(m.line())))


def _binpersid(m: Machine) -> None:
    m.made(m.persistent(m.stack.pop()))


def _proto(m: Machine) -> None:
    version = m.number(1)
    if version > 5:
        raise NoOperationError(f"the pickle is of protocol {version}, which nobody knows yet")


def _out_of_band(m: Machine) -> None:
    raise FormatError(f"before byte {m.pos} the pickle keeps a buffer outside of the file")


def _extension(m: Machine, width: int) -> None:
    m.made(Global("copyreg", f"extension {m.number(width)}"))


def _push(value: Any) -> Callable[[Machine], None]:
    return lambda m: m.stack.append(value)


def _sized(width: int, convert: Callable[[bytes], Any]) -> Callable[[Machine], None]:
    return lambda m: m.stack.append(convert(m.take(m.number(width))))


OPERATIONS: dict[int, Callable[[Machine], None]] = {
    # Plain values.
    ord("N"): _push(None),
    0x88: _push(True),
    0x89: _push(False),
    ord("I"): _int,
    ord("L"): lambda m: m.stack.append(_whole(m.line())),
    ord("F"): _float,
    ord("J"): lambda m: m.stack.append(int.from_bytes(m.take(4), "little", signed=True)),
    ord("K"): lambda m: m.stack.append(m.byte()),
    ord("M"): lambda m: m.stack.append(m.number(2)),
    0x8A: lambda m: _long(m, 1),
    0x8B: lambda m: _long(m, 4),
    ord("G"): lambda m: m.stack.append(struct.unpack(">d", m.take(8))[0]),
    # Texts and bytes. Python 2 wrote its names as byte strings.
    ord("S"): _string,
    ord("U"): _sized(1, _text),
    ord("T"): _sized(4, _text),
    ord("V"): _unicode,
    0x8C: _sized(1, _text),
    ord("X"): _sized(4, _text),
    0x8D: _sized(8, _text),
    ord("C"): _sized(1, bytes),
    ord("B"): _sized(4, bytes),
    0x8E: _sized(8, bytes),
    0x96: _sized(8, bytes),
    0x97: _out_of_band,
    0x98: lambda _: None,
    # Containers; a set is a list here, for nothing may be hashed.
    ord("]"): lambda m: m.made([]),
    ord("}"): lambda m: m.made(Node()),
    ord(")"): _push(()),
    0x8F: lambda m: m.made([]),
    0x85: lambda m: _tuple(m, 1),
    0x86: lambda m: _tuple(m, 2),
    0x87: lambda m: _tuple(m, 3),
    ord("t"): lambda m: m.made(tuple(m.since_mark())),
    ord("l"): lambda m: m.made(m.since_mark()),
    ord("d"): _dict,
    0x91: lambda m: m.made(m.since_mark()),
    ord("a"): _append,
    ord("e"): _appends,
    0x90: _appends,
    ord("s"): _setitem,
    ord("u"): _setitems,
    # The stack and the memo.
    ord("("): _mark,
    ord("0"): _pop,
    ord("1"): lambda m: m.since_mark().clear(),
    ord("2"): lambda m: m.stack.append(m.stack[-1]),
    ord("p"): lambda m: m.keep(_whole(m.line())),
    ord("q"): lambda m: m.keep(m.byte()),
    ord("r"): lambda m: m.keep(m.number(4)),
    0x94: lambda m: m.keep(len(m.memo)),
    ord("g"): lambda m: m.recall(_whole(m.line())),
    ord("h"): lambda m: m.recall(m.byte()),
    ord("j"): lambda m: m.recall(m.number(4)),
    # Names, calls and objects: described, never made.
    ord("c"): _global,
    0x93: _stack_global,
    0x82: lambda m: _extension(m, 1),
    0x83: lambda m: _extension(m, 2),
    0x84: lambda m: _extension(m, 4),
    ord("R"): _reduce,
    0x81: _reduce,
    0x92: _newobj_ex,
    ord("i"): _inst,
    ord("o"): _obj,
    ord("b"): _build,
    ord("P"): _persid,
    ord("Q"): _binpersid,
    # The frame.
    0x80: _proto,
    0x95: lambda m: _skip(m, 8),
}


def _skip(m: Machine, size: int) -> None:
    m.take(size)
