"""Which files are worth a look for code: told from their first bytes, with nothing imported."""

from __future__ import annotations


def may_run(head: bytes) -> bool:
    """Whether a file that begins with these bytes is of a kind that can run anything at all."""
    text_pickle = head[:1] in (b"(", b"c", b"]", b"}", b"L", b"I") and b"\n" in head[:256]
    kinds = (b"\x80", b"PK\3\4", b"PK\5\6", b"\x89HDF\r\n\x1a\n", b"\x93NUMPY")
    return head.startswith(kinds) or text_pickle or b"PK\3\4" in head[:64]
