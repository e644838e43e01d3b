"""Adapters: what their names, shapes and configurations mean, and what is refused."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from git_theta.commands.tensors import gathered
from git_theta.core.adapters import LowRank, read_bare, read_peft, targets
from git_theta.core.fitting import Material, lay, why_not_editable
from git_theta.core.layout import Layout, Segment, TensorView
from git_theta.core.peft import read_config
from git_theta.core.values import is_float, is_integer
from git_theta.errors import FormatError, RefusedError

A, B = "lora_A.weight", "lora_B.weight"


def view(name: str, *shape: int, dtype: str = "F32") -> TensorView:
    return TensorView(name=name, dtype=dtype, shape=shape, segment=0)


def tensors(*views: TensorView) -> dict[str, TensorView]:
    return {one.name: one for one in views}


def pair(module: str, rank: int = 4) -> dict[str, TensorView]:
    module = f"base_model.model.{module}"
    return tensors(view(f"{module}.{A}", rank, 6), view(f"{module}.{B}", 5, rank))


def no_scalar(_name: str) -> None:
    return None


def model(**shapes: tuple[int, ...]) -> Layout:
    """A layout of float32 tensors, each with bytes of its own; `__` in a name stands for a dot."""
    segments, views, at = [], [], 0
    for index, (name, shape) in enumerate(shapes.items()):
        size = 4 * math.prod(shape)
        segments.append(Segment(offset=at, size=size))
        views.append(
            TensorView(name=name.replace("__", "."), dtype="F32", shape=shape, segment=index)
        )
        at += size
    return Layout(segments=tuple(segments), tensors=tuple(views))


class NoUpdate:
    """Stands for the updates where nothing is computed."""


def material(views: dict[str, TensorView], numbers: Any = 0.5) -> Material:
    return Material(
        tensors=views,
        floats=lambda name: np.full(views[name].shape, numbers),
        integers=lambda name: np.zeros(math.prod(views[name].shape), np.int64),
        low_rank=NoUpdate,  # type: ignore[arg-type]
        ia3=NoUpdate,  # type: ignore[arg-type]
    )


def test_scales():
    config: dict[str, Any] = {"r": 4, "lora_alpha": 6}
    (change,) = read_peft(config, pair("x.q")).changes
    assert change == LowRank("x.q", f"base_model.model.x.q.{A}", f"base_model.model.x.q.{B}", 1.5)
    (change,) = read_peft(config | {"use_rslora": True}, pair("x.q")).changes
    assert isinstance(change, LowRank)
    assert change.scale == 3


@pytest.mark.parametrize(
    ("pattern", "module", "fits"),
    [
        ("q", "x.q", True),
        ("q", "xq", False),
        ("x.q", "y.x.q", True),
        ("^x.q", "x.q", True),
        ("^x.q", "y.x.q", False),
        (r"layers\.\d+\.q", "m.layers.12.q", True),
        (r".*\.(q|v)", "a.b.v", True),
        (r"layers\.[0-3]\.q", "layers.5.q", False),
    ],
)
def test_patterns(pattern: str, module: str, fits: bool):
    config = {"r": 8, "lora_alpha": 8, "rank_pattern": {pattern: 4}, "alpha_pattern": {pattern: 2}}
    if fits:
        (change,) = read_peft(config, pair(module)).changes
        assert isinstance(change, LowRank)
        assert change.scale == 0.5
    else:
        with pytest.raises(RefusedError, match="rank 4, but the configuration says 8"):
            read_peft(config, pair(module))


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+", "(a|a)*b", "(?=x)", r"\1", "a{9999}", ".*.*.*x", "a?a?a?a", "(a|a)(a|a)(a|a)"],
)
def test_patterns_that_could_run_for_ever(pattern: str):
    with pytest.raises(RefusedError, match="too involved"):
        read_peft({"r": 4, "rank_pattern": {pattern: 4}}, pair("a"))


@pytest.mark.parametrize(
    "config",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"bias": "lora_only"},
        {"modules_to_save": ["classifier"]},
        {"lora_bias": True},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "pissa_niter_4"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "loftq"},
        {"init_lora_weights": ["odd"]},
        {"layer_replication": [[0, 4]]},
        {"trainable_token_indices": [1]},
        {"target_parameters": ["experts"]},
        {"peft_type": "ADALORA"},
        {"peft_type": "VERA"},
        {"peft_type": "LOHA"},
        {"peft_type": None},
        {"peft_type": {"a": 1}},
    ],
    ids=str,
)
def test_variants_that_mean_something_else(config: dict[str, Any]):
    with pytest.raises(RefusedError) as caught:
        read_peft({"r": 4, **config}, pair("x"))
    ((key, value),) = config.items()
    assert key in str(caught.value)
    assert str(value).upper()[:10] in str(caught.value).upper()


@pytest.mark.parametrize(
    "config",
    [
        {"r": "8"},
        {"r": 0},
        {"r": True},
        {"r": 1 << 40},
        {"lora_alpha": "x"},
        {"lora_alpha": 10**400},
        {"lora_alpha": True},
        {"rank_pattern": ["x"]},
        {"rank_pattern": {"(": 3}},
        {"rank_pattern": {"x": "3"}},
        {"alpha_pattern": {"x": []}},
        {"use_rslora": "yes"},
        {"fan_in_fan_out": []},
    ],
    ids=lambda config: str(config)[:40],
)
def test_damaged_configurations(config: dict[str, Any]):
    with pytest.raises(FormatError, match=r"adapter_config.json"):
        read_peft({"r": 4, **config}, pair("x"))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"r": NaN}', '{"r": Infinity}', "[" * 100_000, "\ud800"]
)
def test_texts_that_are_no_configuration(text: str):
    with pytest.raises(FormatError, match=r"adapter_config.json"):
        read_config(text.encode(errors="surrogatepass"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(
    ["r", "lora_alpha", "rank_pattern", "alpha_pattern", "peft_type", "bias", "use_rslora",
     "use_dora", "modules_to_save", "fan_in_fan_out", "init_lora_weights", "feedforward_modules"]
)  # fmt: skip
names = st.one_of(
    st.text(max_size=12),
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["", "base_model.model.", "a.b"]),
        st.text(max_size=5),
        st.sampled_from([f".{A}", f".{B}", ".A", ".B", "/R", "/C", ".ia3_l", ".lora_embedding_A",
                         ".lora_A.default.weight", ".indices", ".values", ".alpha"]),
    ),
)  # fmt: skip
shapes = st.lists(st.integers(0, 9), max_size=4).map(tuple)
dtypes = st.sampled_from(["F32", "BF16", "I64", "F4", "BOOL", "NEW_KIND"])
anything = st.dictionaries(names, st.tuples(shapes, dtypes), max_size=6).map(
    lambda found: {n: view(n, *shape, dtype=dtype) for n, (shape, dtype) in found.items()}
)


@given(st.dictionaries(keys, json_values, max_size=6), anything, st.lists(names, max_size=4))
@settings(max_examples=150)
def test_whatever_comes_is_read_or_refused(
    config: dict[str, Any], views: dict[str, TensorView], modules: list[str]
):
    try:
        config = read_config(json.dumps(config).encode())
    except FormatError:
        config = {}
    layout = model(**dict.fromkeys(modules, (5, 6)))
    with suppress(FormatError, RefusedError):
        lay(read_peft(config, views), layout, material(views))
    with suppress(FormatError, RefusedError):
        lay(read_bare(views, no_scalar), layout, material(views))


def test_bare_names():
    views = tensors(view("x.weight.A", 2, 6), view("x.weight.B", 5, 2))
    adapter = read_bare(views, no_scalar)
    assert targets(adapter, ["x.weight"]) == {"x.weight": adapter.changes[0]}
    assert adapter.kind == "low-rank"
    sparse = tensors(view("x/indices", 3, dtype="I64"), view("x/values", 3))
    assert read_bare(sparse, no_scalar).kind == "sparse"
    with pytest.raises(RefusedError, match="factors and entries"):
        read_bare(views | sparse, no_scalar)
    with pytest.raises(RefusedError, match="not one number"):
        read_bare(views | tensors(view("x.weight.alpha", 3)), no_scalar)


@pytest.mark.parametrize(
    ("modules", "model_", "found"),
    [
        (["a.q"], ["a.q.weight"], ["a.q.weight"]),
        (["a.q"], ["bert.a.q.weight", "bert.b.q.weight"], ["bert.a.q.weight"]),
        (["bert.a.q"], ["a.q.weight"], ["a.q.weight"]),
        (["q"], ["q.weight", "x.q.weight"], ["q.weight"]),
    ],
)
def test_names_are_matched(modules: list[str], model_: list[str], found: list[str]):
    views = {name: one for module in modules for name, one in pair(module).items()}
    assert list(targets(read_peft({"r": 4}, views), model_)) == found


def test_names_that_do_not_fit_are_listed():
    views = pair("a.q") | pair("b.q")
    with pytest.raises(RefusedError, match=r"1 of 2 modules are not in the model:\n  b.q"):
        targets(read_peft({"r": 4}, views), ["a.q.weight"])
    with pytest.raises(RefusedError, match="more than one way"):
        targets(read_peft({"r": 4}, pair("q")), ["x.q.weight", "y.q.weight"])
    bare = tensors(
        view("q.A", 2, 6), view("q.B", 5, 2), view("q.weight.A", 2, 6), view("q.weight.B", 5, 2)
    )
    with pytest.raises(RefusedError, match="for one tensor"):
        targets(read_bare(bare, no_scalar), ["q.weight"])
    with pytest.raises(RefusedError, match="twice"):
        read_peft({"r": 4}, pair("q") | tensors(view("q.lora_A.weight", 4, 6)))
    several = tensors(view("q.lora_A.one.weight", 4, 6), view("q.lora_B.two.weight", 5, 4))
    with pytest.raises(RefusedError, match="several adapters"):
        read_peft({"r": 4}, several)


def test_tensors_that_cannot_be_written():
    layout = Layout(
        segments=(Segment(offset=0, size=96), Segment(offset=96, size=24)),
        tensors=(
            TensorView(name="one", dtype="F32", shape=(4, 6), segment=0),
            TensorView(name="two", dtype="F32", shape=(6, 4), segment=0),
            TensorView(name="turned", dtype="F32", shape=(2, 3), segment=1, strides=(1, 2)),
        ),
    )
    told = why_not_editable(layout)
    assert told["one"] == told["two"] == "shares its bytes with another tensor"
    assert told["turned"] == "is a view of other bytes"


def test_factors_of_no_rank():
    views = tensors(view("q.A", 0, 6), view("q.B", 5, 0))
    with pytest.raises(RefusedError, match=r"factors of \[0, 6\]"):
        read_bare(views, no_scalar)


def test_views_are_gathered_in_order_and_never_grow():
    data = np.arange(6, dtype="<f4").tobytes()
    turned = TensorView(name="t", dtype="F32", shape=(2, 3), segment=0, strides=(1, 2))
    assert np.array_equal(
        gathered(turned, data).view("<f4"), np.arange(6).reshape(3, 2).T.reshape(-1)
    )
    same = TensorView(name="t", dtype="F32", shape=(1 << 40, 9), segment=0, strides=(0, 0))
    with pytest.raises(FormatError, match="repeats its bytes"):
        gathered(same, data)
    long = TensorView(name="t", dtype="F32", shape=(2, 2), segment=0, strides=(5, 1))
    with pytest.raises(FormatError, match="cut short"):
        gathered(long, data)


def test_a_long_list_is_cut():
    views = {name: one for n in range(50) for name, one in pair(f"m{n}").items()}
    with pytest.raises(RefusedError, match="and 30 more"):
        targets(read_peft({"r": 4}, views), ["x.weight"])


def test_dtypes():
    assert is_float("BF16")
    assert not is_float("I64")
    assert is_integer("U8")
    assert not is_integer("BOOL")
