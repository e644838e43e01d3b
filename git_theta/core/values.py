"""Numbers out of bytes and back: float64 in between, rounded once."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from git_theta.core.chain import Bytes

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# Those that a weight can be computed in; packed types and scales that are exponents are not.
_FLOATS: dict[str, Any] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
_INTEGERS = {
    f"{letter.upper()}{8 * width}": np.dtype(f"<{letter}{width}")
    for letter in "iu"
    for width in (1, 2, 4, 8)
}


_OTHERS: dict[str, Any] = {
    "BOOL": np.dtype(np.bool_),
    "C64": np.dtype("<c8"),
    "C128": np.dtype("<c16"),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
}


def array_dtype(dtype: str) -> np.dtype[Any] | None:
    """What numpy calls a dtype; None where it has none: packed and quantized types."""
    return _FLOATS.get(dtype) or _INTEGERS.get(dtype) or _OTHERS.get(dtype)


def is_float(dtype: str) -> bool:
    """Whether numbers of this dtype can be computed with here."""
    return dtype in _FLOATS


def is_integer(dtype: str) -> bool:
    """Whether this is a dtype of whole numbers."""
    return dtype in _INTEGERS


def to_float(data: Bytes | bytes, dtype: str) -> Doubles:
    """Bytes of a float dtype as float64, which holds each of them exactly."""
    found: Doubles = np.frombuffer(data, _FLOATS[dtype]).astype(np.float64)
    return found


def to_integer(data: Bytes | bytes, dtype: str) -> Integers:
    """Bytes of a dtype of whole numbers as int64; those of 2^63 and above come out negative."""
    found: Integers = np.frombuffer(data, _INTEGERS[dtype]).astype(np.int64)
    return found


def from_float(values: Doubles, dtype: str) -> Bytes:
    """Round once to a float dtype, ties to even; too large ones become infinite or NaN."""
    kind = _FLOATS[dtype]
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype in ("F64", "F32", "F16"):
            rounded = values.astype(kind)
        else:
            rounded = _to_odd(values).astype(kind)
    found: Bytes = np.ascontiguousarray(rounded).reshape(-1).view(np.uint8)
    return found


def _to_odd(values: Doubles) -> npt.NDArray[np.float32]:
    """Float32 numbers that round on to any shorter type as the float64 ones would.

    ml_dtypes goes by way of float32, and two roundings to nearest are not one; a first one to the
    neighbour with the odd last bit leaves the second its ties and its sides.
    """
    near = values.astype(np.float32)
    back = near.astype(np.float64)
    bits = near.view(np.uint32)
    off = (back != values) & (bits & 1 == 0) & ~np.isnan(values)
    step = np.where(np.abs(back) > np.abs(values), -1, 1).astype(np.int64)
    moved = np.where(off, bits.astype(np.int64) + step, bits.astype(np.int64))
    found: npt.NDArray[np.float32] = moved.astype(np.uint32).view(np.float32)
    return found
