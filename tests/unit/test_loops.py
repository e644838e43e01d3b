"""The loops in C and in numpy: each undoes itself, and both give the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.core import loops
from git_theta.core.dtypes import DTYPES
from git_theta.core.loops import Words
from git_theta.core.planes import BLOCK, WORDS
from git_theta.core.sketch import summarize, summarize_rows
from git_theta.updates import factors, rounding
from git_theta.updates.low_rank import _Model
from git_theta.updates.matrix import Matrix

COMPILED = loops.compiled
needs_compiled = pytest.mark.skipif(COMPILED is None, reason="no C compiler built the loops")
WIDTHS = sorted(WORDS)


@contextmanager
def way(compiled: bool) -> Iterator[None]:
    """The loops in C, or in numpy."""
    before, loops.compiled = loops.compiled, COMPILED if compiled else None
    try:
        yield
    finally:
        loops.compiled = before


def ways() -> list[bool]:
    return [False] if COMPILED is None else [False, True]


def both(work: Callable[[], Any]) -> Any:
    """What both ways make, which must be the same."""
    results = []
    for compiled in ways():
        with way(compiled):
            results.append(work())
    assert all(repr(result) == repr(results[0]) for result in results)
    return results[0]


def versions(word: int, count: int, share: float, seed: int = 3) -> tuple[Words, Words]:
    """Words of all kinds of bits, and the same with a share of them changed."""
    rng = np.random.default_rng([seed, word, count])
    old = rng.integers(0, 256, count * word, np.uint8).view(WORDS[word])
    new = old.copy()
    new[rng.random(count) < share] += 3
    few = rng.integers(0, 256, count * word, np.uint8).view(WORDS[word])
    return np.where(rng.random(count) < share / 8, few, new).astype(WORDS[word]), old


def split(new: Words, turn: int = 0, old: Words | None = None) -> list[list[int]]:
    room = np.full(new.nbytes, 99, np.uint8)
    return [plane.tolist() for plane in loops.split(new, room, turn=turn, old=old)]


@given(st.data())
def test_planes_are_the_bytes_of_turned_words(data: st.DataObject):
    word, turn = data.draw(st.sampled_from(WIDTHS)), data.draw(st.integers(0, 7))
    values = data.draw(st.lists(st.integers(0, 256**word - 1), max_size=20))
    words, bits = np.array(values, WORDS[word]), 8 * word
    turned = [(v << turn | v >> (bits - turn)) % (1 << bits) for v in values]
    planes = both(lambda: split(words, turn))
    assert planes == [[v >> 8 * i & 255 for v in turned] for i in range(word)]
    assert both(partial(joined, [bytes(plane) for plane in planes], words, turn)) == words.tobytes()


@given(st.data())
def test_differences_are_folded_and_added_again(data: st.DataObject):
    word = data.draw(st.sampled_from(WIDTHS))
    words = st.lists(st.integers(0, 256**word - 1), min_size=5, max_size=5)
    new, old = (np.array(data.draw(words), WORDS[word]) for _ in range(2))
    planes = [bytes(plane) for plane in both(lambda: split(new, old=old))]
    assert both(partial(joined, planes, new, 0, old)) == new.tobytes()


def test_small_differences_become_small_numbers():
    old = np.array([0, 0, 0, 0, 255, 7], np.uint8)
    new = np.array([0, 255, 1, 254, 0, 7 + 128], np.uint8)
    assert both(lambda: split(new, old=old)) == [[0, 1, 2, 3, 2, 255]]


@pytest.mark.parametrize("word", WIDTHS)
def test_planes_of_whole_blocks(word: int):
    new, old = versions(word, BLOCK, 0.4)
    for turn in (0, 1, 3):
        planes = both(partial(cut, new, turn))
        assert both(partial(joined, planes, new, turn)) == new.tobytes()
    small = new & new.dtype.type(255)
    lowest = cut(small, 0)[:1]
    assert both(partial(joined, lowest, new)) == small.tobytes()
    assert both(partial(joined, lowest, new, 0, old)) == both(
        partial(joined, cut(small, 0), new, 0, old)
    )


def cut(words: Words, turn: int) -> list[bytes]:
    planes = loops.split(words, np.empty(words.nbytes, np.uint8), turn=turn)
    return [plane.tobytes() for plane in planes]


def joined(planes: list[bytes], like: Words, turn: int = 0, old: Words | None = None) -> bytes:
    out = np.empty_like(like) if old is None else old.copy()
    rooms = [np.frombuffer(plane, np.uint8) for plane in planes]
    loops.join(rooms, out, turn=turn, old=None if old is None else out)
    return out.tobytes()


SHARES = [0.0, 0.001, 0.01, 0.05, 0.09, 0.12, 0.2, 0.5, 1.0]
SIZES = [0, 1, 5, 8, 1000, 2048, 70_001, BLOCK]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("word", WIDTHS)
def test_changed_words_are_gathered_and_spread(word: int, share: float):
    for count in SIZES:
        new, old = versions(word, count, share)

        def there(new: Words = new, old: Words = old, count: int = count) -> tuple[Any, ...]:
            bits, values = np.zeros(-(-count // 8), np.uint8), np.empty_like(new)
            found = loops.gather(new, old, bits, values)
            out = old.copy()
            kept = values[:found].tobytes()
            loops.spread(bits, values[:found], out, out)
            assert np.array_equal(out, new)
            return found, bits.tobytes(), kept

        found, bits, _ = both(there)
        assert found == np.count_nonzero(new != old)
        assert bits == np.packbits(new != old).tobytes()


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("word", WIDTHS)
def test_changed_words_are_sought_and_scattered(word: int, share: float):
    for count in SIZES:
        new, old = versions(word, count, share)

        def there(new: Words = new, old: Words = old, count: int = count) -> tuple[Any, ...]:
            gaps, values = np.empty(count, "<u4"), np.empty_like(new)
            half = count // 2
            first, gap = loops.seek(new[:half], old[:half], gaps, values, 0)
            more, last = loops.seek(new[half:], old[half:], gaps[first:], values[first:], gap)
            kept = gaps[: first + more].tobytes(), values[: first + more].tobytes()
            out = old.copy()
            at = loops.scatter(gaps[:first], values[:first], out, 0)
            at = loops.scatter(gaps[first:][:more], values[first:][:more], out, at)
            assert np.array_equal(out, new)
            assert at + last == count
            return first, more, at, last, kept

        both(there)


def test_places_that_are_none_are_refused():
    words = np.zeros(10, np.uint16)
    values = np.ones(2, np.uint16)
    for compiled in ways():
        with way(compiled):
            with pytest.raises(ValueError, match="beyond the end"):
                loops.scatter(np.array([3, 6], "<u4"), values.copy(), words.copy(), 0)
            with pytest.raises(ValueError, match="beyond the end"):
                loops.scatter(np.array([3, 2**32 - 1], "<u4"), values.copy(), words.copy(), 0)
            assert loops.scatter(np.array([3, 5], "<u4"), values.copy(), words.copy(), 0) == 10
            with pytest.raises(ValueError, match="more or fewer values"):
                loops.spread(np.array([255, 0], np.uint8), values.copy(), words, words.copy())
            with pytest.raises(ValueError, match="wrong length"):
                loops.join([np.zeros(9, np.uint8)], words.copy())


def test_bits_behind_the_last_word_are_none_of_its():
    old, out = np.zeros(3, np.uint8), np.zeros(3, np.uint8)
    for compiled in ways():
        with way(compiled):
            loops.spread(np.array([0b00111111], np.uint8), np.array([2], np.uint8), old, out)
            assert out.tolist() == [0, 0, 1]


def test_words_need_not_lie_together():
    new, old = versions(4, 3000, 0.5)
    planes = both(lambda: split(new[::3], old=old[::3]))
    assert planes == split(new[::3].copy(), old=old[::3].copy())
    given = [np.array(plane, np.uint8) for plane in planes]
    for compiled in ways():
        with way(compiled):
            out = np.zeros(3000, new.dtype)
            loops.join(given, out[::3], old=old[::3])
            assert np.array_equal(out[::3], new[::3])
            left, right = np.ones((2, 3), "<f4", order="F"), np.ones((3, 5), "<f4", order="F")
            words, result = np.zeros(10, "<u4"), np.zeros(10, "<u4")
            if loops.plus_product((left, right), words, result, mantissa=23, skip=0):
                assert (result.view("<f4") == 3).all()


@pytest.mark.parametrize("skip", [0, 5])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
def test_numbers_plus_a_product_have_the_same_bits(dtype: str, skip: int):
    kind = rounding.FLOATS[dtype]
    rng = np.random.default_rng(11)
    rows, columns = 60, 1300
    count = rows * columns - skip - 7
    words = rng.integers(0, 256, count * kind.word, np.uint8).view(WORDS[kind.word])
    words[: count // 4] = special(kind)[rng.integers(0, 12, count // 4)]
    matrix = Matrix(columns, skip, count)
    for rank, bits, power in ((1, 7, -3), (3, 9, -30), (8, 10, -12), (13, 9, 25), (6, 20, 0)):
        lines = [rng.standard_normal((size, rank)) for size in (rows, columns)]
        thin = [factors.quantised(line * 2.0**power, bits) for line in lines]
        model = _Model(matrix, kind, thin[0], thin[1])
        small = rng.random(count) < 0.5  # where the product is not all that counts
        words[small] = words[small] & words.dtype.type((1 << kind.mantissa) - 1) | near(kind, power)

        def total(model: _Model = model) -> bytes:
            out = words.copy()
            model.predict(out.view(np.uint8), out.view(np.uint8))
            return bytes(out.tobytes())

        both(total)


def near(kind: rounding.Float, power: int) -> Any:
    """The exponent of numbers about as large as products of factors of this power of two."""
    bias = 15 if kind.mantissa == 10 else 1023 if kind.word == 8 else 127
    exponent = min(max(bias + 2 * power, 1), 2 * bias)
    return np.dtype(WORDS[kind.word]).type(exponent << kind.mantissa)


def special(kind: rounding.Float) -> Words:
    """Zeros, the least and the largest numbers, infinities and NaNs, of both signs."""
    bits, least = 8 * kind.word, 1 << kind.mantissa
    infinite = (1 << (bits - 1)) - least
    found = [0, 1, least - 1, least, infinite - 1, infinite]
    return np.array(found + [each | 1 << (bits - 1) for each in found], WORDS[kind.word])


def signs(start: int) -> loops.Signs:
    """Some stream of signs, from a place on."""
    bits = np.random.default_rng(7).integers(0, 2, 2 * loops.MOST).astype(np.uint8)
    packed = np.packbits(bits, bitorder="little")
    values = (1 - 2.0 * bits).astype(np.float32)
    return loops.Signs(values, np.append(packed, np.zeros(8, np.uint8)), start)


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("count", [1, 2, 31, 32, 64, 511, 512, 513, 1024, 4097, loops.MOST])
def test_rows_are_summed_up(count: int, narrow: bool):
    rng = np.random.default_rng(count)
    rows = rng.standard_normal((1 if count > 5000 else 3, count)).astype("<f4") * 3
    rows[0, rng.integers(count)] = -0.0
    wide = rows.view("<u4") & 0xFFFF0000 if narrow else rows.view("<u4")
    exact = wide.view("<f4").astype(np.float64)
    given = (wide >> 16).astype("<u2") if narrow else rows
    for start in (0, 2, 62, 64, 191, loops.MOST - 2):
        stream = signs(start)

        def found(given: Any = given, stream: loops.Signs = stream) -> tuple[bytes, bytes]:
            numbers, bins = np.empty((len(given), 4)), np.empty((len(given), 64), np.float32)
            loops.totals(given, numbers, bins, stream)
            alone = np.empty_like(numbers)
            loops.totals(given, alone)
            assert alone.tobytes() == numbers.tobytes()
            numbers[:, 2:] += 0.0
            return numbers.tobytes(), bins.tobytes()

        numbers, bins = both(found)
        square, total, low, high = np.frombuffer(numbers).reshape(-1, 4).T
        assert square == pytest.approx((exact**2).sum(axis=1), rel=1e-6)
        assert total == pytest.approx(exact.sum(axis=1), rel=1e-5, abs=1e-3)
        assert low.tolist() == exact.min(axis=1).tolist()
        assert high.tolist() == exact.max(axis=1).tolist()
        turned = np.zeros((len(exact), -(-count // 64) * 64))
        turned[:, :count] = exact * stream.values[start : start + count]
        expected = turned.reshape(len(exact), -1, 64).sum(axis=1)
        assert np.frombuffer(bins, "<f4") == pytest.approx(expected.ravel(), rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@given(data=st.data())
def test_anything_has_one_summary(dtype: str, data: st.DataObject):
    word = DTYPES[dtype].word
    few = data.draw(st.lists(st.integers(0, 256**word - 1), min_size=1, max_size=9))
    count, seed = data.draw(st.integers(1, 3000)), data.draw(st.integers(0, 99))
    values = np.random.default_rng(seed).choice(few, count).astype(WORDS[word])
    plain = values.view(np.uint8)
    packed = both(lambda: [one and one.pack() for one in [summarize(plain, dtype)]])
    assert packed == both(
        lambda: [one and one.pack() for one in summarize_rows(plain[np.newaxis], dtype)]
    )


@needs_compiled
def test_buffers_that_do_not_fit_each_other_are_refused():
    assert COMPILED is not None
    small, words = np.zeros(7, np.uint8), np.zeros(8, np.uint16)
    gaps = np.zeros(8, "<u4")
    for name, arguments in {
        "split": (words, None, small, 2, 0),
        "join": ([small], None, words, 2, 0),
        "gather": (words, words, small[:0], words.copy(), 2),
        "spread": (small, words, words, words.copy(), 2),
        "seek": (words, words, gaps[:7], words.copy(), 2, 0),
        "scatter": (gaps[:7], words, words.copy(), 2, 0),
        "plus_product": (words.view("<f4"), words.view("<f4"), words, words.copy(), 7, 4, 3, 0),
    }.items():
        with pytest.raises(ValueError, match=r"do not fit|wrong length"):
            getattr(COMPILED, name)(*arguments)
        with pytest.raises(TypeError):
            getattr(COMPILED, name)()
    values, room, numbers = np.zeros(100, "<f4"), np.zeros(2816, np.uint8), np.zeros((1, 4))
    bins, bits = np.zeros(64, "<f4"), np.zeros(80, np.uint8)
    good = (values, 4, 100, room, numbers, bins, bits, 64)
    COMPILED.totals(*good)
    for index, wrong in (
        (1, 8),
        (2, 0),
        (2, 99),
        (2, loops.MOST + 1),
        (3, room[:-4]),
        (3, np.zeros(2820, np.uint8)[1:]),
        (4, numbers[:, :3].copy()),
        (5, bins[1:]),
        (6, bits[:-8]),
        (7, 65),
        (7, -1),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            COMPILED.totals(*(wrong if i == index else each for i, each in enumerate(good)))
    with pytest.raises((BufferError, ValueError)):
        COMPILED.split(words, None, bytes(16), 2, 0)
    with pytest.raises(ValueError, match="do not fit"):
        COMPILED.split(words, None, np.zeros(16, np.uint8), 3, 0)


@needs_compiled
def test_all_is_written_in_pieces(tmp_path: Path):
    assert COMPILED is not None
    data = bytes(range(256)) * 10
    with (tmp_path / "file").open("w+b", buffering=0) as file:
        for piece in (1, 7, 1000, 10_000):
            COMPILED.write(file.fileno(), data, -1, piece)
            COMPILED.write(file.fileno(), memoryview(data)[:9], 20_000 + piece, piece)
        assert file.tell() == 4 * len(data)
        file.seek(0)
        assert file.read(4 * len(data)) == 4 * data
        assert os.pread(file.fileno(), 9, 20_007) == data[:9]
        with pytest.raises(ValueError, match="at least a byte"):
            COMPILED.write(file.fileno(), data, -1, 0)
    with Path("/dev/full").open("wb") as full, pytest.raises(OSError, match="No space"):
        COMPILED.write(full.fileno(), data, -1, 100)
    with pytest.raises(OSError, match="Bad file"):
        COMPILED.write(-1, data, -1, 100)


@needs_compiled
def test_a_signal_does_not_end_a_write_but_its_handler_may():
    program = """
import os, signal, threading, time
from git_theta.core.compiled import LOOPS
reader, writer = os.pipe()
seen = []
signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
def drain():
    time.sleep(0.3)
    left = 5_000_000
    while left:
        left -= len(os.read(reader, left))
thread = threading.Thread(target=drain)
thread.start()
LOOPS.write(writer, bytes(5_000_000), -1, 32768)
thread.join()
assert seen
def stop(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, stop)
try:
    LOOPS.write(writer, bytes(5_000_000), -1, 32768)
except KeyboardInterrupt:
    print("stopped")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "stopped\n", done.stderr
