"""What Git runs: the long-running filter, and single-shot `clean` and `smudge`."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from git_theta.core.manifest import MAX_TEXT, is_manifest, parse
from git_theta.errors import ManifestError, PluginError
from git_theta.repo.caller import (
    asks_status,
    chooses_hunks,
    is_coloured,
    is_diffing,
    may_delay,
    merges_texts,
    only_compares,
    shows_differences,
    writes_files,
)
from git_theta.repo.filter_process import handshake, serve
from git_theta.repo.pktline import PacketReader, PacketWriter
from git_theta.repo.streams import CountedStream, Incoming
from git_theta.settings import written_later

if TYPE_CHECKING:
    from git_theta.commands.session import Session
    from git_theta.commands.smudge import Smudger

STDIN, STDOUT = 0, 1


class FilterHandlers:
    """Opens the session with the first file that needs one, so that the handshake stays light."""

    def __init__(self) -> None:
        self._cleaned = False
        self._told: set[str] = set()

    @cached_property
    def session(self) -> Session:
        from git_theta.commands.session import Session

        return Session()

    @cached_property
    def _smudger(self) -> Smudger:
        from git_theta.commands.direct import DirectFiles
        from git_theta.commands.smudge import Smudger

        return Smudger(self.session, DirectFiles(self.session))

    def clean(self, path: str, content: Incoming) -> bytes:
        from git_theta.commands.progress import progress

        found = self._staged_whole(path, content) if chooses_hunks() else None
        if found is None and only_compares():
            from git_theta.commands.peeking import answer

            with progress(self._size(path), f"comparing {path}") as advance:
                found = answer(self.session, path, CountedStream(content, advance))
        if found is not None:
            return found
        if asks_status():
            from git_theta.commands.touched import clean

            return clean(self.session, path, content, lambda left: self._store(path, left))
        return self._store(path, content)

    def _store(self, path: str, content: Incoming) -> bytes:
        from git_theta.commands.clean import clean
        from git_theta.commands.progress import progress

        self._cleaned = True
        with progress(self._size(path), f"storing {path}") as advance:
            return clean(self.session, path, CountedStream(content, advance))

    def _staged_whole(self, path: str, content: Incoming) -> bytes | None:
        """What is staged already: hunks of a manifest, chosen one by one, would be no manifest."""
        from git_theta.commands.session import say
        from git_theta.repo.candidates import Candidates

        staged = next(Candidates(self.session.repo).of_path(path), None)
        if staged is not None:
            content.drain()
            if path not in self._told and not is_coloured():  # a terminal makes Git ask once more
                self._told.add(path)
                say(path, "no hunks of it can be chosen", "it is taken whole: do so without -p")
        return staged

    def _size(self, path: str) -> int | None:
        """What the file weighs in the work tree: most often that is what Git hands over."""
        with suppress(OSError):
            return self.session.path(path).stat().st_size
        return None

    def finish(self) -> None:
        """Write what was put off until Git is done."""
        if "_smudger" in self.__dict__:
            self._smudger.direct.finish()

    def close(self) -> None:
        """Tidy up after a command that cleaned files, and end."""
        if "session" not in self.__dict__:
            return
        try:
            if self._cleaned:
                self.session.collect()
        finally:
            self.session.close()

    def smudge(
        self, path: str, content: Incoming, asked: Mapping[str, str]
    ) -> Iterable[memoryview] | None:
        if shows_differences(asked) and is_manifest(content.head(64)):
            text = content.head(MAX_TEXT + 1)
            content.drain()
            return iter([memoryview(text)])
        if "can-delay" not in asked and merges_texts():
            from git_theta.commands.session import say

            why = "with several branches, or -s resolve, Git merges it as text, which seldom works"
            say(path, why, "git reset --merge, then git theta merge BRANCH...")
        if self._is_left_to_caller(content, asked):
            text = content.head(MAX_TEXT + 1)
            content.drain()
            return iter([memoryview(text)])
        return self._smudger.smudge(path, content, asked)

    def _is_left_to_caller(self, content: Incoming, asked: Mapping[str, str]) -> bool:
        """Whether `git theta switch` and its like will write a file once Git is done."""
        size = written_later()
        if size is None or "can-delay" not in asked or not is_manifest(content.head(64)):
            return False
        if not may_delay():
            return False
        try:
            manifest = parse(content.head(MAX_TEXT + 1))
        except ManifestError:
            return False  # to be told of
        return manifest.size >= size and not manifest.plugins

    def delayed(self) -> list[str]:
        return self._smudger.delayed()

    def failed(self, path: str, error: BaseException) -> None:
        from git_theta.commands.session import report

        report(path, error)


def _load_ahead() -> None:
    """Import what the first file will need, while Git is asked about the repository."""
    from git_theta import registry
    from git_theta.commands.memory import keep_memory

    keep_memory()
    if writes_files():
        from git_theta.commands import direct, smudge  # noqa: F401
    else:
        from git_theta.commands import clean  # noqa: F401
    with suppress(PluginError):
        registry.load("updates", "dense")


def filter_process() -> int:
    """Serve Git until it closes the pipe."""
    gc.set_threshold(100_000, 50, 100)  # many records, few cycles: looking for those costs more
    reader, writer = PacketReader(STDIN), PacketWriter(STDOUT)
    # To hand over manifests, or to see that nothing changed, takes nothing more.
    if not is_diffing() and not asks_status() and written_later() is None:
        from git_theta.commands import warming

        warming.beside(_load_ahead)
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
