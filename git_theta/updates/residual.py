"""What is left of a chunk where something close to it is known: differences of the raw words.

A difference is taken modulo 2^n between the bits of two numbers, so it is exact for any dtype and
any bits (a float difference is not), and folded so that small ones of either sign become small
numbers. Differences are stored in one of three ways: all of them in byte planes; or, where many
words are the same, only the changed ones, with their places as gaps or as a bitmap.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from git_theta.core import loops, planes
from git_theta.core.chain import Bytes
from git_theta.core.loops import Words, fold
from git_theta.core.payload import expand, squeeze
from git_theta.core.planes import BLOCK, WORDS
from git_theta.errors import CorruptError

PLANES, GAPS, BITMAP = "planes", "gaps", "bitmap"

_GAPS_BELOW = 0.12
_GAPS_AT_MOST = 0.25
_SPARSE_BELOW = 0.9
_LEAST = 16
_FEW = 256
_NEARLY_NOTHING = 1 / 256

Extra = dict[str, Any]


class _Scratch(threading.local):
    """Work arrays of one thread: fresh memory costs more than the work done in it."""

    def __init__(self) -> None:
        self.values = np.empty(BLOCK * 8, np.uint8)
        self.gaps = np.empty(BLOCK, "<u4")
        self.bits = np.empty(BLOCK // 8, np.uint8)
        self.compressor = zstandard.ZstdCompressor(level=1)
        self.decompressor = zstandard.ZstdDecompressor()


_scratch = _Scratch()


def whole_words(data: Bytes, word: int) -> Words:
    """The bytes as unsigned words, less the up to `word` - 1 bytes that are left over."""
    words: Words = data[: len(data) - len(data) % word].view(WORDS[word])
    return words


def bits(new: Words, near: Words) -> float:
    """About how many bits a word the differences of a few words take."""
    folded = fold(new, near, np.empty_like(new))
    changed = folded[folded != 0]
    share = len(changed) / len(folded)
    if not share:
        return _NEARLY_NOTHING
    size = share * float(np.log2(changed.astype(np.float64)).mean() + 1)
    return _entropy(share) + size


def _entropy(share: float) -> float:
    if not 0 < share < 1:
        return 0.0
    return -share * math.log2(share) - (1 - share) * math.log2(1 - share)


class Sample:
    """Folded differences of up to 64 Ki words from all over a chunk, and what they foretell."""

    def __init__(self, new: Bytes, reference: Bytes, word: int) -> None:
        self.total = len(new) // word
        sample = planes.sampled(new, word).view(WORDS[word])
        self.folded = fold(sample, planes.sampled(reference, word).view(WORDS[word]), sample)
        self.changed = np.flatnonzero(self.folded != 0)  # of booleans it is found ten times as fast
        self._coded: list[bytes] | None = None

    @property
    def density(self) -> float:
        """The share of the words that changed."""
        return len(self.changed) / len(self.folded) if len(self.folded) else 0.0

    def noise(self) -> frozenset[int]:
        """The planes that no coder would shorten."""
        return planes.noise(self.sizes(), len(self.folded))

    def coded(self) -> list[bytes]:
        """The planes of the sample as frames."""
        if self._coded is None:
            self._coded = planes.encode_words(self.folded)
        return self._coded

    def sizes(self) -> list[int]:
        """The coded size of each plane of the sample."""
        return [len(frame) for frame in self.coded()]

    def planes(self) -> float:
        """About how many bytes all differences take in planes."""
        if not self.total:
            return 0.0
        return sum(self.sizes()) * (self.total / len(self.folded))

    @cached_property
    def sparse(self) -> float | None:
        """About how many bytes the changed words and their places take; None for too many."""
        if self.density > _SPARSE_BELOW:
            return None
        if not len(self.changed):
            return _LEAST + self.total * 1e-5
        values = sum(planes.plane_sizes(self.folded[self.changed])) / len(self.changed)
        places = sum(planes.plane_sizes(_gaps(self.changed))) / len(self.changed)
        if len(self.folded) < self.total:
            places = min(places, _entropy(self.density) / self.density / 8)
        return self.density * self.total * (values + places)


class _Last(threading.local):
    """The sample that a thread drew last: several updates ask about the same chunk and base."""

    def __init__(self) -> None:
        self.of: tuple[Bytes, Bytes, int] | None = None
        self.sample: Sample | None = None


_last = _Last()


def sample_of(new: Bytes, reference: Bytes, word: int) -> Sample:
    """The sample of a chunk and its base, drawn once for all updates that ask in turn.

    It is known again by the very arrays; whoever fills one anew makes another view of it.
    """
    last = _last.of
    if (
        _last.sample is None
        or last is None
        or not (last[0] is new and last[1] is reference and last[2] == word)
    ):
        _last.sample = Sample(new, reference, word)
        _last.of = new, reference, word
    return _last.sample


def encode(new: Bytes, reference: Bytes, word: int) -> tuple[Extra, list[bytes]]:
    """The differences, in the way that looks the smallest by a sample."""
    sample = Sample(new, reference, word)
    sparse = sample.sparse
    if sparse is not None and sparse < sample.planes():
        return encode_sparse(new, reference, word, sample)
    return {}, encode_planes(new, reference, word, sample)


def encode_planes(new: Bytes, reference: Bytes, word: int, sample: Sample) -> list[bytes]:
    """All differences in byte planes, block by block; then the bytes that are left over."""
    if len(sample.folded) == sample.total:  # a small chunk is a sample of itself
        return [*sample.coded(), *_tail(new, word)] if sample.total else _tail(new, word)
    raw = sample.noise() if sample.total >= BLOCK else frozenset()
    words, others = whole_words(new, word), whole_words(reference, word)
    frames: list[bytes] = []
    for start in range(0, len(words), BLOCK):
        part, other = words[start : start + BLOCK], others[start : start + BLOCK]
        frames += planes.encode_words(part, raw, other)
    return frames + _tail(new, word)


def encode_sparse(
    new: Bytes, reference: Bytes, word: int, sample: Sample
) -> tuple[Extra, list[bytes]]:
    """Only the words that changed, and their places."""
    if sample.density < _GAPS_BELOW:
        encoded = _encode_gaps(new, reference, word)
        if encoded is not None:
            return encoded
    return {"m": BITMAP}, _encode_bitmap(new, reference, word)


def _encode_gaps(new: Bytes, reference: Bytes, word: int) -> tuple[Extra, list[bytes]] | None:
    """Gaps between the changed words, or None where there turn out to be too many of those."""
    words, others = whole_words(new, word), whole_words(reference, word)
    gaps, values = [np.zeros(0, "<u4")], [np.zeros(0, words.dtype)]
    count = gap = 0
    for start in range(0, len(words), BLOCK):
        part, other = words[start : start + BLOCK], others[start : start + BLOCK]
        room = _scratch.values[: part.nbytes].view(part.dtype)
        found, gap = loops.seek(part, other, _scratch.gaps, room, gap)
        gaps.append(_scratch.gaps[:found].copy())
        values.append(room[:found].copy())
        count += found
        if count > _GAPS_AT_MOST * len(words) and count > _FEW:
            return None
    frames: list[bytes] = []
    before, changes = np.concatenate(gaps), np.concatenate(values)
    for start in range(0, count, BLOCK):
        frames += planes.encode_words(before[start : start + BLOCK])
        frames += planes.encode_words(changes[start : start + BLOCK])
    return {"m": GAPS, "n": count}, frames + _tail(new, word)


def _gaps(places: npt.NDArray[np.int64]) -> Words:
    """How many unchanged words lie before each place."""
    return (np.diff(places, prepend=-1) - 1).astype("<u4")


def _encode_bitmap(new: Bytes, reference: Bytes, word: int) -> list[bytes]:
    words, others = whole_words(new, word), whole_words(reference, word)
    frames: list[bytes] = []
    for start in range(0, len(words), BLOCK):
        part, other = words[start : start + BLOCK], others[start : start + BLOCK]
        values, bits = _scratch.values[: part.nbytes].view(part.dtype), _bits(len(part))
        found = loops.gather(part, other, bits, values)
        frames.append(bytes(squeeze(bits.data, _scratch.compressor)))
        frames += planes.encode_words(values[:found])
    return frames + _tail(new, word)


def _bits(count: int) -> Bytes:
    """Room for a bit for each of some words."""
    return _scratch.bits[: -(-count // 8)]


def _tail(new: Bytes, word: int) -> list[bytes]:
    rest = len(new) % word
    return [new[-rest:].tobytes()] if rest else []


def refuse_unknown(extra: Mapping[str, Any], known: str = "") -> None:
    """Refuse a header that says more than one-letter keys known here, as a later release might.

    Raises:
        CorruptError: it does.
    """
    more = set(map(str, extra)) - set(known) - {"m", "n"}
    if more:
        raise CorruptError(f"a stored record has parameters not known here: {', '.join(more)}")


def decode(
    extra: Mapping[str, Any], frames: Iterator[memoryview], reference: Bytes, out: Bytes, word: int
) -> None:
    """Fill `out` from a reference and the frames that `encode` made; both may be one array.

    Raises:
        CorruptError: the frames do not hold what they should.
    """
    if word not in WORDS or len(reference) != len(out):
        raise CorruptError("a stored record does not fit its base")
    mode = extra.get("m", PLANES)
    words, others = whole_words(out, word), whole_words(reference, word)
    if mode == PLANES:
        _decode_planes(frames, others, words)
    elif mode == BITMAP:
        _decode_bitmap(frames, others, words)
    elif mode == GAPS:
        if out is not reference:
            np.copyto(out, reference)
        _decode_gaps(frames, words, extra.get("n"))
    else:
        raise CorruptError(f"a stored record has differences of an unknown kind: {mode!r}")
    rest = len(out) % word
    if rest:
        out[-rest:] = np.frombuffer(expand(_next(frames), rest, _scratch.decompressor), np.uint8)
    if next(frames, None) is not None:
        raise CorruptError("a stored record has a frame too many")


def _decode_planes(frames: Iterator[memoryview], reference: Words, out: Words) -> None:
    for start in range(0, len(out), BLOCK):
        part = out[start : start + BLOCK]
        planes.decode_words(frames, part, reference[start : start + BLOCK])


def _decode_gaps(frames: Iterator[memoryview], out: Words, count: object) -> None:
    if type(count) is not int or not 0 <= count <= len(out):
        raise CorruptError("a stored record has an impossible number of changed words")
    at = 0
    for start in range(0, count, BLOCK):
        gaps = _scratch.gaps[: min(BLOCK, count - start)]
        planes.decode_words(frames, gaps)
        values = _values(frames, len(gaps), out.dtype)
        try:
            at = loops.scatter(gaps, values, out, at)
        except ValueError as error:
            raise CorruptError("a stored record changes words beyond its end") from error


def _decode_bitmap(frames: Iterator[memoryview], reference: Words, out: Words) -> None:
    for start in range(0, len(out), BLOCK):
        part, other = out[start : start + BLOCK], reference[start : start + BLOCK]
        packed = expand(_next(frames), -(-len(part) // 8), _scratch.decompressor)
        bits = np.frombuffer(packed, np.uint8)
        changed = int(np.count_nonzero(np.unpackbits(bits, count=len(part))))
        loops.spread(bits, _values(frames, changed, part.dtype), other, part)


def _values(frames: Iterator[memoryview], count: int, dtype: np.dtype[Any]) -> Words:
    """The next folded differences, until others are asked for."""
    folded: Words = _scratch.values[: count * dtype.itemsize].view(dtype)
    planes.decode_words(frames, folded)
    return folded


def _next(frames: Iterator[memoryview]) -> memoryview:
    frame = next(frames, None)
    if frame is None:
        raise CorruptError("a stored record lacks a frame")
    return frame
