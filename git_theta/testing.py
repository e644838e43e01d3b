"""Contract tests for authors of plug-ins: subclass a contract, and pytest runs the laws.

    class TestMyFormat(FormatContract):
        format = MyFormat()

        def files(self):
            return [Path("small.mine").read_bytes()]

Needs pytest and hypothesis; nothing else in git-theta imports this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from git_theta.core.layout import Format, Layout, check_view
from git_theta.errors import FormatError

_LAW = settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)


class BytesReader:
    """The bytes of a file, or of its head where `whole` is False and the size not known."""

    def __init__(self, data: bytes, *, whole: bool = True) -> None:
        self._data = data
        self._whole = whole

    @property
    def size(self) -> int | None:
        return len(self._data) if self._whole else None

    def read(self, offset: int, size: int) -> bytes:
        if offset < 0 or size < 0:
            raise ValueError(f"a read of {size} bytes at {offset} is the caller's mistake")
        return self._data[offset : offset + size]


def pieces(data: bytes, layout: Layout) -> Iterator[tuple[bytes, bytes]]:
    """The skeleton's bytes before each segment, with the segment; the rest of the file last."""
    at = 0
    for segment in layout.segments:
        end = segment.offset + segment.size
        yield data[at : segment.offset], data[segment.offset : end]
        at = end
    yield data[at:], b""


class FormatContract:
    """The laws of `git_theta.core.layout.Format`.

    Set `format`, and return a few small files (under 100 kB, or the laws take long) of every
    shape that the format has.
    """

    format: ClassVar[Format]

    def files(self) -> Sequence[bytes]:
        """Return the bytes of valid files of the format."""
        raise NotImplementedError

    def test_its_files_are_detected(self) -> None:
        assert all(self.format.detect(data[:4096]) for data in self.files())

    @pytest.mark.parametrize("head", [b"", b"P", b"\0" * 4096, b"{}", b"\xff" * 64, b"\x80\x02."])
    def test_other_files_are_not_detected(self, head: bytes) -> None:
        assert not self.format.detect(head)

    def test_skeleton_and_segments_give_the_file_back(self) -> None:
        for data in self.files():
            layout = self.format.locate(BytesReader(data))
            assert b"".join(a + b for a, b in pieces(data, layout)) == data

    def test_segments_lie_in_the_file_and_views_in_their_segments(self) -> None:
        for data in self.files():
            _check_bounds(self.format.locate(BytesReader(data)), data)

    def test_locating_twice_gives_the_same(self) -> None:
        for data in self.files():
            layout = self.format.locate(BytesReader(data))
            assert self.format.locate(BytesReader(data)) == layout

    def test_a_sequential_format_needs_only_the_head(self) -> None:
        for data in self.files() if self.format.sequential else ():
            layout = self.format.locate(BytesReader(data))
            begin = min((segment.offset for segment in layout.segments), default=len(data))
            assert self.format.locate(BytesReader(data[:begin], whole=False)) == layout

    def test_refresh_of_an_unchanged_file_patches_nothing(self) -> None:
        for data in self.files():
            reader = BytesReader(data)
            assert not self.format.refresh(reader, self.format.locate(reader))

    def test_refresh_makes_a_changed_file_whole(self) -> None:
        for data in self.files():
            layout = self.format.locate(BytesReader(data))
            inverted = bytes(255 - byte for byte in data)
            changed = bytearray(data)
            for segment in layout.segments:
                place = slice(segment.offset, segment.offset + segment.size)
                changed[place] = inverted[place]
            for offset, patch in self.format.refresh(BytesReader(bytes(changed)), layout).items():
                assert not _touches_segment(layout, offset, len(patch))
                assert changed[offset : offset + len(patch)] != patch
                changed[offset : offset + len(patch)] = patch
            assert len(changed) == len(data)
            reader = BytesReader(bytes(changed))
            assert self.format.locate(reader) == layout
            assert not self.format.refresh(reader, layout)

    @_LAW
    @given(data=st.data())
    def test_a_truncated_file_raises_nothing_but_format_errors(self, data: st.DataObject) -> None:
        file = data.draw(st.sampled_from(self.files()), "file")
        self._survive(file[: data.draw(st.integers(0, max(0, len(file) - 1)), "size")])

    @_LAW
    @given(data=st.data())
    def test_a_damaged_file_raises_nothing_but_format_errors(self, data: st.DataObject) -> None:
        file = bytearray(data.draw(st.sampled_from(self.files()), "file"))
        places = st.integers(0, len(file) - 1)
        for place, byte in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=8)):
            file[place] = byte
        self._survive(bytes(file))

    def _survive(self, data: bytes) -> None:
        """Locate in bytes that may be anything: a sound layout or a `FormatError`."""
        reader = BytesReader(data)
        try:
            layout = self.format.locate(reader)
            self.format.refresh(reader, layout)
        except FormatError:
            return
        _check_bounds(layout, data)


def _check_bounds(layout: Layout, data: bytes) -> None:
    assert layout.end <= len(data)
    for tensor in layout.tensors:
        check_view(tensor, layout.segments[tensor.segment].size)


def _touches_segment(layout: Layout, offset: int, size: int) -> bool:
    return any(
        segment.offset < offset + size and offset < segment.offset + segment.size
        for segment in layout.segments
    )
