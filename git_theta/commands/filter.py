"""What Git runs: the long-running filter, and single-shot `clean` and `smudge`."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress

from git_theta.errors import PluginError
from git_theta.repo.filter_process import handshake, serve
from git_theta.repo.pktline import PacketReader, PacketWriter
from git_theta.repo.streams import CountedStream, Incoming

STDIN, STDOUT = 0, 1


class FilterHandlers:
    """Opens the session with the first file, so that the handshake stays light."""

    def __init__(self) -> None:
        from git_theta.commands.direct import DirectFiles
        from git_theta.commands.session import Session
        from git_theta.commands.smudge import Smudger

        self.session = Session()
        self._smudger = Smudger(self.session, DirectFiles(self.session))
        self._cleaned = False

    def clean(self, path: str, content: Incoming) -> bytes:
        from git_theta.commands.clean import clean
        from git_theta.commands.progress import progress

        self._cleaned = True
        with progress(self._size(path), f"storing {path}") as advance:
            return clean(self.session, path, CountedStream(content, advance))

    def _size(self, path: str) -> int | None:
        """What the file weighs in the work tree: most often that is what Git hands over."""
        with suppress(OSError):
            return self.session.path(path).stat().st_size
        return None

    def finish(self) -> None:
        """Write what was put off until Git is done."""
        self._smudger.direct.finish()

    def close(self) -> None:
        """Tidy up after a command that cleaned files, and end."""
        try:
            if self._cleaned:
                self.session.collect()
        finally:
            self.session.close()

    def smudge(
        self, path: str, content: Incoming, asked: Mapping[str, str]
    ) -> Iterable[memoryview] | None:
        return self._smudger.smudge(path, content, asked)

    def delayed(self) -> list[str]:
        return self._smudger.delayed()

    def failed(self, path: str, error: BaseException) -> None:
        from git_theta.commands.session import report

        report(path, error)


def _load_ahead() -> None:
    """Import what the first file will need, while Git is asked about the repository."""
    from git_theta import registry
    from git_theta.commands import clean, smudge  # noqa: F401

    with suppress(PluginError):
        registry.load("updates", "dense")


def filter_process() -> int:
    """Serve Git until it closes the pipe."""
    gc.set_threshold(100_000, 50, 100)  # many records, few cycles: looking for those costs more
    reader, writer = PacketReader(STDIN), PacketWriter(STDOUT)
    threading.Thread(target=_load_ahead, daemon=True).start()
    handshake(reader, writer)
    handlers = FilterHandlers()
    try:
        serve(reader, writer, handlers)
        handlers.finish()
    except (BrokenPipeError, EOFError):
        return 1  # Git went away, or was interrupted
    finally:
        handlers.close()
    return 0


def clean(path: str) -> int:
    """Single-shot clean: a file on stdin, its manifest on stdout."""
    from git_theta.repo.streams import PlainStream

    handlers = FilterHandlers()
    try:
        text = handlers.clean(path, PlainStream(STDIN))
    finally:
        handlers.close()
    sys.stdout.buffer.write(text)
    sys.stdout.buffer.flush()
    return 0


def smudge(path: str) -> int:
    """Single-shot smudge: a manifest on stdin, the file on stdout."""
    from git_theta.repo.streams import PlainStream, write_fully

    handlers = FilterHandlers()
    try:
        pieces = handlers.smudge(path, PlainStream(STDIN), {})
        for piece in pieces or ():
            write_fully(STDOUT, piece)
    finally:
        handlers.close()
    return 0


def run(arguments: list[str]) -> int:
    """Run one of the three by its name on the command line."""
    if arguments == ["filter-process"]:
        return filter_process()
    return {"clean": clean, "smudge": smudge}[arguments[0]](os.fsdecode(arguments[-1]))
