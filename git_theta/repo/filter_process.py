"""Git's long-running filter protocol, version 2: one process for all files of a Git command.

Git sends a command, a path and content; we answer with content. A delayed answer is announced,
and given when Git asks again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from git_theta.repo.pktline import PacketReader, PacketWriter, ProtocolError
from git_theta.repo.streams import Incoming


class Handlers(Protocol):
    """What is done for Git. Each method reads its content to the end or leaves it unread."""

    def clean(self, path: str, content: Incoming) -> bytes:
        """The manifest for a file."""
        ...

    def smudge(
        self, path: str, content: Incoming, asked: Mapping[str, str]
    ) -> Iterable[memoryview] | None:
        """The file for a manifest, or None for an answer that comes later."""
        ...

    def delayed(self) -> list[str]:
        """Paths whose delayed answers are ready now."""
        ...

    def failed(self, path: str, error: BaseException) -> None:
        """Tell the user of a failure; raises what is no expected failure."""
        ...


def handshake(reader: PacketReader, writer: PacketWriter) -> None:
    """Agree on the protocol.

    Raises:
        ProtocolError: the other side is no Git that we know.
    """
    try:
        is_git = reader.packet() == b"git-filter-client\n" and "version" in reader.lines()
    except EOFError:
        is_git = False
    if not is_git:
        raise ProtocolError("this command is for Git to run", hint="see git theta -h")
    writer.lines("git-filter-server", "version=2")
    reader.lines()
    writer.lines("capability=clean", "capability=smudge", "capability=delay")


def serve(reader: PacketReader, writer: PacketWriter, handlers: Handlers) -> None:
    """Answer Git until it closes the pipe."""
    while True:
        try:
            asked = reader.lines()
        except EOFError:
            return
        command, path = asked.get("command", ""), asked.get("pathname", "")
        if command == "list_available_blobs":
            writer.lines(*(f"pathname={ready}" for ready in handlers.delayed()))
            writer.lines("status=success")
            continue
        content = reader.content()
        try:
            if command == "clean":
                answer: Iterable[memoryview] | None = [memoryview(handlers.clean(path, content))]
            else:
                answer = handlers.smudge(path, content, asked)
            pieces = None if answer is None else iter(answer)
            content.drain()
            first = None if pieces is None else next(pieces, memoryview(b""))
        except Exception as error:
            content.drain()
            handlers.failed(path, error)
            writer.lines("status=error")
            continue
        if pieces is None or first is None:
            writer.lines("status=delayed")
        else:
            _answer(writer, handlers, path, first, pieces)


def _answer(
    writer: PacketWriter,
    handlers: Handlers,
    path: str,
    first: memoryview,
    rest: Iterator[memoryview],
) -> None:
    """Send content; a failure on the way is told after it, and Git then drops what it got."""
    writer.lines("status=success")
    status: list[str] = []
    writer.data(first)
    try:
        for piece in rest:
            writer.data(piece)
    except BrokenPipeError:
        raise
    except Exception as error:
        handlers.failed(path, error)
        status = ["status=error"]
    writer.flush()
    writer.lines(*status)
