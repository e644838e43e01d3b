"""What a user sees: text made safe for a terminal, tables, JSON, notes on standard error.

Names of tensors, paths and commit messages come from other people's files. Everything that is
printed passes `printable` here first, so that no name can move the cursor, hide text or change
a window's title.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from git_theta.settings import wants_colour

_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")
_COLOURS = {"red": 31, "green": 32, "yellow": 33, "bold": 1}
_quiet = False


def write_anything() -> None:
    """A terminal that cannot show a letter shows its number instead."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def be_quiet() -> None:
    """Leave out from now on what is only for information."""
    global _quiet
    _quiet = True


def printable(text: str) -> str:
    """Escape control characters, direction marks and broken bytes."""
    if text.isprintable():
        return text
    return "".join(map(_escape, text))


def _escape(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def say(text: str) -> None:
    """Print a line that was asked for; it may hold no other people's text unescaped."""
    sys.stdout.write(_safe_lines(text) + "\n")


def note(text: str) -> None:
    """Print a line for information on standard error, unless -q was given."""
    if not _quiet:
        complain(text)


def complain(text: str) -> None:
    """Print a line on standard error, always."""
    sys.stdout.flush()
    sys.stderr.write(_safe_lines(text) + "\n")
    sys.stderr.flush()


def _safe_lines(text: str) -> str:
    return text if text.isprintable() else "\n".join(map(printable, text.split("\n")))


def paint(text: str, colour: str) -> str:
    """Colour a text that is already printable, where standard output shows colours."""
    if not wants_colour(sys.stdout):
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def say_painted(text: str, colour: str) -> None:
    """Print one line in a colour."""
    sys.stdout.write(paint(_safe_lines(text), colour) + "\n")


def say_json(value: Any) -> None:
    """Print a report as JSON, pure ASCII, so that nothing in it can act on a terminal."""
    import json

    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def say_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()
) -> None:
    """Print columns of texts, those numbered in `right` flush right."""
    cells = [tuple(map(printable, row)) for row in rows]
    if not cells:
        return
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    fits: list[Callable[[str, int], str]] = [
        str.rjust if number in right else str.ljust for number in range(len(heads))
    ]
    for line, row in enumerate([tuple(heads), *cells]):
        parts = (fit(cell, width) for fit, cell, width in zip(fits, row, widths, strict=True))
        text = "  ".join(parts).rstrip()
        sys.stdout.write((text if line else paint(text, "bold")) + "\n")


def count(number: int, noun: str) -> str:
    """A number and its noun: "1 tensor", "2 tensors"."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number:,} {noun if number == 1 else plural}"


def size_text(size: float) -> str:
    """A number of bytes for people: 999 B, 1.0 KB, 2.3 GB (powers of 1000, as Git LFS does)."""
    for unit in _UNITS[:-1]:
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} {_UNITS[-1]}"
