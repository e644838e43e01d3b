"""An LFS server that fails as it is told: small, in this process, with a script of faults.

It speaks the batch API and the basic transfer. `fail` names what the next requests of a kind meet;
when the script is used up, all is well again.
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KINDS = ("batch", "get", "put")
FAULTS = (
    "429", "500", "503", "507", "truncated", "wrong", "expired", "slow", "hang", "reset", "garbage",
)  # fmt: skip
_TYPE = "application/vnd.git-lfs+json"
_RESET = struct.pack("ii", 1, 0)
_SLICES = 20


@dataclass(eq=False)
class FaultServer:
    """What the server keeps and how it fails."""

    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    met: list[str] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    _script: list[list[Any]] = field(default_factory=list)
    _tickets: set[str] = field(default_factory=set)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, kind: str, fault: str, times: int = 1) -> None:
        """Let the next requests of a kind meet a fault."""
        assert kind in KINDS
        assert fault in FAULTS
        self._script.append([kind, fault, times])

    def recover(self) -> None:
        """Fail no more."""
        with self._guard:
            self._script.clear()

    def next_fault(self, kind: str) -> str:
        """What a request meets: a fault, or nothing."""
        with self._guard:
            self.asked.append(kind)
            for step in self._script:
                if step[0] == kind and step[2]:
                    step[2] -= 1
                    self.met.append(f"{kind} {step[1]}")
                    return str(step[1])
        return ""

    def batch(self, asked: Any, fault: str) -> dict[str, Any]:
        """The answer to a batch request."""
        download = asked["operation"] == "download"
        answers = []
        for entry in asked["objects"]:
            answer = {"oid": entry["oid"], "size": entry["size"]}
            if download and entry["oid"] not in self.objects:
                answer["error"] = {"code": 404, "message": "Object does not exist"}
            elif download or entry["oid"] not in self.objects:
                name = "download" if download else "upload"
                answer["actions"] = {name: self._action(entry["oid"], fault)}
            answers.append(answer)
        return {"transfer": "basic", "objects": answers}

    def _action(self, oid: str, fault: str) -> dict[str, Any]:
        ticket = f"{len(self.asked)}-{oid[:8]}"
        action = {"href": f"{self.url}/objects/{oid}?ticket={ticket}"}
        if fault == "expired":
            return action | {"expires_at": "2001-02-03T04:05:06Z"}
        with self._guard:
            self._tickets.add(ticket)
        return action

    def admits(self, ticket: str) -> bool:
        """Whether a link is still good."""
        return ticket in self._tickets


class _Handler(BaseHTTPRequestHandler):
    faulty: FaultServer
    protocol_version = "HTTP/1.1"
    fault = ""

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        self._handle("batch", self._batch)

    def do_GET(self) -> None:
        self._handle("get", self._get)

    def do_PUT(self) -> None:
        self._handle("put", self._put)

    def _handle(self, kind: str, answer: Callable[[], None]) -> None:
        self.fault = self.faulty.next_fault(kind)
        self.data = b""
        if self.fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.close_connection = True
            self.connection.close()
            return
        self.data = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self.fault == "hang":
            self.faulty.closing.wait()
            self.close_connection = True
        elif self.fault.isdigit():
            wait = {"Retry-After": "1"} if self.fault == "429" else {}
            self._answer(int(self.fault), b'{"message":"not now"}', **wait)
        else:
            answer()

    def _batch(self) -> None:
        answer = json.dumps(self.faulty.batch(json.loads(self.data), self.fault)).encode()
        self._answer(200, b"<html>\0" if self.fault == "garbage" else answer)

    def _get(self) -> None:
        oid, _, ticket = self.path.rpartition("/")[2].partition("?ticket=")
        data = self.faulty.objects[oid]
        if self.fault == "wrong":
            data = bytes([data[0] ^ 1]) + data[1:]
        if self.faulty.admits(ticket):
            self._answer(200, data)
        else:
            self._answer(403, b"the link has expired")

    def _put(self) -> None:
        oid, _, ticket = self.path.rpartition("/")[2].partition("?ticket=")
        if not self.faulty.admits(ticket):
            self._answer(403, b"the link has expired")
        elif hashlib.sha256(self.data).hexdigest() != oid:
            self._answer(422, b"these are other bytes")
        else:
            self.faulty.objects[oid] = self.data
            self._answer(200, b"")

    def _answer(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", _TYPE)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.fault == "truncated":
            self.close_connection = True
            data = data[: len(data) // 2]
        if self.fault == "slow":
            step = len(data) // _SLICES + 1
            for start in range(0, len(data), step):
                self.wfile.write(data[start : start + step])
                time.sleep(0.05)
        else:
            self.wfile.write(data)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that went away are no news."""


@contextmanager
def serving() -> Iterator[FaultServer]:
    """Run a server on a free port of this machine."""
    faulty = FaultServer()
    handler = type("Handler", (_Handler,), {"faulty": faulty})
    server = _Server(("127.0.0.1", 0), handler)
    faulty.url = f"http://127.0.0.1:{server.server_port}/team/model"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield faulty
    finally:
        faulty.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
