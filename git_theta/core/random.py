"""Random numbers that are a function of where they are used, not of what was drawn before.

Entry j of a tensor gets half of the 64-bit word j // 2 of the SplitMix64 sequence whose start is
a hash of seed, tensor and model (Steele, Lea and Flood, 2014). Everything is arithmetic on 64-bit
integers that wrap, so NumPy and torch agree to the bit on every device, for every slicing.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

Floats = npt.NDArray[np.float32]

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_WORD = 1 << 64
_TILE = 32 << 10


class _Scratch(threading.local):
    """Work arrays of one thread that fit in a cache, and the counters of a tile, multiplied out."""

    def __init__(self) -> None:
        self.counters = np.arange(_TILE, dtype=np.uint64) * np.uint64(_GOLDEN)
        self.words = np.empty(_TILE, np.uint64)
        self.high = np.empty(_TILE, np.uint64)


_scratch = _Scratch()


def _signed(word: int) -> int:
    word %= _WORD
    return word - _WORD if word >> 63 else word


def _mix(words: Any) -> Any:
    """The output function of SplitMix64, in place; shifts are made logical by a mask."""
    for shift, factor in ((30, _FIRST), (27, _SECOND), (31, 1)):
        high = words >> shift
        high &= (1 << (64 - shift)) - 1
        words ^= high
        if factor != 1:
            words *= _signed(factor)
    return words


def _mix_in_place(words: npt.NDArray[np.uint64]) -> None:
    """The same of unsigned words, with nothing made."""
    high = _scratch.high[: len(words)]
    for shift, factor in ((30, _FIRST), (27, _SECOND), (31, 1)):
        np.right_shift(words, np.uint64(shift), out=high)
        np.bitwise_xor(words, high, out=words)
        if factor != 1:
            np.multiply(words, np.uint64(factor), out=words)


@dataclass(frozen=True, slots=True)
class Source:
    """The numbers for one tensor of one model; `model` is any text that tells models apart."""

    seed: int
    name: str
    model: str

    @property
    def key(self) -> int:
        """Where the sequence starts."""
        parts = [str(self.seed).encode(), self.name.encode(), self.model.encode()]
        text = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
        return int.from_bytes(blake3(text).digest()[:8], "little")

    def _first(self, start: int) -> int:
        """The counter of the word that holds entry `start`, multiplied out."""
        return _signed(self.key + (start // 2 + 1) * _GOLDEN)

    def numpy(self, start: int, stop: int) -> Floats:
        """Numbers in [0, 1) for entries `start` to `stop`: multiples of 2**-24, as float32."""
        first, count = start // 2, (stop + 1) // 2 - start // 2
        drawn = np.empty(2 * count, np.float32)
        for low in range(0, count, _TILE):
            words = _scratch.words[: min(_TILE, count - low)]
            begin = (self.key + (first + low + 1) * _GOLDEN) % _WORD
            np.add(_scratch.counters[: len(words)], np.uint64(begin), out=words)
            _mix_in_place(words)
            halves = words.view(np.uint32)
            np.right_shift(halves, 8, out=halves)
            part = drawn[2 * low : 2 * (low + len(words))]
            np.copyto(part, halves.view(np.int32), casting="unsafe")  # signed ones turn faster
            np.multiply(part, np.float32(2.0**-24), out=part)
        return drawn[start % 2 : start % 2 + stop - start]

    def torch(self, start: int, stop: int, device: Any = "cpu") -> Any:
        """The same numbers as a torch tensor on a device."""
        import torch

        if str(device) == "cpu":
            return torch.from_numpy(self.numpy(start, stop))
        return self.on_device(start, stop, device)

    def on_device(self, start: int, stop: int, device: Any) -> Any:
        """The same numbers, drawn by torch where they are needed."""
        import torch

        count = (stop + 1) // 2 - start // 2
        words = torch.arange(count, dtype=torch.int64, device=device)
        words *= _signed(_GOLDEN)
        words += self._first(start)
        halves = _mix(words).view(torch.int32) >> 8
        halves &= 0xFFFFFF
        drawn = halves[start % 2 : start % 2 + stop - start].to(torch.float32)
        drawn *= 2.0**-24
        return drawn
