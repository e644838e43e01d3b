"""A real LFS server (giftless) on a free port of this machine.

Run as a program it serves a directory until its input ends. `/guarded/...` wants a header,
`/private/...` a name and a password, `/broken/...` takes nothing; every request is written to a
log, one a line.
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEADER, SECRET = "X-Theta-Test", "open sesame"
USER, PASSWORD = "ali", "baba"
LOGIN = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@dataclass
class LfsServer:
    """The running server, as tests see it."""

    url: str
    root: Path

    def object_files(self, name: str) -> list[Path]:
        """The stored objects of one repository."""
        folder = self.root / "objects" / name
        return sorted(path for path in folder.rglob("*") if path.is_file())

    def requests(self) -> list[str]:
        """What was asked so far: method and path."""
        return (self.root / "log").read_text().splitlines()


def start(root: Path) -> tuple[subprocess.Popen[str], LfsServer]:
    """Start the server as a process that ends with its standard input."""
    root.mkdir(parents=True)
    with (root / "errors").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, __file__, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    port = process.stdout.readline().strip()
    assert port, (root / "errors").read_text()
    return process, LfsServer(f"http://127.0.0.1:{port}", root)


def _gate(app: Any, log: Path) -> Any:
    def gated(environ: dict[str, Any], respond: Any) -> Any:
        path = environ["PATH_INFO"]
        with log.open("a") as file:
            file.write(f"{environ['REQUEST_METHOD']} {path}\n")
        given = environ.get(f"HTTP_{HEADER.upper().replace('-', '_')}")
        unknown = False
        refused = path.startswith("/guarded/") and given != SECRET
        if path.startswith("/private/") and path.endswith("/objects/batch"):
            # The addresses of the objects, which its answer holds, carry a key of their own.
            login = environ.pop("HTTP_AUTHORIZATION", None)
            unknown = login != LOGIN
        if unknown:
            respond("401 Unauthorized", [("WWW-Authenticate", 'Basic realm="tests"')])
            return [b"{}"]
        if refused or path.startswith("/broken/"):
            respond("403 Forbidden" if refused else "507 Insufficient Storage", [])
            return [b"{}"]
        return app(environ, respond)

    return gated


def main(root: Path) -> None:
    """Serve until the input ends."""
    config = f"""
AUTH_PROVIDERS:
  - giftless.auth.allow_anon:read_write
TRANSFER_ADAPTERS:
  basic:
    factory: giftless.transfer.basic_streaming:factory
    options:
      storage_class: giftless.storage.local_storage:LocalStorage
      storage_options:
        path: {root / "objects"}
"""
    os.environ["GIFTLESS_CONFIG_STR"] = config
    from giftless.wsgi_entrypoint import app  # type: ignore[import-untyped]
    from waitress import create_server  # type: ignore[import-untyped]

    log = root / "log"
    log.touch()
    server = create_server(_gate(app, log), host="127.0.0.1", port=0, threads=8)
    sys.stdout.write(f"{server.effective_port}\n")
    sys.stdout.flush()
    threading.Thread(target=server.run, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
