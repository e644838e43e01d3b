"""The laws of formats."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from git_theta.core.dtypes import nbytes
from git_theta.core.layout import (
    Format,
    Layout,
    SplitFormat,
    SplitTensor,
    TensorSpec,
    check_view,
)
from git_theta.errors import CorruptError, FormatError

LAW = settings(
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

    @LAW
    @given(data=st.data())
    def test_a_truncated_file_raises_nothing_but_format_errors(self, data: st.DataObject) -> None:
        file = data.draw(st.sampled_from(self.files()), "file")
        self._survive(file[: data.draw(st.integers(0, max(0, len(file) - 1)), "size")])

    @LAW
    @given(data=st.data())
    def test_a_damaged_file_raises_nothing_but_format_errors(self, data: st.DataObject) -> None:
        self._survive(damaged(data, data.draw(st.sampled_from(self.files()), "file")))

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


class SplitFormatContract:
    """The laws of `git_theta.core.layout.SplitFormat`.

    Set `format`, and return a few small files (under 100 kB, or the laws take long) of every
    shape that the format has.
    """

    format: ClassVar[SplitFormat]

    def files(self) -> Sequence[bytes]:
        """Return the bytes of valid files of the format."""
        raise NotImplementedError

    def test_its_files_are_detected(self) -> None:
        assert all(self.format.detect(data[:4096]) for data in self.files())

    @pytest.mark.parametrize(
        "head", [b"", b"P", b"\0" * 4096, b"\xff" * 64, b"\x80\x02.", b'{"git-theta": 1,\n']
    )
    def test_other_files_and_manifests_are_not_detected(self, head: bytes) -> None:
        assert not self.format.detect(head)

    def test_what_was_split_joins_to_the_same_file(self) -> None:
        for data in self.files():
            skeleton, tensors = self.format.split(BytesReader(data))
            assert tensors, "a file without a tensor shows nothing"
            assert b"".join(self.format.join(skeleton, iter(tensors))) == data

    def test_tensors_are_what_they_say(self) -> None:
        for data in self.files():
            _check_tensors(self.format.split(BytesReader(data))[1])

    def test_splitting_twice_gives_the_same(self) -> None:
        for data in self.files():
            assert self.format.split(BytesReader(data)) == self.format.split(BytesReader(data))

    def test_a_stream_of_unknown_length_is_refused_or_split_the_same(self) -> None:
        for data in self.files():
            try:
                found = self.format.split(BytesReader(data, whole=False))
            except FormatError:
                continue
            assert found == self.format.split(BytesReader(data))

    def test_a_missing_tensor_is_noticed(self) -> None:
        for data in self.files():
            skeleton, tensors = self.format.split(BytesReader(data))
            for less in (tensors[:-1], [*tensors, tensors[-1]]):
                with pytest.raises(CorruptError):
                    b"".join(self.format.join(skeleton, iter(less)))

    @LAW
    @given(data=st.data())
    def test_a_truncated_file_is_refused_or_kept_exactly(self, data: st.DataObject) -> None:
        file = data.draw(st.sampled_from(self.files()), "file")
        self._survive(file[: data.draw(st.integers(0, max(0, len(file) - 1)), "size")])

    @LAW
    @given(data=st.data())
    def test_a_damaged_file_is_refused_or_kept_exactly(self, data: st.DataObject) -> None:
        self._survive(damaged(data, data.draw(st.sampled_from(self.files()), "file")))

    @LAW
    @given(data=st.data())
    def test_a_damaged_skeleton_raises_nothing_but_corrupt_errors(
        self, data: st.DataObject
    ) -> None:
        file = data.draw(st.sampled_from(self.files()), "file")
        skeleton, tensors = self.format.split(BytesReader(file))
        with contextlib.suppress(CorruptError):
            size = 0
            for piece in self.format.join(damaged(data, skeleton), iter(tensors)):
                size += len(piece)
                if size > len(file):
                    break  # as a checkout does

    def test_a_skeleton_is_laid_out_anew_for_fewer_tensors(self) -> None:
        relayout = getattr(self.format, "relayout", None)
        if relayout is None:
            return
        for data in self.files():
            skeleton, tensors = self.format.split(BytesReader(data))
            specs = [TensorSpec(name=t.name, dtype=t.dtype, shape=t.shape) for t in tensors]
            assert relayout(skeleton, specs) == skeleton
            for out in range(len(tensors) if len(tensors) > 1 else 0):
                rest = [*tensors[:out], *tensors[out + 1 :]]
                less = relayout(skeleton, [*specs[:out], *specs[out + 1 :]])
                joined = b"".join(self.format.join(less, iter(rest)))
                found = self.format.split(BytesReader(joined))[1]
                assert sorted(found, key=_name) == sorted(rest, key=_name)

    def _survive(self, data: bytes) -> None:
        """Split bytes that may be anything: the law holds, or a `FormatError`."""
        try:
            skeleton, tensors = self.format.split(BytesReader(data))
        except FormatError:
            return
        _check_tensors(tensors)
        assert b"".join(self.format.join(skeleton, iter(tensors))) == data


def _name(tensor: SplitTensor) -> str:
    return tensor.name


def _check_tensors(tensors: Sequence[SplitTensor]) -> None:
    assert len({tensor.name.encode() for tensor in tensors}) == len(tensors)
    for tensor in tensors:
        assert nbytes(tensor.dtype, tensor.shape) == len(tensor.data)


def damaged(data: st.DataObject, file: bytes) -> bytes:
    """A file with a few bytes that are others."""
    changed = bytearray(file)
    places = st.integers(0, len(file) - 1)
    for place, byte in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=8)):
        changed[place] = byte
    return bytes(changed)
