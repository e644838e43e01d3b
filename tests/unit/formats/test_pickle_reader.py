"""Pickles are read, never run; hostile ones cost little."""

from __future__ import annotations

import collections
import pickle
import pickletools
import time
import tracemalloc
import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from git_theta.errors import FormatError
from git_theta.formats import pickle_machine, pickle_reader, torch_objects
from git_theta.formats.pickle_machine import Global, Node, PickleTruncatedError
from git_theta.formats.torch_objects import name_tensors, read_objects


def read(data: bytes) -> Any:
    value, end = read_objects(data, storage=lambda pid: Node(None, pid))
    assert end == len(data)
    return value


def plain(value: Any) -> Any:
    """A description of plain values turned back into them (sets are lists)."""
    if isinstance(value, Node):
        return {key: plain(item) for key, item in value.items or ()}
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value))
    return value


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**2000), 2**2000)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
    | st.binary(max_size=300),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
)


@settings(max_examples=150)
@given(value=_VALUES, protocol=st.integers(3, 5))
def test_plain_values_of_every_protocol(value: Any, protocol: int) -> None:
    assert plain(read(pickle.dumps(value, protocol))) == value


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_old_protocols(protocol: int) -> None:
    value = {
        "a\\é\n": [1, -1, 255, 65536, 2**31, -(2**70), 1.5, True, False, None],
        "t": ((), (1,)),
    }
    assert plain(read(pickle.dumps(value, protocol))) == value


def test_every_operation_of_python_is_known() -> None:
    known = pickle_reader.OPERATIONS.keys() | {ord(".")}
    assert {ord(op.code) for op in pickletools.opcodes} == known


@pytest.mark.parametrize("protocol", range(6))
def test_objects_are_described_and_never_made(protocol: int) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return warnings.warn, ("a pickle was run",)

    call = read(pickle.dumps([Trap()], protocol))[0]
    assert isinstance(call, Node)
    assert isinstance(call.call, Global)
    assert call.call.path.endswith("warnings.warn")
    counter = read(pickle.dumps(collections.Counter("ab"), protocol))
    assert isinstance(counter, Node)


def _memo_laughs() -> bytes:
    """Lists of ten times the list before."""
    step = b"](" + b"h\x00" * 10 + b"eq\x00"
    return b"]q\x00" + step * 50 + b"."


def _tuple_laughs() -> bytes:
    return b"N" + b"2\x86" * 100_000 + b"."


def _key_laughs() -> bytes:
    """A mapping whose key would take 2^200 steps to hash."""
    return b"}N" + b"2\x86" * 200 + b"Ns."


def _cycle() -> bytes:
    return b"]q\x00h\x00a."


def _long_name() -> bytes:
    return (
        b"X"
        + (1 << 20).to_bytes(4, "little")
        + b"n" * (1 << 20)
        + b"q\x000"
        + (b"}" + b"h\x00}" * 20_000 + b"s" * 20_000 + b".")
    )


def _shared_pairs() -> bytes:
    """One long list of pairs, made into a mapping again and again."""
    pairs = b"](" + b"NN\x86" * 20_000 + b"eq\x00"
    call = b"ccollections\nOrderedDict\nh\x00\x85R"
    return pairs + b"0](" + call * 20_000 + b"e."


_HOSTILE = [_memo_laughs, _tuple_laughs, _key_laughs, _cycle, _long_name, _shared_pairs]


def _read_and_name(data: bytes) -> None:
    try:
        root, _ = read_objects(data, storage=lambda pid: Node(None, pid))
        assert list(name_tensors({"": root}, {})) == []
    except FormatError:
        pass


@pytest.mark.parametrize("hostile", _HOSTILE)
def test_hostile_structures_cost_little_time(hostile: Any) -> None:
    data = hostile()
    start = time.process_time()
    _read_and_name(data)
    assert time.process_time() - start < 15  # at most two seconds on an idle machine


@pytest.mark.parametrize("hostile", _HOSTILE[:-1])
def test_hostile_structures_cost_little_memory(hostile: Any) -> None:
    data = hostile()
    tracemalloc.start()
    try:
        _read_and_name(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100 << 20


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no end"),
        (b"]", "no end"),
        (b"X\xff\xff\xff\xff", "ends within 4294967295"),
        (b"\x8d" + b"\xff" * 8, "ends within"),
        (b"\x8b\xff\xff\xff\x7f", "number of 2147483647 bytes"),
        (b"L" + b"9" * 5000 + b"L\n.", "5001|5000 digits"),
        (b"F" + b"9" * 5000 + b"\n.", "5000 digits"),
        (b"Ix\n.", "malformed"),
        (b"\xff.", "no operation"),
        (b"\x80\x06.", "protocol 6"),
        (b"h\x00.", "never kept"),
        (b"Np-1\n.", "remembers"),
        (b"q\x00.", "malformed"),
        (b".", "malformed"),
        (b"t.", "malformed"),
        (b"NNa.", "no list"),
        (b"NNNs.", "no mapping"),
        (b"}(Nu.", "without a value"),
        (b"N\x87.", "more than there is"),
        (b"NN\x93.", "no text"),
        (b"c" + b"m" * 2000 + b"\nx\n.", "2001 characters"),
        (b"Sx\n.", "quotes"),
        (b"\x97.", "outside"),
        (b"(o.", "malformed"),
    ],
)
def test_what_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_objects(data, storage=lambda pid: pid)


def test_a_cut_pickle_says_so() -> None:
    whole = pickle.dumps({"a": [1, 2, "text", 2**40, b"x" * 300]}, 2)
    for size in range(len(whole)):
        with pytest.raises(PickleTruncatedError):
            read_objects(whole[:size], storage=lambda pid: pid)


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_reader, "MAX_OPERATIONS", 1000)
    with pytest.raises(FormatError, match="1000 operations"):
        read_objects(b"N0" * 1000 + b".", storage=lambda pid: pid)
    monkeypatch.setattr(pickle_machine, "MAX_OBJECTS", 100)
    for program in (b"]0" * 101, b"(" * 101):
        with pytest.raises(FormatError, match="100 objects"):
            read_objects(program + b".", storage=lambda pid: pid)
    monkeypatch.setattr(torch_objects, "MAX_VISITS", 10)
    root, _ = read_objects(b"(" + b"N" * 20 + b"l.", storage=lambda pid: pid)
    with pytest.raises(FormatError, match="too many ways"):
        list(name_tensors({"": root}, {}))


@settings(max_examples=400)
@given(data=st.binary(max_size=60).map(lambda body: body + b"."))
def test_random_programs_raise_nothing_but_format_errors(data: bytes) -> None:
    try:
        root, _ = read_objects(data, storage=torch_objects.storage_of)
        list(name_tensors({"": root}, {}))
    except FormatError:
        pass


_OPS = st.sampled_from(
    [bytes([code]) for code in pickle_reader.OPERATIONS]
    + [b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"ctorch\nSize\n"]
    + [b"X\x07\0\0\0storage", b"ctorch\nFloatStorage\n", b"K\x01", b"h\x00", b"q\x00", b"(", b"t"]
)


@settings(max_examples=600)
@given(program=st.lists(_OPS, max_size=40).map(b"".join))
def test_random_operations_raise_nothing_but_format_errors(program: bytes) -> None:
    try:
        root, _ = read_objects(program + b".", storage=torch_objects.storage_of)
        list(name_tensors({"": root}, {}))
    except FormatError:
        pass
