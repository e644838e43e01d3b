"""The dtypes of checkpoints, by the names that the safetensors format gives them.

Only sizes and word widths matter to storage; arithmetic is elsewhere. Sub-byte types count bits,
so sizes come from `nbytes`, never from shape times itemsize.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Dtype(NamedTuple):
    """One element type: its width in bits, and the width in bytes of the words it is made of."""

    bits: int
    word: int
    kind: str


FLOAT, SIGNED, UNSIGNED, BOOL, COMPLEX, OTHER = "float", "int", "uint", "bool", "complex", "other"

DTYPES: dict[str, Dtype] = {
    "BOOL": Dtype(8, 1, BOOL),
    "U8": Dtype(8, 1, UNSIGNED),
    "I8": Dtype(8, 1, SIGNED),
    "U16": Dtype(16, 2, UNSIGNED),
    "I16": Dtype(16, 2, SIGNED),
    "U32": Dtype(32, 4, UNSIGNED),
    "I32": Dtype(32, 4, SIGNED),
    "U64": Dtype(64, 8, UNSIGNED),
    "I64": Dtype(64, 8, SIGNED),
    "F16": Dtype(16, 2, FLOAT),
    "BF16": Dtype(16, 2, FLOAT),
    "F32": Dtype(32, 4, FLOAT),
    "F64": Dtype(64, 8, FLOAT),
    "C32": Dtype(32, 2, COMPLEX),
    "C64": Dtype(64, 4, COMPLEX),
    "C128": Dtype(128, 8, COMPLEX),
    "F8_E4M3": Dtype(8, 1, FLOAT),
    "F8_E5M2": Dtype(8, 1, FLOAT),
    "F8_E8M0": Dtype(8, 1, FLOAT),
    "F8_E4M3FNUZ": Dtype(8, 1, FLOAT),
    "F8_E5M2FNUZ": Dtype(8, 1, FLOAT),
    "F6_E2M3": Dtype(6, 1, FLOAT),
    "F6_E3M2": Dtype(6, 1, FLOAT),
    "F4": Dtype(4, 1, FLOAT),
    "QINT8": Dtype(8, 1, OTHER),
    "QUINT8": Dtype(8, 1, OTHER),
    "QINT32": Dtype(32, 4, OTHER),
    "QUINT4X2": Dtype(4, 1, OTHER),
    "QUINT2X4": Dtype(2, 1, OTHER),
}


def nbytes(dtype: str, shape: tuple[int, ...]) -> int | None:
    """Bytes of a contiguous tensor, or None when the dtype is unknown or does not fill bytes."""
    known = DTYPES.get(dtype)
    if known is None:
        return None
    bits = math.prod(shape) * known.bits
    return None if bits % 8 else bits // 8


def word(dtype: str) -> int:
    """The width in bytes of the words that a dtype's planes are cut from; 1 where unknown."""
    known = DTYPES.get(dtype)
    return 1 if known is None else known.word
