"""`python -m tests.fuzz [COUNT] [TARGET...]`: break every file COUNT times, in little memory.

Prints what survived, as JSON. A process of its own, so that a limit on its memory, a clock and a
watch over what is run and written hold for the parsers and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from git_theta.errors import ThetaError
from tests.fuzz.mutations import mutated
from tests.fuzz.targets import Try, scratch, targets

MEMORY = 768 << 20
SECONDS = 10.0
# What a parser has no business to do, by the names of Python's audit events.
_RUNS = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.Popen",
    "pty.spawn",
    "pickle.find_class",
    "socket.connect",
    "socket.bind",
    "webbrowser.open",
    "shutil.rmtree",
    "urllib.Request",
)
_WRITES = ("os.remove", "os.rename", "os.link", "os.symlink", "os.mkdir", "os.chmod", "os.truncate")


class TooSlowError(BaseException):
    """A parser takes for ever."""


class ForbiddenError(BaseException):
    """A parser runs something, or writes where it may not."""


class Watch:
    """Looks at what a parser does, while it does it."""

    def __init__(self) -> None:
        self.on = False
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in _RUNS:
            raise ForbiddenError(f"{event} {arguments!r:.200}")
        if event in _WRITES or (event == "open" and _is_write(arguments)):
            path = arguments[0]
            if isinstance(path, str | bytes | os.PathLike) and not _allowed(os.fsdecode(path)):
                raise ForbiddenError(f"{event} {arguments!r:.200}")


def _is_write(arguments: tuple[Any, ...]) -> bool:
    flags = arguments[2] if len(arguments) > 2 else 0
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _allowed(path: str) -> bool:
    return os.path.realpath(path).startswith(str(scratch()))


def _late(_signal: int, _frame: FrameType | None) -> None:
    raise TooSlowError(f"more than {SECONDS} s of work")


def _once(one: Try, data: bytes, watch: Watch | None) -> str:
    """Run one parser on one file: how it ended, if it may end so."""
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    if watch is not None:
        watch.on = True
    try:
        one.run(data)
    except ThetaError:
        return "refused"
    else:
        return "read"
    finally:
        if watch is not None:
            watch.on = False
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _limit() -> None:
    """No more memory than there is now, and a little."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    if pages:
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _fuzz(one: Try, good: list[bytes], count: int, number: int, watch: Watch) -> dict[str, Any]:
    ends = {"read": 0, "refused": 0}
    began = time.process_time()

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[Phase.generate, Phase.shrink] if count < 1000 else [Phase.generate],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(mutated(good, one.samples, one.ways))
    def attempt(data: bytes) -> None:
        start = time.process_time()
        try:
            ends[_once(one, data, watch)] += 1
            if time.process_time() - start > slowest[0]:
                slowest[:] = [time.process_time() - start]
                (scratch().parent / f"slowest-{os.getpid()}").write_bytes(data)
        except BaseException:
            told[:] = [f"{traceback.format_exc(limit=-8)[-3000:]}\n{data[:500]!r}"]
            raise

    told: list[str] = []
    slowest = [0.0]
    with contextlib.suppress(BaseException):  # whatever ends a parser is what we look for
        attempt()
    return {
        **ends,
        "seconds": round(time.process_time() - began, 1),
        "slowest": round(slowest[0], 2),
        "problem": "".join(told),
    }


def main() -> int:
    """Fuzz what the command line names; exit with 1 if anything did not survive."""
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int, nargs="?", default=100)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    known = targets()
    watch = Watch()
    signal.signal(signal.SIGVTALRM, _late)
    faulthandler.enable()
    found: dict[str, Any] = {}
    chosen = {name: known[name] for name in options.names or known}
    good: dict[str, list[bytes]] = {}
    for name, one in chosen.items():  # as they are: this also imports what is imported late
        good[name] = [data for data in one.samples if _once(one, data, None) == "read"]
    _limit()
    for name, one in chosen.items():
        found[name] = _fuzz(one, good[name], options.count, options.seed, watch)
        sys.stderr.write(f"{name}: {found[name]}\n")
    shutil.rmtree(scratch(), ignore_errors=True)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return int(any(one["problem"] for one in found.values()))


if __name__ == "__main__":
    sys.exit(main())
