"""JSON checkpoints with other tensors: what is new is found again, and what is not is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from git_theta_json import JsonFormat
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from git_theta.core.layout import SplitTensor, TensorSpec
from git_theta.errors import FormatError
from git_theta.testing import BytesReader

FORMAT = JsonFormat()
LAW = settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))


def tensor(name: str, array: Any) -> SplitTensor:
    data = np.asarray(array)
    dtype = "I64" if data.dtype.kind == "i" else "F64"
    return SplitTensor(name=name, dtype=dtype, shape=data.shape, data=data.tobytes())


def relaid(text: bytes, tensors: list[SplitTensor]) -> bytes:
    """The text with these tensors, which are proven to be found in it again."""
    skeleton, _ = FORMAT.split(BytesReader(text))
    specs = [TensorSpec(name=t.name, dtype=t.dtype, shape=t.shape) for t in tensors]
    joined = b"".join(FORMAT.join(FORMAT.relayout(skeleton, specs), iter(tensors)))
    json.loads(joined)
    found = FORMAT.split(BytesReader(joined))[1]
    assert {t.name: t for t in found} == {t.name: t for t in tensors}
    return joined


DOC = {"s": "x", "a": {"w": [[0.5, 1.5]], "b": [1]}, "l": [[1, 2], None], "n": 1.5}


@pytest.mark.parametrize("options", [{}, {"indent": 2}, {"separators": (",", ":")}])
def test_changes_look_like_the_file(options: dict[str, Any]) -> None:
    new = {"s": "x", "a": {"w": [[0.5], [1.5]], "v": [[2.5, 3.0]]}, "l": [None, None], "n": 1.5}
    new["c"] = {"d": {"e": [1, 2]}}
    tensors = [
        tensor("c.d.e", [1, 2]),
        tensor("a.w", [[0.5], [1.5]]),
        tensor("a.v", [[2.5, 3.0]]),
    ]
    made = relaid(json.dumps(DOC, **options).encode(), tensors)
    assert made.decode() == json.dumps(new, **options)


@pytest.mark.parametrize("name", ["s", "s.t", "n", "a", "l", "l.0.1", "l.1", "l.7", "a.w.x"])
def test_what_collides_is_refused(name: str) -> None:
    text = json.dumps(DOC).encode()
    kept = list(FORMAT.split(BytesReader(text))[1])
    with pytest.raises(FormatError):
        relaid(text, [*kept, tensor(name, [1])])


def test_new_values_are_never_rounded() -> None:
    assert relaid(b'{"a": [0.50, 1.25]}', [tensor("a", [1 / 3])]) == b'{"a": [0.3333333333333333]}'
    assert relaid(b'{"a": [0.5, 1]}', [tensor("a", [1.0, 2.0])]) == b'{"a": [1.0, 2.0]}'


NAMES = st.lists(st.sampled_from(["a", "b", "c", "\u00e9", "0"]), min_size=1, max_size=3)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
ARRAYS = st.tuples(
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.one_of(
        st.lists(FLOATS, min_size=1, max_size=9),
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=9),
    ),
).map(
    lambda drawn: np.resize(
        np.array(drawn[1], np.float64 if isinstance(drawn[1][0], float) else np.int64),
        drawn[0],
    )
)
DOCUMENTS = st.recursive(
    st.one_of(ARRAYS.map(np.ndarray.tolist), st.none(), st.text(max_size=3), FLOATS),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(["a", "b", "c", "\u00e9", "a.b"]), inner, max_size=4),
        st.lists(inner, max_size=3),
    ),
    max_leaves=10,
)


def others(value: Any, path: tuple[str, ...], names: set[str]) -> dict[tuple[str, ...], Any]:
    """The values that are no tensors, by their place."""
    if not isinstance(value, dict | list) or ".".join(path) in names:
        return {} if ".".join(path) in names or value is None else {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found: dict[tuple[str, ...], Any] = {}
    for key, item in items:
        found |= others(item, (*path, str(key)), names)
    return found


def spelled(value: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The name of every place."""
    yield ".".join(path)
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from spelled(item, (*path, str(key)))


@LAW
@given(
    document=st.dictionaries(st.sampled_from("abcd"), DOCUMENTS, max_size=4),
    options=st.sampled_from([{}, {"indent": 1}, {"indent": 0}, {"separators": (",", ":")}]),
    data=st.data(),
)
def test_whatever_is_laid_out_anew(document: Any, options: Any, data: st.DataObject) -> None:
    places = list(spelled(document))
    assume(len(set(places)) == len(places))  # where two are spelled alike, nobody can name one
    text = json.dumps(document | {"t": [0.5]}, **options).encode()
    old = {t.name: t for t in FORMAT.split(BytesReader(text))[1]}
    new = {}
    for name, kept in old.items():
        what = data.draw(st.sampled_from(["keep", "remove", "change"]))
        if what != "remove":
            new[name] = kept if what == "keep" else tensor(name, data.draw(ARRAYS))
    for parts in data.draw(st.lists(NAMES, max_size=3)):
        name = ".".join(parts)
        new.setdefault(name, tensor(name, data.draw(ARRAYS)))
    assume(new)
    tensors = data.draw(st.permutations(list(new.values())))
    try:
        made = relaid(text, tensors)
    except FormatError:
        assert not set(new) <= set(old)
        return
    before = others(json.loads(text), (), set(old))
    assert others(json.loads(made), (), set(new)) == before
