"""Chunks and their bases, to try updates on."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from git_theta.core.chain import Bytes, Slice
from git_theta.core.dtypes import DTYPES
from git_theta.core.planes import WORDS, grain

Version = tuple[Slice, Bytes]

KINDS = ("same", "few", "some", "near", "scaled", "product", "other", "wild")


def versions() -> st.SearchStrategy[Version]:
    """Chunks of any dtype, size and place in their tensor, each with a base of the same length.

    They differ in every way that updates are made for, and in others; bits that are no ordinary
    numbers are strewn in.
    """
    return st.builds(
        version,
        st.sampled_from([*DTYPES, ""]),
        st.sampled_from(KINDS),
        rows=st.sampled_from([0, 1, 2, 17, 80]),
        columns=st.sampled_from([0, 1, 3, 64, 90]),
        start=st.integers(0, 1000),
        cut_off=st.integers(0, 9),
        seed=st.integers(0, 1 << 20),
    )


def version(  # noqa: PLR0913
    dtype: str,
    kind: str,
    *,
    rows: int = 80,
    columns: int = 90,
    start: int = 0,
    cut_off: int = 0,
    seed: int = 0,
) -> Version:
    """One chunk and its base; `kind` says how they differ, `cut_off` the bytes it is short of."""
    rng = np.random.default_rng(seed)
    cut = grain(dtype)
    word, count = cut.word or 1, rows * max(columns, 1)
    base = _numbers(rng, "" if kind == "wild" else dtype, rng.normal(size=count * word) * 0.1)
    base = base[: count * word]
    if seed % 3 == 0:
        _strew(rng, base.view(WORDS[word]))
    new = _changed(rng, dtype, base, kind, max(columns, 1))
    size = max(0, len(base) - cut_off)
    part = Slice(data=_frozen(new[:size]), cut=cut, dtype=dtype, columns=columns, start=start)
    return part, _frozen(base[:size])


def _numbers(rng: np.random.Generator, dtype: str, values: npt.NDArray[np.float64]) -> Bytes:
    """Numbers as bytes of a dtype; random bytes where it has no floats of its own."""
    with np.errstate(all="ignore"):
        if dtype in ("F64", "F32", "F16"):
            return values.astype(f"<f{DTYPES[dtype].word}").view(np.uint8)
        if dtype == "BF16":
            return (values.astype("<f4").view("<u4") >> 16).astype("<u2").view(np.uint8)
    random: Bytes = rng.integers(0, 256, len(values) * (grain(dtype).word or 1), np.uint8)
    return random


def _strew(rng: np.random.Generator, words: npt.NDArray[np.unsignedinteger]) -> None:
    """Words that stand for NaNs, infinities, zeros of either sign, or the smallest numbers."""
    top = 1 << (8 * words.itemsize - 1)
    odd = np.array([0, 1, 2, top, top + 1, top - 1, 2 * top - 1, top // 2, top - top // 128], "u8")
    if len(words):
        at = rng.integers(0, len(words), 1 + len(words) // 20)
        words[at] = rng.choice(odd, len(at)).astype(words.dtype)


def _changed(rng: np.random.Generator, dtype: str, base: Bytes, kind: str, columns: int) -> Bytes:
    """The bytes of a later version of a base."""
    words: npt.NDArray[Any] = base.copy().view(WORDS[grain(dtype).word or 1])
    if kind in ("few", "some"):
        at = rng.random(len(words)) < (0.01 if kind == "few" else 0.4)
        words[at] += rng.integers(1, 100, int(at.sum())).astype(words.dtype)
    elif kind in ("near", "wild"):
        words += rng.integers(0, 9, len(words)).astype(words.dtype)
    elif kind == "other":
        words = rng.integers(0, 256, len(base), np.uint8)
    elif kind in ("scaled", "product") and dtype in ("F64", "F32", "F16", "BF16"):
        return _modelled(rng, dtype, base, kind, columns)
    return words.view(np.uint8)


def _modelled(rng: np.random.Generator, dtype: str, base: Bytes, kind: str, columns: int) -> Bytes:
    """A matrix whose rows were scaled, or to which a product was added."""
    if dtype == "BF16":
        values = (base.view("<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
    else:
        values = base.view(f"<f{DTYPES[dtype].word}").astype(np.float64)
    matrix = values.reshape(-1, columns)
    with np.errstate(all="ignore"):
        if kind == "scaled":
            matrix = matrix * rng.normal(1, 0.1, (len(matrix), 1)).astype("<f4")
        else:
            matrix = matrix + rng.normal(size=(len(matrix), 2)) @ rng.normal(size=(2, columns))
    return _numbers(rng, dtype, matrix.ravel())


def _frozen(data: Bytes) -> Bytes:
    data = data.copy()
    data.flags.writeable = False
    return data
