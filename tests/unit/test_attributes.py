"""Lines of `.gitattributes`: quoting, adding, removing, and leaving the rest alone."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.errors import RefusedError, UsageError
from git_theta.repo.attributes import AttributesFile, check_pattern, parse_line, quote

OURS = "filter=theta diff=theta merge=theta -text"
PATTERNS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20).filter(
    lambda text: not text.startswith("[attr]")
)


@given(PATTERNS)
def test_what_is_quoted_is_read_back(pattern: str):
    line = parse_line(f"{quote(pattern)} {OURS}")
    assert line.pattern == pattern
    assert line.ours


def file_with(tmp_path: Path, data: bytes) -> AttributesFile:
    path = tmp_path / ".gitattributes"
    path.write_bytes(data)
    return AttributesFile(path)


def test_other_lines_stay_byte_for_byte(tmp_path: Path):
    before = b"# caf\xe9\r\n\r\n[attr]big -diff\r\n*.png   binary\r\n  *.c text"
    file = file_with(tmp_path, before)
    assert file.track("*.pt", {})
    file.save()
    assert file.path.read_bytes() == before + b"\r\n" + f"*.pt {OURS}\r\n".encode()
    again = AttributesFile(file.path)
    assert not again.track("*.pt", {})
    assert again.untrack("*.pt")
    again.save()
    assert again.path.read_bytes() == before + b"\r\n"


def test_options_replace_options_and_keep_the_rest(tmp_path: Path):
    file = file_with(tmp_path, f"*.pt {OURS} theta-format=torch linguist-vendored\n".encode())
    assert not file.track("*.pt", {})
    assert file.track("*.pt", {"theta-format": "opaque"})
    file.save()
    assert file.path.read_text() == f"*.pt {OURS} theta-format=opaque linguist-vendored\n"
    assert file.untrack("*.pt")
    file.save()
    assert file.path.read_text() == "*.pt linguist-vendored\n"


def test_a_file_that_held_only_our_line_stays_empty(tmp_path: Path):
    file = file_with(tmp_path, f"*.pt {OURS}\n".encode())
    assert file.untrack("*.pt")
    file.save()
    assert file.path.read_bytes() == b""


def test_lines_of_others_are_not_ours(tmp_path: Path):
    file = file_with(tmp_path, b"*.pt filter=lfs diff=lfs merge=lfs -text\n")
    assert not file.untrack("*.pt")
    assert file.track("*.pt", {})
    assert len(file.lines) == 2


def test_the_mode_is_kept_and_nothing_is_left_beside(tmp_path: Path):
    file = file_with(tmp_path, b"x\n")
    file.path.chmod(0o640)
    file.track("*.pt", {})
    file.save()
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == [".gitattributes"]


def test_a_link_is_refused(tmp_path: Path):
    (tmp_path / "real").write_text("")
    (tmp_path / ".gitattributes").symlink_to("real")
    with pytest.raises(RefusedError):
        AttributesFile(tmp_path / ".gitattributes")


@pytest.mark.parametrize("pattern", ["", "./", "!x", "../x", "a/../b", "dir/", "[attr]x", "a\0b"])
def test_patterns_that_git_would_ignore_are_refused(pattern: str):
    with pytest.raises(UsageError):
        check_pattern(pattern)


@pytest.mark.parametrize(("given_", "meant"), [("./a/*.pt", "a/*.pt"), ("*.pt", "*.pt")])
def test_patterns_are_relative_to_the_directory(given_: str, meant: str):
    assert check_pattern(given_) == meant
