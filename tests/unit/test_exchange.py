"""Files moved to their places and let go of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from git_theta.repo import exchange


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("before", ["file", "nothing", "link"])
def test_a_file_takes_the_place_of_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool, before: str
):
    if not known:
        monkeypatch.setattr(exchange, "_renameat2", lambda: None)
    part, target, other = tmp_path / "part", tmp_path / "target", tmp_path / "other"
    part.write_text("new")
    other.write_text("other")
    if before == "file":
        target.write_text("old")
    elif before == "link":
        target.symlink_to(other)
    exchange.put_in_place(part, target)
    assert target.read_text() == "new"
    assert not target.is_symlink()
    assert other.read_text() == "other"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "target"]


def test_a_folder_is_left_where_it_is(tmp_path: Path):
    part, target = tmp_path / "part", tmp_path / "target"
    part.write_text("new")
    target.mkdir()
    with pytest.raises(OSError, match="target"):
        exchange.put_in_place(part, target)
    assert target.is_dir()
    assert part.read_text() == "new"


def test_files_are_let_go_of_whether_removed_or_not(tmp_path: Path):
    files = [tmp_path / name for name in ("gone", "there", "never")]
    for file in files[:2]:
        file.write_text("old")
    before = os.open(tmp_path, os.O_RDONLY)  # the lowest number that is free
    os.close(before)
    with exchange.let_go_later(files):
        files[0].unlink()
    assert files[1].read_text() == "old"
    after = os.open(tmp_path, os.O_RDONLY)
    os.close(after)
    assert after == before
