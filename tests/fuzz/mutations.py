"""Ways to break a file: as bytes, as a text of numbers and words, as JSON or msgpack."""

from __future__ import annotations

import contextlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import msgpack
from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]
Breaker = Callable[[Draw, Any], Any]

NUMBERS = [
    -(1 << 63),
    -1,
    0,
    1,
    2,
    7,
    63,
    64,
    65,
    127,
    255,
    256,
    65535,
    65536,
    (1 << 26) + 1,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 40,
    1 << 53,
    (1 << 60) - 1,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
]
WORDS = [
    "",
    "x",
    "F32",
    "BF16",
    "dense",
    "delta",
    "sparse",
    "low-rank",
    "ia3",
    "opaque",
    "torch",
    "__metadata__",
    "../../../../etc/passwd",
    "/etc/passwd",
    "..",
    "a" * 70_000,
    "\x1b[2J\x07",
    "\x00",
    "\ud800",
    "\u202e",
    "%s%n",
    "$(touch /tmp/x)",
    "0" * 64,
    "f" * 64,
    "../" * 22,
    "00" * 32,
    "0" * 16 + ":0+1",
    "0" * 16 + ":9999999999999999+9999999999999999",
]
VALUES: list[Any] = [
    *NUMBERS,
    *WORDS,
    None,
    True,
    False,
    [],
    {},
    [[]],
    [0] * 70,
    ["x"] * 3,
    {"": ""},
    0.5,
    -0.0,
    float("nan"),
    float("inf"),
    1e308,
    [-1, 1 << 63],
]
TOKENS = [
    b"-1",
    b"0",
    b"00",
    b"1e999",
    b"18446744073709551616",
    b"9" * 5000,
    b"null",
    b"true",
    b"{}",
    b"[]",
    b"[" * 100_000,
    b'{"":' * 50_000,
    b'""',
    b'"\\ud800"',
    b'"\\u0000"',
    b"NaN",
    b"Infinity",
    b"\xff",
    b"\x00",
    b"<<<<<<< a\n",
    b'"' + b"../" * 21 + b'x"',
    b"2.5",
]
_TOKEN = re.compile(rb'"[^"\n]{0,80}"|-?\d+(?:\.\d+)?|true|false|null')


def mutated(
    good: Sequence[bytes], samples: Sequence[bytes], ways: Sequence[Breaker]
) -> st.SearchStrategy[bytes]:
    """One of the samples, broken a few times; the given ways keep the frame of the file whole.

    Those that can be read are taken more often: more lies behind them.
    """

    @st.composite
    def make(draw: Draw) -> Any:
        data = draw(st.sampled_from((draw(st.booleans()) and good) or samples))
        for _ in range(draw(st.integers(0, 3)) if ways else 0):
            data = draw(st.sampled_from(ways))(draw, data)
        for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2] if ways else [1, 1, 2, 3]))):
            if draw(st.integers(0, 9)):
                data = draw(st.sampled_from(_BYTES))(draw, data)
            else:
                data = _splice(draw, data, draw(st.sampled_from(samples)))
        return data[: 4 << 20]

    return make()


# --- bytes and tokens ----------------------------------------------------------------------------


def _at(draw: Draw, data: bytes) -> int:
    return int(draw(st.integers(0, max(0, len(data) - 1))))


def put(draw: Draw, data: bytes) -> Any:
    """Write a number that readers trip over."""
    at = _at(draw, data)
    width = draw(st.sampled_from([1, 2, 4, 8]))
    number = draw(st.sampled_from(NUMBERS)) & ((1 << 8 * width) - 1)
    raw = number.to_bytes(width, draw(st.sampled_from(["little", "big"])))
    return data[:at] + raw + data[at + width :]


def _flip(draw: Draw, data: bytes) -> Any:
    at = _at(draw, data)
    return data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]


def _cut(draw: Draw, data: bytes) -> Any:
    return data[: _at(draw, data)]


def _drop(draw: Draw, data: bytes) -> Any:
    at = _at(draw, data)
    return data[:at] + data[at + draw(st.integers(1, 64)) :]


def _repeat(draw: Draw, data: bytes) -> Any:
    at = _at(draw, data)
    part = data[at : at + draw(st.integers(1, 64))]
    return data[:at] + part * draw(st.sampled_from([1, 2, 500])) + data[at:]


def _insert(draw: Draw, data: bytes) -> Any:
    at = _at(draw, data)
    return data[:at] + draw(st.binary(min_size=1, max_size=12)) + data[at:]


def _splice(draw: Draw, data: bytes, other: bytes) -> Any:
    return data[: _at(draw, data)] + other[_at(draw, other) :]


def token(draw: Draw, data: bytes) -> Any:
    """Replace a number or a word of a text."""
    places = [match.span() for match in _TOKEN.finditer(data)]
    if not places:
        return data
    begin, end = draw(st.sampled_from(places))
    other = draw(st.sampled_from(places))
    new = draw(st.sampled_from([*TOKENS, data[slice(*other)]]))
    return data[:begin] + new + data[end:]


def line(draw: Draw, data: bytes) -> Any:
    """Drop, double or swap lines of a text."""
    lines = data.split(b"\n")
    at, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    changed = [
        [*lines[:at], *lines[at + 1 :]],
        [*lines[:at], *[lines[at]] * 3, *lines[at + 1 :]],
        [*lines[:at], lines[other], *lines[at + 1 :]],
    ]
    return b"\n".join(draw(st.sampled_from(changed)))


_BYTES: tuple[Breaker, ...] = (put, _flip, _cut, _drop, _repeat, _insert, token)


# --- trees ---------------------------------------------------------------------------------------


def _tree(draw: Draw, root: Any) -> Any:
    """Replace, drop or add one value somewhere in a tree."""
    holders: list[Any] = [[root]]
    for holder in holders:
        below = holder.values() if isinstance(holder, dict) else holder
        holders += [value for value in below if isinstance(value, dict | list)]
    top = holders[0]
    holder = draw(st.sampled_from(holders[-60:]))
    keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    value = draw(st.sampled_from(VALUES))
    if not keys:
        if isinstance(holder, dict):
            holder[draw(st.sampled_from(WORDS))] = value
        else:
            holder.append(value)
    else:
        key = draw(st.sampled_from(keys))
        act = draw(st.integers(0, 3))
        if act == 0 and holder is not top:
            del holder[key]
        elif act == 1 and isinstance(holder, dict):
            holder[draw(st.sampled_from(WORDS))] = holder[key]
        else:
            holder[key] = value
    return top[0] if top else None


def as_json(draw: Draw, data: bytes) -> Any:
    """Break a JSON text and keep it one."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.dumps(_tree(draw, json.loads(data))).encode()
    return data


def as_msgpack(draw: Draw, data: bytes) -> Any:
    """Break msgpack and keep it such."""
    with contextlib.suppress(Exception):
        root = msgpack.unpackb(data, strict_map_key=False)
        packed: bytes = msgpack.packb(_tree(draw, root), unicode_errors="surrogatepass")
        return packed
    return data


def headed(inner: Breaker, width: int) -> Breaker:
    """Break the header of a file that begins with its length, and keep the length right."""

    def run(draw: Draw, data: bytes) -> Any:
        size = int.from_bytes(data[:width], "little")
        if size > len(data):
            return data
        head = inner(draw, data[width : width + size])
        return len(head).to_bytes(width, "little") + head + data[width + size :]

    return run


def zipped(inner: Breaker) -> Breaker:
    """Break one member of an archive, stored or deflated, and keep the archive right."""

    def run(draw: Draw, data: bytes) -> Any:
        out = io.BytesIO()
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as old:
                members = [(info.filename, old.read(info)) for info in old.infolist()]
        except Exception:
            return data
        chosen = draw(st.integers(0, max(0, len(members) - 1)))
        method = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
            for number, (name, body) in enumerate(members):
                if number == chosen:
                    new.writestr(name, inner(draw, body), method)
                else:
                    new.writestr(name, body)
        return out.getvalue()

    return run


_OPCODES = b"()]}\x85\x86\x87tld0129aesu\x90\x91\x8fNRbo\x81\x92\x93Q\x94\x88\x89."
_PUSHED = [
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"cos\nsystem\n",
    b"ccollections\nOrderedDict\n",
    b"X\x01\0\0\0x",
    b"X\xff\xff\xff\xff",
    b"\x8d" + b"\xff" * 8,
    b"\x8a\xff" + b"\x7f" * 255,
    b"J\xff\xff\xff\x7f",
    b"I99999999999999999999\n",
    b"F1e999\n",
    b"h\0",
    b"q\0",
    b"j\xff\xff\xff\xff",
    b"r\xff\xff\xff\xff",
    b"P1\n",
    b"ios\nsystem\n",
    b"(((((((",
    b"\x95" + b"\xff" * 8,
    b"S'a'\n",
    b"Va\n",
]


def as_pickle(draw: Draw, data: bytes) -> Any:
    """Put operations of a pickle somewhere into it."""
    at = _at(draw, data)
    new = draw(
        st.one_of(
            st.sampled_from(_PUSHED),
            st.lists(st.sampled_from(_OPCODES), min_size=1, max_size=4).map(bytes),
            st.sampled_from(_OPCODES).map(lambda code: bytes([code]) * 2000),
        )
    )
    return data[:at] + new + data[at + draw(st.integers(0, 4)) :]
