"""What is printed can do nothing to a terminal."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.commands import terminal
from git_theta.commands.terminal import count, printable, say_table, size_text


@given(st.text(st.characters(), max_size=40))
def test_printable_text_has_no_controls(text: str):
    assert printable(text).isprintable()


@given(st.text(st.characters(categories=("L", "N", "P", "S")), max_size=40))
def test_ordinary_text_stays_as_it_is(text: str):
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("caf\udce9", r"caf\xe9"),
        ("\x9b2J", r"\x9b2J"),
        ("poids été 模型", "poids été 模型"),
    ],
)
def test_what_would_act_is_escaped(text: str, shown: str):
    assert printable(text) == shown


def test_tables_escape_cells_and_align(capsys: pytest.CaptureFixture[str]):
    say_table(("NAME", "SIZE"), [("a\x1b]0;x\x07", "1"), ("b", "22")], right=(1,))
    lines = capsys.readouterr().out.splitlines()
    assert lines == [r"NAME           SIZE", r"a\x1b]0;x\x07     1", r"b                22"]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KB"),
        (99_949, "99.9 KB"),
        (99_950, "100 KB"),
        (999_499, "999 KB"),
        (999_500, "1.0 MB"),
        (2_340_000_000, "2.3 GB"),
        (5 * 10**17, "500.0 PB"),
    ],
)
def test_sizes_for_people(size: int, text: str):
    assert size_text(size) == text


def test_numbers_agree_with_their_nouns():
    assert count(1, "tensor") == "1 tensor"
    assert count(2048, "entry") == "2,048 entries"


def test_quiet_leaves_out_notes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(terminal, "_quiet", False)
    terminal.note("for information")
    terminal.be_quiet()
    terminal.note("not shown")
    terminal.complain("a failure")
    assert capsys.readouterr().err == "for information\na failure\n"


def test_colours_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch):
    assert terminal.paint("x", "red") == "x"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert terminal.paint("x", "red") == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.paint("x", "red") == "x"
