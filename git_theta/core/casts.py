"""Numbers of one dtype as numbers of another, bit for bit the same on every machine.

Floats go through float32, rounding to nearest, ties to even, in each of at most two steps; only
float64 -> float32 -> float64 is not asked for. Every NaN becomes the one quiet NaN of the target,
because processors disagree on payloads; widening bf16 keeps them, being a shift of bits. Integers
are extended or cut off as two's complement.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from git_theta.core.dtypes import DTYPES, FLOAT, SIGNED, UNSIGNED

Bytes = npt.NDArray[np.uint8]

_BLOCK = 256 << 10
_NAN = {
    "F64": 0x7FF8 << 48,
    "F32": 0x7FC00000,
    "F16": 0x7E00,
    "BF16": 0x7FC0,
    "F8_E4M3": 0x7F,
    "F8_E5M2": 0x7E,
    "F8_E4M3FNUZ": 0x80,
    "F8_E5M2FNUZ": 0x80,
}
_WHOLE = (SIGNED, UNSIGNED)


def castable(old: str, new: str) -> bool:
    """Whether numbers of one dtype can be turned into another."""
    if old == new or old not in DTYPES or new not in DTYPES:
        return False
    if old in _NAN and new in _NAN:
        return True
    return DTYPES[old].kind in _WHOLE and DTYPES[new].kind in _WHOLE


def width(dtype: str) -> int:
    """The bytes of one number."""
    return DTYPES[dtype].bits // 8


def cast(data: Bytes, old: str, new: str, out: Bytes) -> None:
    """Fill `out` with the numbers of `data`, of which it holds exactly as many.

    The pair must be `castable`.
    """
    small, large = _BLOCK * width(old), _BLOCK * width(new)
    for index in range(-(-len(data) // small)):
        part = data[index * small : (index + 1) * small]
        target = out[index * large : (index + 1) * large]
        if DTYPES[new].kind == FLOAT:
            _cast_floats(part, old, new, target)
        else:
            np.copyto(target.view(_integers(new)), part.view(_integers(old)), casting="unsafe")


def _cast_floats(data: Bytes, old: str, new: str, out: Bytes) -> None:
    if old == "F64" and new != "F32":
        single = np.empty(len(data) // 2, np.uint8)
        _round(data.view("<f8"), "F32", single)
        data, old = single, "F32"
    if old == "BF16":
        wide = out.view("<u4") if new == "F32" else np.empty(len(data) // 2, np.uint32)
        np.copyto(wide, data.view("<u2"))
        np.left_shift(wide, 16, out=wide)
        if new != "F32":
            _from_single(wide, new, out)
    elif old == "F32":
        _from_single(data.view("<u4"), new, out)
    elif old == "F64" or new == "F32":
        _round(data.view(_floats(old)), new, out)
    else:
        wide = np.empty(len(data) // width(old), np.uint32)
        _round(data.view(_floats(old)), "F32", wide.view(np.uint8))
        _from_single(wide, new, out)


def _from_single(words: npt.NDArray[np.uint32], new: str, out: Bytes) -> None:
    if new != "BF16":
        _round(words.view("<f4"), new, out)
        return
    half = np.right_shift(words, 16)
    half &= 1
    half += 0x7FFF
    half += words  # cannot wrap but for NaNs, which are written over
    np.right_shift(half, 16, out=half)
    target = out.view("<u2")
    np.copyto(target, half, casting="unsafe")
    _one_nan(words.view("<f4"), "BF16", out)


def _round(values: npt.NDArray[Any], new: str, out: Bytes) -> None:
    with np.errstate(all="ignore"):
        np.copyto(out.view(_floats(new)), values, casting="unsafe")
    _one_nan(values, new, out)


def _one_nan(values: npt.NDArray[Any], new: str, out: Bytes) -> None:
    with np.errstate(all="ignore"):
        strange = np.isnan(values)
    if strange.any():
        size = width(new)
        out.view(f"<u{size}")[strange] = _NAN[new]


@cache
def _integers(dtype: str) -> Any:
    return np.dtype(f"<{DTYPES[dtype].kind[0]}{width(dtype)}")


@cache
def _floats(dtype: str) -> Any:
    plain = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
    if dtype in plain:
        return np.dtype(plain[dtype])
    import ml_dtypes  # only for the fp8 kinds: not worth its import time otherwise

    names = {
        "F8_E4M3": "float8_e4m3fn",
        "F8_E5M2": "float8_e5m2",
        "F8_E4M3FNUZ": "float8_e4m3fnuz",
        "F8_E5M2FNUZ": "float8_e5m2fnuz",
    }
    return np.dtype(getattr(ml_dtypes, names[dtype]))
