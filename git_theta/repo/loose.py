"""Git's loose objects, inflated no further than they are wanted.

What was committed since the last `git gc` lies in files of its own. Git would inflate all of such
a blob, of which we often want the first lines; thousands of manifests make that seconds.
"""

from __future__ import annotations

import zlib
from pathlib import Path

_READ = 1 << 14
_KIND = b"blob "


def beginning(objects: Path, oid: str, mark: bytes) -> bytes | None:
    """A blob's text up to a mark, or all of it where the mark is not in it.

    Returns None where it does not lie here as a loose blob, or is damaged: Git may say more.
    """
    inflate, text, seen = zlib.decompressobj(), bytearray(), 0
    try:
        with (objects / oid[:2] / oid[2:]).open("rb", buffering=0) as file:
            while not inflate.eof and text.find(mark, max(0, seen - len(mark))) < 0:
                seen = len(text)
                data = file.read(_READ)
                if not data:
                    return None
                text += inflate.decompress(data)
    except (OSError, zlib.error):
        return None
    head, _, content = bytes(text).partition(b"\0")
    if not head.startswith(_KIND) or (inflate.eof and head[len(_KIND) :] != b"%d" % len(content)):
        return None
    return content
