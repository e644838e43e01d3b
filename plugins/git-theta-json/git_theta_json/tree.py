"""Where the members of a JSON text lie: what `relayout` needs to take some out and put some in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from git_theta.errors import FormatError
from git_theta_json.scan import BOM, TOKEN, key_text


@dataclass(slots=True)
class Node:
    """A value: `begin` is where its key starts, or it itself where it has none."""

    kind: str
    path: str | None
    depth: int
    label: str
    begin: int
    start: int
    colon: bytes = b""
    end: int = 0
    parent: Node | None = None
    items: list[Node] = field(default_factory=list)

    def walk(self) -> Iterator[Node]:
        """All nodes from this one on, in the order of the text."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.items))


def parse(text: bytes) -> Node:
    """Read a text that `split` has read before.

    Raises:
        FormatError: it is no JSON.
    """
    at = len(BOM) if text.startswith(BOM) else 0
    root: Node | None = None
    parent: Node | None = None
    key: tuple[int, int, str] | None = None
    while True:
        match = TOKEN.match(text, at)
        if match is None:
            raise FormatError(f"it is no JSON at byte {at}")
        at, mark = match.end(), match[2] or b""
        if match[3] is not None:
            break
        start = at - len(match[0].lstrip(b" \t\r\n"))
        if mark in (b":", b","):
            continue
        if mark in (b"]", b"}"):
            if parent is None:
                raise FormatError(f"it is no JSON at byte {start}")
            parent.end, parent = at, parent.parent
        elif match[1] is not None and parent is not None and parent.kind == "{" and key is None:
            key = start, at, key_text(match[1])
        else:
            node = _node(text, mark.decode(), start, parent, key)
            node.end, key = at, None
            root = root or node
            parent = node if mark else parent
    if root is None or parent is not None:
        raise FormatError("it is no JSON")
    return root


def _node(
    text: bytes, kind: str, start: int, parent: Node | None, key: tuple[int, int, str] | None
) -> Node:
    if parent is None:
        return Node(kind, None, 0, "", start, start)
    label = key[2] if key else str(len(parent.items))
    path = label if parent.path is None else f"{parent.path}.{label}"
    colon = text[key[1] : start] if key else b""
    node = Node(kind, path, parent.depth + 1, label, key[0] if key else start, start, colon)
    node.parent = parent
    parent.items.append(node)
    return node
