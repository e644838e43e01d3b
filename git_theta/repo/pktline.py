"""Git's pkt-line framing, read with few system calls and written with few.

Git sends a file in packets that are all full but the last. The reader asks the kernel to scatter
many packets at once, headers and payloads to their places, and falls back to going packet by
packet where the guess was wrong.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from contextlib import suppress

from git_theta.errors import ThetaError
from git_theta.repo.objects import write_all

MAX_PAYLOAD = 65516
_FULL_HEADER = b"%04x" % (MAX_PAYLOAD + 4)
_FLUSH = b"0000"
_BATCH = 64
_PIPE = 1 << 20
_TOGETHER = 34  # headers and payloads: more does not fit into the pipe
_F_SETPIPE_SZ = 1031


class ProtocolError(ThetaError):
    """What came is not Git's filter protocol."""


class PacketReader:
    """Reads packets from a descriptor."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._ahead = b""
        self._left = 0
        widen(handle)

    def packet(self) -> bytes | None:
        """One packet's payload, or None for a flush packet.

        Raises:
            EOFError: Git closed the pipe between packets.
        """
        size = self._header()
        return None if size is None else self._exactly(size)

    def lines(self) -> dict[str, str]:
        """`key=value` packets up to a flush; of doubled keys the last one stays."""
        found = {}
        while (packet := self.packet()) is not None:
            text = packet.decode(errors="surrogateescape").removesuffix("\n")
            key, _, value = text.partition("=")
            found[key] = value
        return found

    def content(self) -> Content:
        """The file that follows, up to its flush packet."""
        return Content(self)

    def _header(self) -> int | None:
        raw = self._exactly(4)
        try:
            size = int(raw, 16)
        except ValueError as error:
            raise ProtocolError("Git's filter protocol was not understood") from error
        if size == 0:
            return None
        if not 4 <= size <= MAX_PAYLOAD + 4:
            raise ProtocolError("Git's filter protocol was not understood")
        return size - 4

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            part = self._ahead[:size]
            if part:
                self._ahead = self._ahead[size:]
            else:
                part = os.read(self._handle, size)
                if not part:
                    raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    # --- reading content into buffers ----------------------------------------------------------

    def fill(self, view: memoryview) -> tuple[int, bool]:
        """Fill a view with content: (bytes filled, whether the flush packet came)."""
        done = 0
        while done < len(view):
            if not self._left:
                size = self._header()
                if size is None:
                    return done, True
                self._left = size
                continue
            if self._ahead:
                part = self._ahead[: min(self._left, len(view) - done)]
                view[done : done + len(part)] = part
                self._ahead = self._ahead[len(part) :]
                self._left -= len(part)
                done += len(part)
            else:
                done += self._scatter(view[done:])
        return done, False

    def _scatter(self, view: memoryview) -> int:
        """Read the rest of this packet and, guessing that they are full, the ones behind it.

        Returns once the view is full or a guess was wrong; what was then read too far is put back.
        """
        places, headers = self._places(view)
        at = done = 0
        while at < len(places):
            got = os.readv(self._handle, places[at : at + _TOGETHER])
            if not got:
                raise EOFError
            while got:
                taken = min(got, len(places[at]))
                got -= taken
                if at % 2 == 0:
                    done += taken
                    self._left -= taken
                if taken < len(places[at]):
                    places[at] = places[at][taken:]
                    break
                at += 1
                if at % 2 == 0:
                    header = headers[2 * at - 4 : 2 * at]
                    if header != _FULL_HEADER:
                        self._ahead = bytes(header) + _gather(places[at:], got)
                        return done
                    self._left = MAX_PAYLOAD
        return done

    def _places(self, view: memoryview) -> tuple[list[memoryview], bytearray]:
        """Payloads and the headers between them in turn, and the bytes that the headers are in."""
        first = min(self._left, len(view))
        starts = range(first, len(view), MAX_PAYLOAD)
        headers = bytearray(4 * len(starts))
        places, rooms = [view[:first]], memoryview(headers)
        for number, start in enumerate(starts):
            places.append(rooms[4 * number : 4 * number + 4])
            places.append(view[start : start + MAX_PAYLOAD])
        return places, headers


def _gather(places: Iterable[memoryview], size: int) -> bytes:
    parts = []
    for place in places:
        part = bytes(place[:size])
        parts.append(part)
        size -= len(part)
        if not size:
            break
    return b"".join(parts)


class Content:
    """A file's bytes, as Git sends them; `head` can be looked at before they are read."""

    file: None = None

    def __init__(self, reader: PacketReader) -> None:
        self._reader = reader
        self._head = b""
        self._ended = False

    def head(self, size: int) -> bytes:
        """The next bytes, up to `size`, without consuming them."""
        while len(self._head) < size and not self._ended:
            # In steps that grow: what is asked for is a limit, and a file may be far smaller.
            more = bytearray(min(size - len(self._head), max(_PIPE, len(self._head))))
            got, self._ended = self._reader.fill(memoryview(more))
            self._head += bytes(more[:got])
        return self._head[:size]

    def readinto(self, view: memoryview) -> int:
        """Fill the view; fewer bytes only at the end of the file."""
        done = min(len(view), len(self._head))
        view[:done] = self._head[:done]
        self._head = self._head[done:]
        if done < len(view) and not self._ended:
            got, self._ended = self._reader.fill(view[done:])
            done += got
        return done

    def drain(self) -> None:
        """Read and forget the rest, so that Git and we stay in step."""
        waste = memoryview(bytearray(_PIPE))
        self._head = b""
        while not self._ended:
            _, self._ended = self._reader.fill(waste)


class PacketWriter:
    """Writes packets to a descriptor."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        widen(handle)

    def lines(self, *lines: str) -> None:
        """Write lines, each a packet, and a flush packet."""
        out = b""
        for line in lines:
            data = line.encode(errors="surrogateescape") + b"\n"
            out += b"%04x" % (len(data) + 4) + data
        self._write([memoryview(out + _FLUSH)])

    def data(self, view: memoryview) -> None:
        """Write content in packets, as full as they can be."""
        places = []
        for start in range(0, len(view), MAX_PAYLOAD):
            payload = view[start : start + MAX_PAYLOAD]
            full = len(payload) == MAX_PAYLOAD
            header = _FULL_HEADER if full else b"%04x" % (len(payload) + 4)
            places += [memoryview(header), payload]
            if len(places) >= 2 * _BATCH:
                self._write(places)
                places = []
        self._write(places)

    def flush(self) -> None:
        """Write a flush packet."""
        self._write([memoryview(_FLUSH)])

    def _write(self, places: list[memoryview]) -> None:
        if places:
            write_all(self._handle, places)


def widen(handle: int) -> None:
    """Ask for a larger pipe buffer where the platform has that."""
    with suppress(OSError):
        fcntl.fcntl(handle, _F_SETPIPE_SZ, _PIPE)
