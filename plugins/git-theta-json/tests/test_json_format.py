"""JSON checkpoints: what becomes a tensor, what stays text, and that not a byte is lost."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from git_theta_json import JsonFormat
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from git_theta.core.layout import SplitFormat, SplitTensor
from git_theta.errors import CorruptError, FormatError
from git_theta.testing import BytesReader, SplitFormatContract

FORMAT = JsonFormat()
LAW = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
MODEL = {
    "name": "tiny \u00e9 \U0001f600",
    "layers": [
        {"weight": [[0.1, -2.5e-7], [3.0, 1e22]], "bias": [0, -1, 7]},
        {"weight": [[[1.5]], [[float(2**0.5)]]], "extra": None},
    ],
    "empty": [],
    "flags": [True, False],
}


def split(data: bytes) -> dict[str, SplitTensor]:
    """Split, prove the law, and return the tensors by name."""
    skeleton, tensors = FORMAT.split(BytesReader(data))
    assert b"".join(FORMAT.join(skeleton, iter(tensors))) == data
    return {tensor.name: tensor for tensor in tensors}


def values(tensor: SplitTensor) -> Any:
    """A tensor as lists."""
    dtype = {"I64": "<i8", "F64": "<f8"}[tensor.dtype]
    return np.frombuffer(tensor.data, dtype).reshape(tensor.shape).tolist()


class TestJson(SplitFormatContract):
    format: ClassVar[SplitFormat] = FORMAT

    def files(self) -> Sequence[bytes]:
        return [
            json.dumps(MODEL).encode(),
            json.dumps(MODEL, indent=2, ensure_ascii=False).encode() + b"\n",
            b"\xef\xbb\xbf" + json.dumps(MODEL, indent=1).replace("\n", "\r\n").encode(),
            b"[[1,2],[3,4]]",
            b'{"a": [1.50, 2.25, 0.10], "b": [1e-05]}',
        ]


# --- what is found -------------------------------------------------------------------------------


def test_names_are_the_keys_joined() -> None:
    found = split(json.dumps(MODEL).encode())
    assert {name: (t.dtype, t.shape) for name, t in found.items()} == {
        "layers.0.weight": ("F64", (2, 2)),
        "layers.0.bias": ("I64", (3,)),
        "layers.1.weight": ("F64", (2, 1, 1)),
    }
    assert values(found["layers.0.weight"]) == MODEL["layers"][0]["weight"]  # type: ignore[index]


def test_a_list_alone_is_the_root() -> None:
    assert values(split(b" [1, 2]\n")["root"]) == [1, 2]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (b'{"a": [1, 2], "b": [1, NaN], "c": [-Infinity, 1.5]}', {"a"}),
        (b'{"a": [1], "b": [[1, 2], [3]], "c": [[]], "d": [[1], 2]}', {"a"}),
        (b'{"a": [1], "b": [1,  2, 3], "c": [0.10, 0.2], "d": [01, 2]}', {"a"}),
        (b'{"a": [1], "b": [0.1000000000000000000001], "c": [1e999, 1.5]}', {"a"}),
        (b'{"a": [1], "b": [true, 1], "c": [null], "d": ["1"], "e": [1_0]}', None),
        (b'{"a": [1, 2], "a": [3, 4]}', {"a"}),
        (b'{"a": {"b": [1]}, "a.b": [2]}', {"a.b"}),
        (b'{"a": [1, [2, 3], {"x": [4]}]}', {"a.1", "a.2.x"}),
        (b'{"a": [18446744073709551616, 1], "b": [9223372036854775807]}', {"a", "b"}),
        (b'{"a": [9007199254740993.0]}', None),
        (b'{"a": [-0], "b": [-0.0, 1.0], "c": [-0, 1]}', {"a", "b", "c"}),
        (b'{"a\\ud800": [1], "\\u00e9": [2], "\\n": [3]}', {"a\\ud800", "\u00e9", "\n"}),
        (b'{"": [1], "b": {"": [2]}}', {"", "b."}),
        (b'{"a]": "[1, 2", "b\\"": [1]}', {'b"'}),
    ],
)
def test_what_is_a_tensor(text: bytes, names: set[str] | None) -> None:
    if names is None:
        with pytest.raises(FormatError):
            split(text)
    else:
        assert set(split(text)) == names


def test_minus_zero_keeps_its_sign() -> None:
    assert struct.pack("<d", -0.0) == split(b"[-0.0]")["root"].data == split(b"[-0]")["root"].data


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b'{"weight_map": {"a": "model-1.safetensors"}}',
        b'{"a": [1]',
        b'{"a": [1]}}',
        b'{"a": [1]} {"a": [1]}',
        b'{"a" [1]}',
        b'{"a": [1],}',
        b'{"a": [1] "b": 2}',
        b"{[1]: 2}",
        b'{"a": [1}, "b": 1]',
        b'{"\xff\xfe": [1]}',
        b'{"a": [1], "b": wrong}',
        b"[[table]]\nx = [1, 2]",
        b'{"a": [1], "b": "never ends',
        json.dumps({"a": [1]}).encode("utf-16"),
        b'{"a":' * 300 + b"[1]" + b"}" * 300,
        b"[{}," * 100_000 + b"[1]",
    ],
)
def test_what_is_not_read(text: bytes) -> None:
    with pytest.raises(FormatError):
        split(text)


def test_records_are_no_model() -> None:
    with pytest.raises(FormatError, match="no model"):
        split(json.dumps([{"at": [1, 2]}] * 5000).encode())
    assert len(split(json.dumps([{"at": [1, 2]}] * 900).encode())) == 900
    assert len(split(json.dumps([{"at": [0.123] * 90}] * 1100).encode())) == 1100


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (b'{"a"', True),
        (b'\xef\xbb\xbf \r\n\t{ \n"', True),
        (b"[[ -1", True),
        (b"[{", True),
        (b'{"git-theta": 1,\n', False),
        (b"{}", False),
        (b"[section]\n", False),
        (b"[[tool.x]]", False),
        (b"{ x }", False),
        (b'\xff\xfe{\0"\0', False),
    ],
)
def test_detection(head: bytes, found: bool) -> None:
    assert FORMAT.detect(head) is found


# --- what is written again -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "style"),
    [
        ("0.1, 1e-05, 2e-07, 1e+16, 3.0", "python"),
        ("0.1,0.00001,2e-7,10000000000000000,3,1e+21", "javascript"),
        ("0.1,1e-05,2e-07,1e+16,3", "jq"),
        ("0.1,0.00001,2e-6,1e16,3.0", "rust"),
        ("0.1,1e-5,2e-6,1e16,3.0", "rust-4"),
        ("0.1,1e-05,1e+15,100000000000000.0", "c++"),
        ("0.1,1.0E-5,2.5E-6,1.0E7,9999999.0,-0.001", "java"),
        ("0.100000, -2.500000, 1000000.000000", "%.6f"),
        ("0.10000000000000001,2.5,1.0000000000000001e-05", "%.17g"),
        ("1.00000000e-01 , 2.50000000e+00 , -3.00000000e+10", "%.8e"),
        ("1.5E-05,2.5E+20,0.125", "%.3G"),
    ],
)
def test_spellings(text: str, style: str) -> None:
    data = f'{{"a": [{text}]}}'.encode()
    skeleton, tensors = FORMAT.split(BytesReader(data))
    assert b"".join(FORMAT.join(skeleton, tensors)) == data
    assert style.encode() in skeleton


def test_a_spelling_is_no_program() -> None:
    skeleton, tensors = FORMAT.split(BytesReader(b"[1.50]"))
    for bad in (b"%.9s", b"%.2d", b"%.2x", b"%(2)", b"%d%d"):
        with pytest.raises(CorruptError):
            list(FORMAT.join(skeleton.replace(b"%.2f", bad), tensors))


@pytest.mark.parametrize("options", [
    {}, {"indent": 0}, {"indent": 1}, {"indent": 4}, {"indent": "\t"},
    {"separators": (",", ":")}, {"sort_keys": True}, {"ensure_ascii": False},
    {"indent": 3, "separators": (" , ", " : ")},
])  # fmt: skip
def test_every_option_of_json_dumps(options: dict[str, Any]) -> None:
    assert len(split(json.dumps(MODEL, **options).encode())) == 3


SPREAD = {
    "all": [10.0**power * 1.25 for power in range(-30, 30)],
    "ones": [10.0**power for power in range(-12, 25)],
    "near": np.nextafter([1e-7, 1e-6, 1e-5, 1e-4, 1e15, 1e16, 1e17, 1e21], 0).tolist(),
    "some": np.random.default_rng(1).normal(size=(20, 3)).tolist(),
    "int": list(range(-40, 40)),
}


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("indent", ["", "2", "'\\t'"])
def test_what_javascript_writes(indent: str) -> None:
    program = (
        "text = []; process.stdin.on('data', part => text.push(part)).on('end', () => process"
        f".stdout.write(JSON.stringify(JSON.parse(text.join('')), null, {indent or 0})))"
    )
    done = subprocess.run(
        ["node", "-e", program],
        input=json.dumps(SPREAD).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    assert set(split(done.stdout)) == set(SPREAD)


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
@pytest.mark.parametrize("option", ["--indent=2", "-c", "--tab"])
def test_what_jq_writes(option: str) -> None:
    options = ["--indent", "2"] if option.startswith("--indent") else [option]
    done = subprocess.run(
        ["jq", *options, "."], input=json.dumps(SPREAD).encode(), stdout=subprocess.PIPE, check=True
    )
    found = split(done.stdout)
    assert {"some", "int"} <= set(found)


def test_a_list_whose_spelling_breaks_late_stays_text() -> None:
    numbers = ["0.5"] * 100_000
    numbers[90_000] = "0.50"
    text = f'{{"a": [{", ".join(numbers)}], "b": [1]}}'.encode()
    assert set(split(text)) == {"b"}


def test_a_changed_value_changes_its_tensor_alone() -> None:
    model: dict[str, list[Any]] = {"a": [[0.5, 0.25]] * 100, "b": [0.125] * 50}
    before = FORMAT.split(BytesReader(json.dumps(model).encode()))
    model["b"][7] = 0.75
    after = FORMAT.split(BytesReader(json.dumps(model).encode()))
    assert before[0] == after[0]
    assert before[1][0] == after[1][0]
    assert before[1][1] != after[1][1]


# --- laws ----------------------------------------------------------------------------------------

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
NUMBERS = st.one_of(FLOATS, st.integers(-(2**70), 2**70), st.integers(-9, 9), st.floats())


def _grids(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Regular nested lists."""
    shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4)

    def fill(shape: list[int], data: Sequence[Any]) -> Any:
        if not shape:
            return data[0]
        size = len(data) // shape[0]
        return [fill(shape[1:], data[i * size : (i + 1) * size]) for i in range(shape[0])]

    return shapes.flatmap(
        lambda shape: st.lists(
            items, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))
        ).map(lambda data: fill(shape, data))
    )


ARRAYS = st.one_of(_grids(FLOATS), _grids(st.integers(-(2**63), 2**63 - 1)), _grids(NUMBERS))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8))
DOCUMENTS = st.recursive(
    st.one_of(ARRAYS, SCALARS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
Writer = Callable[[Any], str]


def _spaced(gap: str, mark: Callable[[Any], str]) -> Writer:
    def write(value: Any) -> str:
        if isinstance(value, dict):
            items = (f"{json.dumps(key)}:{gap}{write(item)}" for key, item in value.items())
            return "{" + f"{gap},".join(items) + "}"
        if isinstance(value, list):
            return f"[{gap}" + f",{gap}".join(map(write, value)) + f"{gap}]"
        plain = isinstance(value, float) and np.isfinite(value)
        return mark(value) if plain else json.dumps(value)

    return write


def _dumps(**options: Any) -> Writer:
    return lambda value: json.dumps(value, **options)


def _printf(form: str) -> Callable[[Any], str]:
    return lambda number: form % number


WRITERS: list[Writer] = [
    json.dumps,
    _dumps(ensure_ascii=False, separators=(",", ":")),
    *(_dumps(indent=indent) for indent in range(5)),
    lambda value: json.dumps(value, indent=2).replace("\n", "\r\n") + "\r\n",
    *(
        _spaced(gap, _printf(form))
        for gap in ("", " ", "\n\t")
        for form in ("%.6f", "%.17g", "%.9e", "%.3G")
    ),
]


@LAW
@given(document=DOCUMENTS, writer=st.sampled_from(WRITERS))
@example(document={"a": [[[[1e16]]]]}, writer=WRITERS[0])
def test_whatever_a_program_writes_is_kept(document: Any, writer: Writer) -> None:
    data = writer(document).encode("utf-8", "surrogatepass")
    try:
        split(data)
    except FormatError:
        return


@LAW
@given(
    array=st.one_of(_grids(FLOATS), _grids(st.integers(-(2**63), 2**63 - 1))),
    index=st.integers(0, 7),
)
def test_regular_lists_become_tensors(array: Any, index: int) -> None:
    found = split(WRITERS[index]({"x": array}).encode())["x"]
    assert found.data == np.array(array).astype("<i8" if found.dtype == "I64" else "<f8").tobytes()
    assert found.shape == np.array(array).shape


@LAW
@given(text=st.text('[]{}:,"\\ \n01-.eEaN', max_size=60))
def test_no_text_is_lost(text: str) -> None:
    try:
        split(text.encode())
    except FormatError:
        return


# --- speed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["floats", "thin", "mixed", "open"])
def test_time_grows_with_the_size_alone(kind: str) -> None:
    rng = np.random.default_rng(3)
    text = {
        "floats": lambda: json.dumps({"w": rng.normal(size=(100, 1000)).tolist()}, indent=1),
        "thin": lambda: json.dumps({"w": rng.integers(0, 9, (300_000, 1)).tolist()}),
        "mixed": lambda: json.dumps({"w": [*rng.integers(0, 9, (300_000, 1)).tolist(), "x"]}),
        "open": lambda: '["x"' + ", [[1], 2]" * 200_000 + ", " + "[" * 199,
    }[kind]()
    began = time.process_time()
    try:
        split(text.encode())
    except FormatError:
        assert kind in ("mixed", "open")
    assert time.process_time() - began < 10
