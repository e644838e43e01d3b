"""What a user is told when a command fails, and with which code it ends."""

from __future__ import annotations

import errno
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path

from git_theta import __version__
from git_theta.commands.terminal import complain
from git_theta.errors import ThetaError
from git_theta.settings import debugging

INTERNAL = 128
_MACHINE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.EFBIG,
)


def report(error: Exception, words: list[str]) -> int:
    """Print what went wrong and what to do; return the exit code."""
    if isinstance(error, ThetaError):
        complain(f"git theta: {_continued(str(error))}")
        if error.hint:
            complain(f"hint: {_continued(error.hint)}")
        if debugging(words):
            _print_traceback(error)
        return error.exit_code
    if isinstance(error, OSError) and error.errno in _MACHINE:
        where = f"{error.filename}: " if error.filename else ""
        complain(f"git theta: {where}{error.strerror}")
        if debugging(words):
            _print_traceback(error)
        return INTERNAL
    return _report_bug(error, words)


def _continued(text: str) -> str:
    """Set off all lines but the first, so that no name in a message passes for a message."""
    first, *rest = text.split("\n")
    return "\n".join([first, *(line if line.startswith("  ") else f"  {line}" for line in rest)])


def _report_bug(error: Exception, words: list[str]) -> int:
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    complain(f"git theta: this is a bug in git-theta {__version__}: {what}")
    if debugging(words):
        _print_traceback(error)
    else:
        saved = _save_traceback(error, words)
        if saved is not None:
            complain(f"hint: please report it, with the traceback in {saved}")
    return INTERNAL


def _print_traceback(error: Exception) -> None:
    complain("".join(traceback.format_exception(error)).rstrip())


def _save_traceback(error: Exception, words: list[str]) -> Path | None:
    """Keep the traceback for a report; a full disk must not hide the first failure."""
    text = "".join(traceback.format_exception(error))
    head = f"git-theta {__version__}, Python {sys.version}\n{words!r}\n\n"
    with suppress(OSError):
        with tempfile.NamedTemporaryFile(
            "w", prefix="git-theta-bug-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write((head + text).encode(errors="backslashreplace").decode())
        return Path(file.name)
    return None
