"""A layout that could not be rebuilt, or would read out of bounds, cannot be made."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.core.layout import Layout, Segment, TensorView, check_view
from git_theta.errors import FormatError


def layout(*views: TensorView, segments: tuple[tuple[int, int], ...] = ((0, 16),)) -> Layout:
    return Layout(
        segments=tuple(Segment(offset=offset, size=size) for offset, size in segments),
        tensors=views,
    )


def view(
    shape: tuple[int, ...] = (4,),
    strides: tuple[int, ...] | None = None,
    offset: int = 0,
    dtype: str = "F32",
    segment: int = 0,
) -> TensorView:
    return TensorView(
        name="t", dtype=dtype, shape=shape, strides=strides, offset=offset, segment=segment
    )


@pytest.mark.parametrize("segments", [((4, 4), (0, 4)), ((0, 4), (3, 4)), ((0, -1),), ((-1, 4),)])
def test_segments_are_sorted_and_apart(segments: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(FormatError, match="overlap"):
        layout(segments=segments)


def test_names_are_unique_and_segments_exist() -> None:
    with pytest.raises(FormatError, match="same name"):
        layout(view(), view())
    with pytest.raises(FormatError, match="half a character"):
        Layout(
            segments=(Segment(offset=0, size=4),),
            tensors=(TensorView(name="a\ud800", dtype="F32", shape=(1,), segment=0),),
        )
    for segment in (-1, 1):
        with pytest.raises(FormatError, match="no byte range"):
            layout(view(segment=segment))


@pytest.mark.parametrize(
    "good",
    [
        view(), view((2, 2), (1, 2)), view((), None, 12), view((), (), 12), view((0,), (9,), 16),
        view((9, 0)), view((2**62, 4), (0, 1)), view((3,), (1,), 4), view((31,), dtype="F4"),
        view((3, 3), dtype="NEW"), view((0, 2**62)),
    ],
)  # fmt: skip
def test_what_fits(good: TensorView) -> None:
    assert layout(good).tensors == (good,)


@pytest.mark.parametrize(
    "bad",
    [
        view((5,)), view((2, 2), (1, 3)), view((), None, 13), view((4,), None, 1), view(offset=-4),
        view((0,), None, 17), view((-1,)), view((2,), (-1,)), view((2,), (2**64,)),
        view((2,), (1, 1)), view((1,) * 65), view((2**64,)), view((33,), dtype="F4"),
        view((1,), (1,), dtype="NEW"), view((1,), None, 1, dtype="NEW"), view((2**62, 2**62)),
    ],
)  # fmt: skip
def test_what_does_not_fit(bad: TensorView) -> None:
    with pytest.raises(FormatError, match="'t'"):
        layout(bad)


@given(
    dims=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=4),
    offset=st.integers(0, 12),
    size=st.integers(0, 64),
    dtype=st.sampled_from([("U8", 1), ("F16", 2), ("F64", 8)]),
)
def test_the_check_is_exactly_what_numpy_touches(
    dims: list[tuple[int, int]], offset: int, size: int, dtype: tuple[str, int]
) -> None:
    name, width = dtype
    shape, strides = tuple(d[0] for d in dims), tuple(d[1] for d in dims)
    starts = [offset + width * int(np.dot(at, strides)) for at in np.ndindex(*shape)]
    end = max((start + width for start in starts), default=offset)
    tensor = view(shape, strides, offset, name)
    if end <= size:
        check_view(tensor, size)
    else:
        with pytest.raises(FormatError):
            check_view(tensor, size)
