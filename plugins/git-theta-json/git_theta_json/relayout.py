"""A JSON text with other tensors: some taken out, some put in, the rest left as it stands."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from git_theta.core.layout import TensorSpec
from git_theta.errors import FormatError
from git_theta_json.numbers import DTYPES, MAX_DIMENSIONS, Style
from git_theta_json.spelling import INTEGER, POINTED, PYTHON
from git_theta_json.tree import Node, parse

_HOLE = b"0"
Piece = bytes | int
Edit = tuple[int, int, list[Piece]]


@dataclass(frozen=True, slots=True)
class Relaid:
    """Texts, the styles between them, and which of the given tensors stands at each place."""

    texts: list[bytes]
    styles: list[Style]
    order: list[int]


def relaid(texts: Sequence[bytes], styles: Sequence[Style], specs: Sequence[TensorSpec]) -> Relaid:
    """Write the texts for other tensors.

    Raises:
        FormatError: there is no JSON text like this one with these tensors.
    """
    for spec in specs:
        _check(spec)
    wanted = {spec.name: index for index, spec in enumerate(specs)}
    if len(wanted) != len(specs) or not specs:
        raise FormatError("a JSON file needs tensors, each of another name")
    return _Change(texts, styles, specs).made(wanted)


def _check(spec: TensorSpec) -> None:
    if spec.dtype not in DTYPES:
        raise FormatError(f"JSON has no numbers of dtype {spec.dtype}, as {spec.name!r} has")
    if not 0 < len(spec.shape) <= MAX_DIMENSIONS or any(size < 1 for size in spec.shape):
        raise FormatError(f"no JSON list of numbers has the shape {spec.shape} of {spec.name!r}")
    try:
        spec.name.encode()
    except UnicodeEncodeError as error:
        raise FormatError(f"{spec.name!r} has half a character in its name") from error


class _Change:
    """One change of a text in which every tensor is a hole."""

    def __init__(
        self, texts: Sequence[bytes], styles: Sequence[Style], specs: Sequence[TensorSpec]
    ) -> None:
        self._specs = specs
        self._text = _HOLE.join(texts)
        sizes = itertools.accumulate(len(text) + 1 for text in texts[:-1])
        self._holes = dict(zip((end - 1 for end in sizes), styles, strict=True))
        self._root = parse(self._text)
        self._nodes = list(self._root.walk())
        self._white = _White(self._text, self._nodes, list(styles))
        self._edits: list[Edit] = []
        self._styles: dict[int, Style] = {}

    def made(self, wanted: dict[str, int]) -> Relaid:
        gone, stay = set(), set()
        for node in self._nodes:
            if node.start not in self._holes:
                continue
            name = "root" if node.path is None else node.path
            index = wanted.get(name)
            if index is None:
                gone.add(id(node))
                continue
            stay.add(index)
            style = self._holes[node.start]
            self._styles[index] = self._white.fitted(style, self._specs[index], node.depth)
            self._edits.append((node.start, node.end, [index]))
        added = self._added([i for i in range(len(self._specs)) if i not in stay], gone)
        for node in self._nodes:
            self._change(node, gone, added.get(id(node), {}))
        if id(self._root) in gone:
            raise FormatError("the JSON file is one list, and has no place for other tensors")
        return self._cut()

    def _added(self, new: Sequence[int], gone: set[int]) -> dict[int, dict[str, Any]]:
        """The members to add to each node: a tensor's number, or the members of a new object."""
        nodes = [node for node in self._nodes if id(node) not in gone]
        taken = {node.path for node in nodes}
        parents = {node.path: node for node in nodes if node.kind}
        added: dict[int, dict[str, Any]] = {}
        for index in new:
            name = self._specs[index].name
            parts = name.split(".")
            cut = next(
                (at for at in range(len(parts) - 1, 0, -1) if ".".join(parts[:at]) in parents), 0
            )
            parent = parents.get(".".join(parts[:cut]) if cut else None)
            *outer, last = parts[cut:]
            if parent is None or name in taken or self._blocked(parent, parts[cut], gone):
                raise FormatError(f"there is other data where the tensor {name!r} would stand")
            level = added.setdefault(id(parent), {})
            for part in outer:
                level = level.setdefault(part, {})
                if not isinstance(level, dict):
                    raise FormatError(f"the tensor {name!r} would stand in another one")
            if last in level:
                raise FormatError(f"the tensor {name!r} would stand where others stand")
            level[last] = index
        return added

    def _blocked(self, parent: Node, label: str, gone: set[int]) -> bool:
        if parent.kind == "[":
            return not label.isdecimal() or int(label) < len(parent.items)
        return any(item.label == label for item in parent.items if id(item) not in gone)

    def _change(self, node: Node, gone: set[int], added: dict[str, Any]) -> None:
        out = [id(item) in gone for item in node.items]
        if node.kind == "[":
            # Without its place in the list, every item behind it would have another name.
            nulls = (item for item, is_out in zip(node.items, out, strict=True) if is_out)
            self._edits += [(item.start, item.end, [b"null"]) for item in nulls]
            first = len(node.items)
            if sorted(added) != sorted(str(first + more) for more in range(len(added))):
                raise FormatError(f"the items of the list {node.path!r} would have gaps")
            added = {label: added[label] for label in sorted(added, key=int)}
        elif node.items and all(out):
            self._edits.append((node.start + 1, node.end - 1, []))
        else:
            stays = out.index(False) if node.items else 0
            for at, item in enumerate(node.items):
                if out[at] and at < stays:
                    self._edits.append((item.begin, node.items[at + 1].begin, []))
                elif out[at]:
                    self._edits.append((node.items[at - 1].end, item.end, []))
        if added:
            self._insert(node, added, fresh=node.kind == "{" and all(out))

    def _insert(self, node: Node, added: dict[str, Any], *, fresh: bool) -> None:
        first, between, last = self._white.around(node)
        gaps = [first if fresh else between, *[between] * (len(added) - 1)]
        at = node.items[-1].end if node.items and not fresh else node.end - 1
        pieces: list[Piece] = []
        for (label, value), gap in zip(added.items(), gaps, strict=True):
            key = self._white.key(label, node) if node.kind == "{" else b""
            pieces += [gap + key, *self._value(value, node.depth + 1)]
        if fresh:
            at, pieces = node.end - 1, [*pieces, last]
            self._edits = [edit for edit in self._edits if edit[:2] != (node.start + 1, at)]
            self._edits.append((node.start + 1, at, pieces))
        else:
            self._edits.append((at, at, pieces))

    def _value(self, value: Any, depth: int) -> Iterator[Piece]:
        if isinstance(value, int):
            self._styles[value] = self._white.fitted(None, self._specs[value], depth)
            yield value
            return
        gap, between = b"{" + self._white.line(depth + 1), b"," + self._white.next(depth + 1)
        for label, inner in value.items():
            yield gap + self._white.key(label, None)
            yield from self._value(inner, depth + 1)
            gap = between
        yield self._white.line(depth) + b"}"

    def _cut(self) -> Relaid:
        texts, order, at = [b""], [], 0
        for start, end, pieces in sorted(self._edits, key=lambda edit: edit[:2]):
            texts[-1] += self._text[at:start]
            at = end
            for piece in pieces:
                if isinstance(piece, int):
                    order.append(piece)
                    texts.append(b"")
                else:
                    texts[-1] += piece
        texts[-1] += self._text[at:]
        return Relaid(texts, [self._styles[index] for index in order], order)


class _White:
    """The white space and spellings of a file, for what is new in it."""

    def __init__(self, text: bytes, nodes: Sequence[Node], styles: Sequence[Style]) -> None:
        self._text = text
        self._styles = styles
        full = [node for node in nodes if node.kind == "{" and node.items]
        self._open = self._first(full[0]) if full else b""
        self._unit = b""
        if b"\n" in self._open:
            lead = self._open.rpartition(b"\n")[2]
            self._unit = lead[: len(lead) // full[0].items[0].depth]
        self._colon = full[0].items[0].colon if full else b": "
        many = [node for node in full if len(node.items) > 1]
        usual = b", " if self._colon.endswith(b" ") else b","
        self._comma = self._between(many[0]) if many else usual
        if b"\n" in self._comma:
            self._comma = b","
        spellings = Counter(s.spelling for s in styles if s.spelling in POINTED)
        self._float = spellings.most_common(1)[0][0] if spellings else PYTHON
        gaps = (depth[1] for style in styles for depth in style.depths if depth[1])
        self._gap = next((gap for gap in gaps if "\n" not in gap), usual.decode())

    def _first(self, node: Node) -> bytes:
        return self._text[node.start + 1 : node.items[0].begin]

    def _between(self, node: Node) -> bytes:
        return self._text[node.items[0].end : node.items[1].begin]

    def line(self, depth: int) -> bytes:
        """What stands before an item at a depth, behind a bracket."""
        if b"\n" not in self._open:
            return self._open
        return self._open.rpartition(b"\n")[0] + b"\n" + self._unit * depth

    def next(self, depth: int) -> bytes:
        """What stands before an item at a depth, behind a comma."""
        return self.line(depth) if b"\n" in self._open else self._comma.partition(b",")[2]

    def around(self, node: Node) -> tuple[bytes, bytes, bytes]:
        """What stands before the first item of a node, between two, and behind the last."""
        if not node.items:
            deep = node.depth + 1
            return self.line(deep), b"," + self.next(deep), self.line(node.depth)
        first, last = self._first(node), self._text[node.items[-1].end : node.end - 1]
        if len(node.items) > 1:
            return first, self._between(node), last
        return first, b"," + first if b"\n" in first else self._comma, last

    def key(self, label: str, node: Node | None) -> bytes:
        """A key and its colon."""
        colon = node.items[0].colon if node is not None and node.items else self._colon
        return json.dumps(label, ensure_ascii=self._text.isascii()).encode() + colon

    def fitted(self, style: Style | None, spec: TensorSpec, depth: int) -> Style:
        """A style for a tensor: its own as far as it fits, or one like that of others."""
        whole = spec.dtype == "I64"
        spelling = style.spelling if style is not None else ""
        if not spelling or (spelling == INTEGER) != whole:
            spelling = INTEGER if whole else self._float
        like = style or self._styles[0] if style or self._styles else None
        depths = like.depths if like is not None else (("[", "", "]"),)
        if style is None or len(depths) != len(spec.shape):
            depths = self._depths(depths, len(spec.shape), depth)
        fitted = tuple(
            (before, between or self._behind(before, size), behind)
            for (before, between, behind), size in zip(depths, spec.shape, strict=True)
        )
        return Style(spelling, fitted)

    def _behind(self, before: str, size: int) -> str:
        """The comma of a list that had one item, and no comma."""
        if size == 1:
            return ""
        return "," + before[1:] if "\n" in before else self._gap

    def _depths(
        self, like: tuple[tuple[str, str, str], ...], count: int, depth: int
    ) -> tuple[tuple[str, str, str], ...]:
        outer, inner = like[0], like[-1]
        depths = []
        for at in range(count):
            model = inner if at == count - 1 else outer
            if "\n" in model[0] and b"\n" in self._open:
                deep = self.line(depth + at + 1).decode()
                model = f"[{deep}", f",{deep}", f"{self.line(depth + at).decode()}]"
            depths.append(model)
        return tuple(depths)
