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

from git_theta.core import planes
from git_theta.core.chain import Bytes
from git_theta.core.payload import expand, squeeze
from git_theta.core.planes import BLOCK, WORDS, Words
from git_theta.errors import CorruptError

PLANES, GAPS, BITMAP = "planes", "gaps", "bitmap"

_GAPS_BELOW = 0.12
_GAPS_AT_MOST = 0.25
_SPARSE_BELOW = 0.9
_TILE = 64 << 10
_LEAST = 16
_FEW = 256
_JUMPS_BELOW = 0.03
_NEARLY_NOTHING = 1 / 256

Extra = dict[str, Any]
Places = npt.NDArray[np.int64]


class _Scratch(threading.local):
    """Work arrays of one thread: fresh memory costs more than the work done in it."""

    def __init__(self) -> None:
        self.folded = np.empty(BLOCK * 8, np.uint8)
        self.spare = np.empty(_TILE * 8, np.uint8)
        self.places = np.empty(_TILE, np.int64)
        self.tile = np.empty(_TILE * 8, np.uint8)
        self.changed = np.empty(BLOCK + BLOCK // 8, np.bool_)
        self.compressor = zstandard.ZstdCompressor(level=1)
        self.decompressor = zstandard.ZstdDecompressor()


_scratch = _Scratch()


def whole_words(data: Bytes, word: int) -> Words:
    """The bytes as unsigned words, less the up to `word` - 1 bytes that are left over."""
    words: Words = data[: len(data) - len(data) % word].view(WORDS[word])
    return words


def fold(new: Words, reference: Words, out: Words) -> Words:
    """Differences modulo 2^n, folded: 0, -1, 1, -2, ... become 0, 1, 2, 3, ..."""
    for start in range(0, len(out), _TILE):
        part = out[start : start + _TILE]
        np.subtract(new[start : start + _TILE], reference[start : start + _TILE], out=part)
        _fold(part)
    return out


def _fold(part: Words) -> None:
    """Fold up to `_TILE` differences where they are."""
    signed = np.dtype(f"<i{part.dtype.itemsize}")
    sign = _scratch.spare[: part.nbytes].view(part.dtype)
    np.right_shift(part.view(signed), 8 * part.dtype.itemsize - 1, out=sign.view(signed))
    np.left_shift(part, 1, out=part)
    np.bitwise_xor(part, sign, out=part)


def unfold(folded: Words, reference: Words, out: Words) -> None:
    """Undo `fold`; `folded` is used up, `out` may be `reference`."""
    for start in range(0, len(out), _TILE):
        part = folded[start : start + _TILE]
        _unfold(part)
        np.add(part, reference[start : start + _TILE], out=out[start : start + _TILE])


def _unfold(part: Words) -> None:
    """Undo `_fold`."""
    sign = _scratch.spare[: part.nbytes].view(part.dtype)
    np.bitwise_and(part, 1, out=sign)
    np.negative(sign, out=sign)
    np.right_shift(part, 1, out=part)
    np.bitwise_xor(part, sign, out=part)


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
        places = sum(planes.plane_sizes(_gaps(self.changed, -1))) / len(self.changed)
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
        part = words[start : start + BLOCK]
        folded = _scratch.folded[: part.nbytes].view(part.dtype)
        frames += planes.encode_words(fold(part, others[start : start + BLOCK], folded), raw)
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
    places, count = [np.zeros(0, np.int64)], 0
    for start in range(0, len(words), BLOCK):
        changed = _changed(words[start : start + BLOCK], others[start : start + BLOCK])
        found = _places(changed)
        places.append(found + start)
        count += len(found)
        if count > _GAPS_AT_MOST * len(words) and count > _FEW:
            return None
    frames: list[bytes] = []
    at, before = np.concatenate(places), -1
    for start in range(0, len(at), BLOCK):
        part = at[start : start + BLOCK]
        values = words[part]
        frames += planes.encode_words(_gaps(part, before))
        frames += planes.encode_words(fold(values, others[part], values))
        before = int(part[-1])
    return {"m": GAPS, "n": count}, frames + _tail(new, word)


def _places(changed: npt.NDArray[np.bool_]) -> Places:
    """Where the words that `_changed` found are.

    Where numpy is to find a few in a hundred it jumps from one to the next, which takes longer
    than to look at them all. It does that where there are more, so more are put behind the end.
    """
    size, count = len(changed), np.count_nonzero(changed)
    if not _JUMPS_BELOW * size < count <= size // 8:
        return np.flatnonzero(changed)
    more = _scratch.changed[: size + size // 8]
    more[size:] = True
    return np.flatnonzero(more)[:count]


def _gaps(places: Places, before: int) -> Words:
    """How many unchanged words lie before each place."""
    gaps = np.diff(places, prepend=before)
    gaps -= 1
    return gaps.astype("<u4")


def _encode_bitmap(new: Bytes, reference: Bytes, word: int) -> list[bytes]:
    words, others = whole_words(new, word), whole_words(reference, word)
    frames: list[bytes] = []
    for start in range(0, len(words), BLOCK):
        part, other = words[start : start + BLOCK], others[start : start + BLOCK]
        changed = _scratch.changed[: len(part)]
        values = _gathered(part, other, changed)
        frames.append(bytes(squeeze(np.packbits(changed).data, _scratch.compressor)))
        frames += planes.encode_words(values)
    return frames + _tail(new, word)


def _gathered(new: Words, reference: Words, changed: npt.NDArray[np.bool_]) -> Words:
    """The folded differences of the words that changed; fills `changed` with which those are.

    It goes tile by tile, so that all of it is in cache.
    """
    found, count = _scratch.folded[: new.nbytes].view(new.dtype), 0
    for start in range(0, len(new), _TILE):
        tile = _scratch.tile[: new[start : start + _TILE].nbytes].view(new.dtype)
        np.subtract(new[start : start + _TILE], reference[start : start + _TILE], out=tile)
        where = np.not_equal(tile, 0, out=changed[start : start + _TILE])
        places = np.flatnonzero(where)
        values = found[count : count + len(places)]
        _fold(np.take(tile, places, mode="clip", out=values))
        count += len(places)
    return found[:count]


def _changed(new: Words, reference: Words) -> npt.NDArray[np.bool_]:
    return np.not_equal(new, reference, out=_scratch.changed[: len(new)])


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
        folded = _scratch.folded[: part.nbytes].view(part.dtype)
        planes.decode_words(frames, folded)
        unfold(folded, reference[start : start + BLOCK], part)


def _decode_gaps(frames: Iterator[memoryview], out: Words, count: object) -> None:
    if type(count) is not int or not 0 <= count <= len(out):
        raise CorruptError("a stored record has an impossible number of changed words")
    before = -1
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        gaps = planes.significant(frames, size, 4)
        changes = planes.significant(frames, size, out.itemsize)
        for low in range(0, size, _TILE):
            tile = slice(low, min(low + _TILE, size))
            places = _scratch.places[: tile.stop - low]
            planes.join([plane[tile] for plane in gaps], places)
            np.add(places, 1, out=places)
            places[0] += before
            np.cumsum(places, out=places)
            before = int(places[-1])
            if before >= len(out):
                raise CorruptError("a stored record changes words beyond its end")
            values = _scratch.tile[: len(places) * out.itemsize].view(out.dtype)
            planes.join([plane[tile] for plane in changes], values)
            _unfold(values)
            out[places] += values


def _decode_bitmap(frames: Iterator[memoryview], reference: Words, out: Words) -> None:
    for start in range(0, len(out), BLOCK):
        part, other = out[start : start + BLOCK], reference[start : start + BLOCK]
        packed = expand(_next(frames), -(-len(part) // 8), _scratch.decompressor)
        bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=len(part)).view(np.bool_)
        values = _values(frames, int(np.count_nonzero(bits)), part.dtype)
        at = 0
        for low in range(0, len(part), _TILE):
            places = np.flatnonzero(bits[low : low + _TILE])
            tile = _scratch.tile[: part[low : low + _TILE].nbytes].view(part.dtype)
            tile.fill(0)
            found = values[at : at + len(places)]
            _unfold(found)
            tile[places] = found
            np.add(tile, other[low : low + _TILE], out=part[low : low + _TILE])
            at += len(places)


def _values(frames: Iterator[memoryview], count: int, dtype: np.dtype[Any]) -> Words:
    """The next folded differences, until others are asked for."""
    folded: Words = _scratch.folded[: count * dtype.itemsize].view(dtype)
    planes.decode_words(frames, folded)
    return folded


def _next(frames: Iterator[memoryview]) -> memoryview:
    frame = next(frames, None)
    if frame is None:
        raise CorruptError("a stored record lacks a frame")
    return frame
