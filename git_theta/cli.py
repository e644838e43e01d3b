"""The console script: options to commands, failures to messages and exit codes.

Nothing heavy is imported here: Git starts this program for every command that touches a tracked
file, and what it starts are the filters, which take the short way past the command line parser.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from git_theta import __version__
from git_theta.errors import UsageError

BUG, INTERRUPTED, BROKEN_PIPE, DRIVER_FAILED = 128, 130, 141, 129
# Most of what is made here stays to the end: modules, manifests. To look among that for garbage as
# often as is usual takes a quarter of the time to start.
_GARBAGE = 50_000
_FILTERS = ("filter-process", "clean", "smudge")
# What multiplies matrices that are worth more than one thread.
_COMPUTING = ("apply", "average", "diff", "extract", "merge", "merge-driver", "resolve", "stats")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    gc.set_threshold(_GARBAGE)
    try:
        code = _run(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        code = BROKEN_PIPE
        _close_output()
    except Exception as error:
        from git_theta.commands.failure import report

        code = report(error, words)
    if words[:1] == ["merge-driver"] and code not in (0, 1):
        code = DRIVER_FAILED  # to Git, 1 to 128 say "conflict" and more says "failed"
    if arguments is None:
        _leave(code)
    return code


def _leave(code: int) -> NoReturn:
    """End at once: Git or a user waits, and all that is left is memory to be given back."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, by us or by who started us
            stream.flush()
    os._exit(code)


def _run(words: list[str]) -> int:
    if words in (["--version"], ["version"]):
        sys.stdout.write(f"git-theta {__version__}\n")
        return 0
    if words and words[0] not in _COMPUTING:
        from git_theta.settings import keep_library_to_one_thread

        keep_library_to_one_thread()
    if words and words[0] in _FILTERS and not _asks_for_help(words):
        return _filter(words)
    if words[:2] == ["merge-driver", "--"]:
        from git_theta.commands.later import is_left

        if is_left(words[2:]):
            return 1
    if words[:1] == ["diff-driver"] and not _asks_for_help(words):
        from git_theta.commands.diff_driver import run as drive

        return drive(words[1:])
    from git_theta.commands.menu import run

    return run(words)


def _asks_for_help(words: list[str]) -> bool:
    return words[1:2] in (["-h"], ["--help"])


def _filter(words: list[str]) -> int:
    from git_theta.commands import filter as filters

    name, *rest = words
    if rest[:1] == ["--"]:
        rest = rest[1:]
    if len(rest) != (0 if name == "filter-process" else 1):
        raise UsageError(f"{name} is run by Git", hint=f"git theta {name} -h")
    if name == "filter-process":
        return filters.filter_process()
    return filters.clean(rest[0]) if name == "clean" else filters.smudge(rest[0])


def _close_output() -> None:
    """Whoever read our output has gone; keep Python from complaining at exit."""
    with suppress(OSError, ValueError):
        sys.stdout.close()
