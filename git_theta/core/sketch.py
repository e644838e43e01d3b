"""Summaries of a chunk: a few statistics and a sketch from which distances are estimated.

A sketch is 64 sums of the chunk's values under signs that are the same everywhere. The difference
of two sketches is the sketch of the difference, and its norm estimates the distance to about
one part in ten. It is a hint for finding relatives and for reports, never a test of equality.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import msgpack
import numpy as np
import numpy.typing as npt

from git_theta.core import loops
from git_theta.core.dtypes import COMPLEX, DTYPES, SIGNED, UNSIGNED
from git_theta.core.loops import Floats, Signs, Wide, Words
from git_theta.core.payload import Buffer
from git_theta.errors import CorruptError

WIDTH = loops.LANES
BLOCK = loops.MOST
_SKETCHED_FROM = 1024
_TOGETHER = ("F32", "F16", "BF16")

Bytes = npt.NDArray[np.uint8]
Numbers: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Statistics of the finite values of one chunk.

    `norm` is the L2 norm. `sketch` has 64 float32 sums, or none for a small chunk.
    """

    dtype: str
    count: int
    norm: float
    mean: float
    low: float
    high: float
    nans: int
    infinities: int
    sketch: npt.NDArray[np.float32] | None

    def pack(self) -> bytes:
        """Write the summary; `unpack` reads it."""
        sketch = b"" if self.sketch is None else self.sketch.astype("<f4").tobytes()
        numbers = [self.norm, self.mean, self.low, self.high, self.nans, self.infinities]
        packed: bytes = msgpack.packb([1, self.dtype, self.count, *numbers, sketch])
        return packed

    def distance(self, other: Summary) -> float | None:
        """Estimate the L2 distance of two chunks, or None where that is not possible."""
        if self.sketch is None or other.sketch is None or self.count != other.count:
            return None
        with np.errstate(invalid="ignore"):  # sums may be infinite
            return float(np.linalg.norm(self.sketch.astype(np.float64) - other.sketch))


def unpack(data: Buffer) -> Summary:
    """Read a summary.

    Raises:
        CorruptError: the bytes are no summary.
    """
    try:
        version, dtype, count, norm, mean, low, high, nans, infinities, sketch = msgpack.unpackb(
            data
        )
        values = np.frombuffer(sketch, "<f4").copy() if sketch else None
        if version != 1 or (values is not None and len(values) != WIDTH):
            raise ValueError("of another version")
        return Summary(
            dtype=str(dtype),
            count=int(count),
            norm=float(norm),
            mean=float(mean),
            low=float(low),
            high=float(high),
            nans=int(nans),
            infinities=int(infinities),
            sketch=values,
        )
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise CorruptError(f"a summary is damaged: {error}") from error


def summarize(data: Bytes, dtype: str) -> Summary | None:
    """Summarise the bytes of a chunk, or return None for a dtype that has no numbers."""
    known = DTYPES.get(dtype)
    if known is None or known.bits % 8 or not len(data) or len(data) % (known.bits // 8):
        return None
    if not _has_numbers(dtype):
        return None
    return _total(data, dtype)


def summarize_rows(rows: Bytes, dtype: str) -> list[Summary | None]:
    """What `summarize` gives for each row of a contiguous table: small tensors that are alike.

    All that can be done to many rows at once is; what needs more care is done row by row.
    """
    word = DTYPES[dtype].word if dtype in _TOGETHER else 0
    count = rows.shape[1] // word if word else 0
    if not 0 < count < _SKETCHED_FROM or rows.shape[1] % word:
        return [summarize(row, dtype) for row in rows]
    numbers = np.empty((len(rows), 4))
    loops.totals(_plain(rows, dtype), numbers)
    return [
        Summary(
            dtype=dtype,
            count=count,
            norm=math.sqrt(square),
            mean=(0.0 + total) / count,
            low=0.0 + low,
            high=0.0 + high,
            nans=0,
            infinities=0,
            sketch=None,
        )
        if math.isfinite(square)
        else summarize(row, dtype)
        for row, (square, total, low, high) in zip(rows, numbers.tolist(), strict=True)
    ]


class _Sums:
    """Running totals over the blocks of a chunk."""

    def __init__(self) -> None:
        self.count = self.finite = self.nans = self.infinities = 0
        self.square = self.sum = 0.0
        self.low, self.high = math.inf, -math.inf
        self.bins = np.zeros(WIDTH, np.float64)

    def add(self, values: Floats | Words, signs: Signs | None) -> None:
        """Add one block: float32 values, or bf16 ones as words.

        Without signs nothing is added to the sketch.
        """
        numbers, bins = np.empty((1, 4)), np.empty((1, WIDTH), np.float32)
        loops.totals(values[np.newaxis], numbers, bins, signs)
        finite = len(values)
        self.count += finite
        if not math.isfinite(numbers[0, 0]):
            finite = self._exceptional(loops.single(values), numbers, bins, signs)
        square, total, low, high = numbers[0].tolist()
        self.finite += finite
        self.square += square
        self.sum += total
        if finite:  # and no zero with a sign, of which there may be both
            self.low = min(self.low, 0.0 + low)
            self.high = max(self.high, 0.0 + high)
        if signs is not None:
            with np.errstate(invalid="ignore"):
                self.bins += bins[0]

    def sketch(self) -> npt.NDArray[np.float32]:
        """The sums under signs; one that is no number has the same bits on every machine."""
        with np.errstate(over="ignore"):
            return np.where(np.isnan(self.bins), np.nan, self.bins).astype(np.float32)

    def _exceptional(self, values: Floats, numbers: Wide, bins: Floats, signs: Signs | None) -> int:
        """Count what is not finite, and put zeros in its place; but for a sketch, in float64."""
        good = np.isfinite(values)
        finite = int(np.count_nonzero(good))
        nans = int(np.count_nonzero(np.isnan(values)))
        self.nans += nans
        self.infinities += len(values) - finite - nans
        kept = np.where(good, values, np.float32(0))
        loops.totals(kept[np.newaxis], numbers, bins, signs)
        wide = kept.astype(np.float64)
        numbers[0, :2] = np.square(wide).sum(), wide.sum()
        if finite:
            numbers[0, 2:] = values[good].min(), values[good].max()
        return finite


def _total(data: Bytes, dtype: str) -> Summary:
    """Run over blocks of values, each in cache while it is looked at."""
    known, sums = DTYPES[dtype], _Sums()
    size = known.bits // 8 // (2 if known.kind == COMPLEX else 1)
    sketched = len(data) // size >= _SKETCHED_FROM
    for index, start in enumerate(range(0, len(data), BLOCK * size)):
        block = data[start : start + BLOCK * size]
        sums.add(_plain(block, dtype), _signs(index) if sketched else None)
    return Summary(
        dtype=dtype,
        count=sums.count,
        norm=math.sqrt(sums.square),
        mean=sums.sum / sums.finite if sums.finite else 0.0,
        low=sums.low if sums.finite else 0.0,
        high=sums.high if sums.finite else 0.0,
        nans=sums.nans,
        infinities=sums.infinities,
        sketch=sums.sketch() if sketched else None,
    )


def _plain(data: Bytes, dtype: str) -> Floats | Words:
    """Values as float32; bf16 ones as they are, in words."""
    return data.view("<u2") if dtype == "BF16" else _floats(data, dtype)


def floats(data: Bytes, dtype: str) -> Floats | None:
    """Values as float32, for statistics; None for a dtype that has no numbers."""
    return loops.single(_plain(data, dtype)) if dtype in DTYPES and _has_numbers(dtype) else None


def _floats(block: Bytes, dtype: str) -> Floats:
    known = DTYPES[dtype]
    if known.kind == COMPLEX:
        parts: Any = f"<f{known.word}"
    else:
        parts = _numpy_type(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        values: Floats = block.view(parts).astype(np.float32, copy=False)
    return values


def numbers(data: Bytes, dtype: str, *, wide: bool = False) -> Numbers:
    """The values in some bytes as float32, or as float64 where `wide` is true."""
    target: Any = np.float64 if wide else np.float32
    if dtype == "BF16":
        return loops.single(data.view("<u2")).astype(target, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        values: Numbers = data.view(_numpy_type(dtype)).astype(target, copy=False)
    return values


_PLAIN = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "BOOL": "u1"}
_OTHER_FLOATS = {
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}


def _has_numbers(dtype: str) -> bool:
    """Whether a dtype of the table has numbers that can be read."""
    known = DTYPES[dtype].kind in (COMPLEX, SIGNED, UNSIGNED)
    return known or dtype in _PLAIN or dtype in _OTHER_FLOATS


@cache
def _numpy_type(dtype: str) -> Any:
    if dtype in _PLAIN:
        return np.dtype(_PLAIN[dtype])
    known = DTYPES[dtype]
    if known.kind in (SIGNED, UNSIGNED):
        return np.dtype(f"<{known.kind[0]}{known.bits // 8}")
    import ml_dtypes  # only for the fp8 kinds: not worth its import time

    return np.dtype(getattr(ml_dtypes, _OTHER_FLOATS[dtype]))


@cache
def _stream() -> Signs:
    """Signs from SHAKE-128, the same on every machine and in every release."""
    stream = hashlib.shake_128(b"git-theta sketch 1").digest(2 * BLOCK // 8)
    bits = np.unpackbits(np.frombuffer(stream, np.uint8))
    signs = np.where(bits, -1.0, 1.0).astype(np.float32)
    packed = np.packbits(bits, bitorder="little")
    return Signs(signs, np.concatenate([packed, np.zeros(8, np.uint8)]), 0)


@cache
def _signs(block: int) -> Signs:
    """The signs of a block: they begin at an even place in the stream that its number decides."""
    seed = hashlib.shake_128(b"git-theta block %d" % block).digest(4)
    return _stream()._replace(start=int.from_bytes(seed, "little") % BLOCK & ~1)
