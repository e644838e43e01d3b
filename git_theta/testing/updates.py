"""The laws of updates."""

from __future__ import annotations

import contextlib
import math
import tracemalloc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.core.chain import Bytes, Encoded, Slice, Update, digest_of
from git_theta.core.payload import Header, pack, unpack
from git_theta.errors import CorruptError
from git_theta.testing.chunks import Version, versions
from git_theta.testing.formats import LAW, damaged

_HOSTILE: tuple[Any, ...] = (
    -1, 0, 1, 7, 1 << 20, 1 << 31, 1 << 62, 1.5, "x", b"", [], {}, None, True,
)  # fmt: skip


class UpdateContract:
    """The laws of `git_theta.core.chain.Update`.

    Set `update`, and return chunks that it is made for: those it may not decline.
    """

    update: ClassVar[Update]

    def chunks(self) -> Sequence[Version]:
        """Return chunks, each with its base, that the update stores well."""
        raise NotImplementedError

    def test_it_stores_what_it_is_made_for(self) -> None:
        for new, base in self.chunks():
            record = self._record(new, base)
            assert record is not None
            self._check(record, new, base)

    def test_its_estimate_is_near(self) -> None:
        for new, base in self.chunks():
            estimate, encoded = self.update.estimate(new, base), self.update.encode(new, base)
            assert encoded is not None
            assert estimate is not None
            size = sum(map(len, encoded.frames))
            assert size / 3 - 200 < estimate < size * 3 + 200

    @LAW
    @given(version=versions())
    def test_any_chunk_is_stored_exactly_or_declined(self, version: Version) -> None:
        new, base = version
        estimate = self.update.estimate(new, base)
        assert estimate is None or (math.isfinite(estimate) and estimate >= 0)
        record = self._record(new, base)
        if record is not None:
            self._check(record, new, base)

    def test_encoding_twice_gives_the_same(self) -> None:
        for new, base in self.chunks():
            assert self.update.encode(new, base) == self.update.encode(new, base)

    def test_without_a_base_it_declines_or_needs_none(self) -> None:
        for new, base in self.chunks():
            record = self._record(new, base)
            assert record is not None
            if not self.update.needs_base:
                self._check(record, new, None)
                continue
            assert self.update.estimate(new, None) is None
            assert self.update.encode(new, None) is None
            for wrong in (None, base[: len(base) // 2]):
                with pytest.raises(CorruptError):
                    self._decode(record, len(new.data), wrong)

    def test_threads_do_not_disturb_each_other(self) -> None:
        chunks = list(self.chunks()) * 8
        alone = [self.update.encode(*chunk) for chunk in chunks]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda chunk: self.update.encode(*chunk), chunks)) == alone
            records = [self._record(*chunk) or b"" for chunk in chunks]
            list(pool.map(lambda at: self._check(records[at], *chunks[at]), range(len(chunks))))

    @LAW
    @given(data=st.data())
    def test_damaged_frames_raise_nothing_but_corrupt_errors(self, data: st.DataObject) -> None:
        new, base = data.draw(st.sampled_from(list(self.chunks())), "chunk")
        header, parts = unpack(self._record(new, base) or b"")
        frames = [bytes(part) for part in parts]
        if frames:
            at = data.draw(st.integers(0, len(frames) - 1), "frame")
            kind = data.draw(st.sampled_from(["cut", "gone", "twice", "damaged"]), "damage")
            if kind == "damaged" and frames[at]:
                frames[at] = damaged(data, frames[at])
            elif kind == "cut":
                frames[at] = frames[at][: data.draw(st.integers(0, len(frames[at])), "size")]
            elif kind == "gone":
                del frames[at]
            else:
                frames.insert(at, frames[at])
        self._survive(header, frames, len(new.data), base)

    def test_headers_that_lie_raise_nothing_but_corrupt_errors(self) -> None:
        for new, base in self.chunks():
            header, parts = unpack(self._record(new, base) or b"")
            frames = [bytes(part) for part in parts]
            for value in _HOSTILE:
                keys = [*header.extra, "unknown"]
                lies = [replace(header, extra={**header.extra, key: value}) for key in keys]
                if type(value) is int and 0 <= value < 1 << 27:
                    lies += [replace(header, block=value), replace(header, word=value % 9)]
                for lie in lies:
                    self._survive(lie, frames, len(new.data), base)

    def _survive(self, header: Header, frames: list[bytes], size: int, base: Bytes) -> None:
        """Decode what may be anything: bytes of some kind, or a `CorruptError`; little memory."""
        tracemalloc.start()
        try:
            out = np.empty(size, np.uint8)
            with contextlib.suppress(CorruptError):
                self.update.decode(header, iter([memoryview(f) for f in frames]), base, out)
            assert tracemalloc.get_traced_memory()[1] < (64 << 20) + 40 * size
        finally:
            tracemalloc.stop()

    def _record(self, new: Slice, base: Bytes | None) -> bytes | None:
        """A whole record, as it is stored."""
        encoded = self.update.encode(new, base)
        if encoded is None:
            return None
        header = _header(self.update.name, new.data, encoded)
        return b"".join(bytes(part) for part in pack(header, encoded.frames))

    def _decode(self, record: bytes, size: int, base: Bytes | None) -> Bytes:
        header, frames = unpack(record)
        out = np.full(size, 0xA5, np.uint8)
        self.update.decode(header, frames, base, out)
        return out

    def _check(self, record: bytes, new: Slice, base: Bytes | None) -> None:
        assert self._decode(record, len(new.data), base).tobytes() == new.data.tobytes()
        if base is not None and getattr(self.update, "in_place", False):
            header, frames = unpack(record)
            out = base.copy()
            self.update.decode(header, frames, out, out)
            assert out.tobytes() == new.data.tobytes()


def _header(name: str, data: Bytes, encoded: Encoded) -> Header:
    return Header(
        digest=bytes.fromhex(digest_of(data)),
        size=len(data),
        kind=name,
        word=encoded.cut.word,
        turn=encoded.cut.turn,
        block=encoded.block,
        extra=encoded.extra,
    )
