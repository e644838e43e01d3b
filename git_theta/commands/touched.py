"""`git status` of a file that was only touched: found out before anything heavy is imported.

What Git hands over is digested and compared with the work-tree file on the way. If it is what is
staged, the staged manifest is the answer; else the stream is read again, from that file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from git_theta.commands.session import Session
from git_theta.core.manifest import is_manifest, parse
from git_theta.errors import ThetaError
from git_theta.repo.candidates import Candidates
from git_theta.repo.streams import Incoming, SeenStream, open_regular

# From here on many threads are sooner done than one, what they need to start included.
_LARGE = 128 << 20
_SIZE = re.compile(rb'\n"size": ([0-9]{1,18}),\n')

Clean = Callable[[Incoming], bytes]


def clean(session: Session, path: str, content: Incoming, otherwise: Clean) -> bytes:
    """The staged manifest for content that is what it says; `otherwise` does all other work."""
    handle = None if path in session.given else open_regular(session.path(path))
    if handle is None:
        return otherwise(content)
    try:
        staged = _staged(session, path, os.fstat(handle).st_size)
        if staged is None or is_manifest(content.head(64)):
            return otherwise(content)
        seen = SeenStream(content, handle)
        digest = seen.look()
        return staged if digest is not None and _says(staged, digest) else otherwise(seen)
    finally:
        os.close(handle)


def _staged(session: Session, path: str, size: int) -> bytes | None:
    """What is staged for the path, if it is the manifest of a file of this size."""
    if size > _LARGE:
        return None
    text = next(iter(Candidates(session.repo).of_path(path)), None)
    found = None if text is None else _SIZE.search(text, 0, 4096)
    return text if found is not None and int(found[1]) == size else None


def _says(text: bytes, digest: str) -> bool:
    try:
        return parse(text).digest == digest
    except ThetaError:
        return False
