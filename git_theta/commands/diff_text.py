"""What changed in a model, as lines for a terminal or a table for a review comment."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from git_theta.commands.comparing import Measured, metrics
from git_theta.commands.diff_model import ModelDiff, Side
from git_theta.commands.terminal import count, printable, size_text
from git_theta.core.changes import ADDED, CAST, CHANGED, PERMUTED, REMOVED, RENAMED, RESHAPED
from git_theta.core.folding import Folded, fold, joined_old_name, module_of, renamed_like
from git_theta.core.manifest import Tensor
from git_theta.core.metric import WEIGHTS, Value

_MARKS = {
    ADDED: "+", REMOVED: "-", RENAMED: ">", RESHAPED: "#", CAST: "%", PERMUTED: "=", CHANGED: "~",
}  # fmt: skip
_ORDER = (REMOVED, ADDED, RENAMED, RESHAPED, CAST, PERMUTED, CHANGED)
_BY_SIZE = _ORDER.index(PERMUTED)
_WIDEST = 64


@dataclass(frozen=True, slots=True)
class Group:
    """The changed tensors of one module, folded, those that changed most first."""

    name: str
    rows: tuple[Folded[Measured], ...]

    @property
    def members(self) -> list[Measured]:
        """All tensors of the group."""
        return [row for folded in self.rows for row in folded.items]


def groups(rows: Iterable[Measured]) -> list[Group]:
    """Changed tensors by module, the module that changed most first."""
    found: dict[str, list[Measured]] = defaultdict(list)
    for row in rows:
        found[module_of(row.change.name)].append(row)
    made = [
        Group(name, tuple(sorted(fold(members, _name, _alike, _size), key=_first_of)))
        for name, members in found.items()
    ]
    return sorted(made, key=lambda group: (_first_of(group.rows[0]), group.name))


def _name(row: Measured) -> str:
    return row.change.name


def _first_of(folded: Folded[Measured]) -> tuple[int, float, str]:
    row = folded.items[0]
    most = max(_relative(row) for row in folded.items)
    return (min(_ORDER.index(row.what), _BY_SIZE), -most, folded.name)


def _relative(row: Measured) -> float:
    return -1.0 if row.relative is None else row.relative


def _alike(row: Measured) -> Hashable:
    """What must be the same for tensors to share a line."""
    shapes = tuple(
        None if tensor is None else (tensor.dtype, tensor.shape)
        for tensor in (row.change.old, row.change.new)
    )
    odd = tuple((n, row.values[n].value) for n in ("rank", "nans", "infinities") if n in row.values)
    exact = row.facts is not None and row.facts.exact
    known = row.relative is not None
    was = row.change.old_name
    former = None if was is None else renamed_like(was, row.change.name)
    return (row.what, row.sure, known, shapes, row.kinds, odd, exact, frozenset(row.values), former)


def _size(row: Measured) -> float | None:
    return row.relative


# --- single cells --------------------------------------------------------------------------------


def shape_text(tensor: Tensor) -> str:
    """`768x768 BF16`."""
    return f"{'x'.join(map(str, tensor.shape)) or 'scalar'} {tensor.dtype}"


def shapes_text(row: Measured) -> str:
    """The shape and dtype, before and after where they differ."""
    old, new = row.change.old, row.change.new
    if old is None or new is None:
        return shape_text(row.change.tensor)
    if (old.shape, old.dtype) == (new.shape, new.dtype):
        return shape_text(new)
    if old.shape == new.shape:
        return f"{shape_text(old)} -> {new.dtype}"
    return f"{shape_text(old)} -> {shape_text(new)}"


def value_text(name: str, rows: Sequence[Measured]) -> str:
    """What a metric says of the tensors of one line: one value, or the lowest and the highest."""
    values = [row.values[name] for row in rows if name in row.values]
    if not values:
        return ""
    numbers = [v for v in values if isinstance(v.value, (int, float))]
    ends = [values[0]]
    if len(numbers) == len(values):
        ends = [min(numbers, key=_plain), max(numbers, key=_plain)]
    text = metrics()[name].text
    told = list(dict.fromkeys(printable(text(value.value)) for value in ends))
    if len(told) == 2 and all(part.endswith(" %") for part in told):
        told[0] = told[0].removesuffix(" %")
    return ("~" if any(value.error for value in values) else "") + " .. ".join(told)


def _plain(value: Value) -> float:
    return float(value.value)


def stored_text(folded: Folded[Measured]) -> str:
    """How the new side is stored, and in how many bytes."""
    rows = folded.items
    if rows[0].what in (REMOVED, RENAMED):
        return ""
    if not rows[0].kinds:
        return "not yet"
    kinds = "+".join(rows[0].kinds)
    return f"{kinds} {size_text(sum(row.stored for row in rows))}"


def columns(rows: Iterable[Measured]) -> list[str]:
    """The metrics that say something of at least one tensor.

    Those that need the weights are left out where only some were read.
    """
    known = list(rows)
    said = {name for row in known for name in row.values}
    if any(row.facts is not None and not row.facts.exact for row in known):
        said = {name for name in said if metrics()[name].needs != WEIGHTS}
    return [name for name in metrics() if name in said]


def name_text(folded: Folded[Measured]) -> str:
    """The name of a line, and how many tensors it stands for; `old -> new` for renamed ones."""
    change, name = folded.items[0].change, printable(folded.name)
    if change.old_name is not None:
        was = joined_old_name(folded.name, change.old_name, change.name)
        name = f"{printable(was)} -> {name}"
    return f"{name} ({len(folded.items)})" if len(folded.items) > 1 else name


def what_text(row: Measured) -> str:
    """The change in one word."""
    return row.what if row.sure else f"{row.what}?"


# --- the whole -----------------------------------------------------------------------------------


def title(diff: ModelDiff) -> str:
    """The path of a model, or both where it moved."""
    old = diff.old.paths if diff.old else ()
    new = diff.new.paths if diff.new else ()
    if old and new and set(old) != set(new):
        names = [paths[0] if len(paths) == 1 else f"{paths[0]} ..." for paths in (old, new)]
        return printable(f"{names[0]} -> {names[1]}")
    return printable(diff.path)


def summary_lines(diff: ModelDiff) -> Iterator[str]:
    """What changed at large."""
    if diff.old is None or diff.new is None:
        side = diff.new or diff.old
        verb = "added" if diff.old is None else "removed"
        yield f"{verb}: {_side_text(side)}" if side else verb
        return
    one, other = _side_text(diff.old), _side_text(diff.new)
    yield one if one == other else f"{one} -> {other}"
    if not (diff.rows or diff.text):
        same = diff.old.digests == diff.new.digests
        yield "the same file" if same else "the same tensors and data, written in another way"
        return
    total = diff.same + len(diff.rows)
    told = [f"{number:,} {what}" for what, number in diff.counts().items()]
    line = f"{', '.join(told) or 'no tensor changed'} of {count(total, 'tensor')}"
    relative = diff.relative()
    if relative is not None:
        line += f"; |dW|/|W| of what changed {_estimated(*relative)}"
    yield line


def _estimated(value: float, estimated: bool) -> str:
    text = metrics()["relative_l2"].text(value) if "relative_l2" in metrics() else f"{value:.3g}"
    return f"~{text}" if estimated else text


def _side_text(side: Side) -> str:
    formats = ", ".join(map(printable, side.formats))
    files = f" in {count(len(side.paths), 'file')}" if len(side.paths) > 1 else ""
    return f"{formats}, {count(side.tensors, 'tensor')}, {size_text(side.size)}{files}"


def lines(diff: ModelDiff) -> Iterator[str]:
    """All of it, as printed."""
    yield from summary_lines(diff)
    if diff.old is not None and diff.new is not None:
        yield from _table(diff)
    if diff.text:
        yield ""
        yield "not tensors:"
        yield from (f"  {printable(line)}" for line in diff.text)
    yield from (f"note: {printable(note)}" for note in diff.notes)


def _table(diff: ModelDiff) -> Iterator[str]:
    names = columns(diff.rows)
    heads = ["SHAPE", *(metrics()[name].title for name in names), "STORED"]
    made = [
        (group, [_cells(folded, names) for folded in group.rows]) for group in groups(diff.rows)
    ]
    cells = [row for _, rows in made for row in rows]
    if not cells:
        return
    widths = [max(len(heads[i]), *(len(row[2][i]) for row in cells)) for i in range(len(heads))]
    # Two names in one cell would push everything else aside.
    named = [len(row[1]) for row in cells if row[0] != _MARKS[RENAMED]] or [_WIDEST]
    widest = min(_WIDEST, max(named) + 2)
    yield ""
    yield f"  {'TENSOR'.ljust(widest)}  {_aligned(heads, widths)}".rstrip()
    for group, rows in made:
        headed = len(made) > 1 and len(group.members) > 1
        if headed:
            yield f"  {_group_line(group)}"
        for mark, name, values in rows:
            told = ("  " if headed else "") + name
            yield f"{mark} {told.ljust(widest)}  {_aligned(values, widths)}".rstrip()
    yield from _legend(diff.rows)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """The first and the last column flush left, the numbers between them flush right."""
    last = len(cells) - 1
    parts = (
        cell.ljust(width) if index in (0, last) else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join(parts)


def _legend(rows: Iterable[Measured]) -> Iterator[str]:
    told = _error_text(rows)
    if told:
        yield ""
        yield f"~ {told}; git theta diff --exact reads the weights"


def _error_text(rows: Iterable[Measured]) -> str:
    errors = [row.facts.error for row in rows if row.facts is not None and row.facts.error]
    if not errors:
        return ""
    return f"estimated from sketches, one standard deviation {max(errors):.0%}"


def _group_line(group: Group) -> str:
    members = group.members
    counts = [
        f"{number:,} {what}"
        for what in _ORDER
        if (number := sum(row.what == what for row in members))
    ]
    known = [
        row.facts
        for row in members
        if row.facts is not None and row.facts.square is not None and row.facts.old_square
    ]
    whole = sum(facts.old_square or 0 for facts in known)
    moved = ""
    if whole:
        ratio = math.sqrt(sum(facts.square or 0 for facts in known) / whole)
        moved = f", {_estimated(ratio, any(facts.error for facts in known))}"
    return f"{printable(group.name)}: {', '.join(counts)}{moved}"


def _cells(folded: Folded[Measured], names: Sequence[str]) -> tuple[str, str, list[str]]:
    row = folded.items[0]
    name = name_text(folded)
    if not row.sure:
        name += f" {what_text(row)}"
    values = [value_text(metric, folded.items) for metric in names]
    return _MARKS[row.what], name, [shapes_text(row), *values, stored_text(folded)]


# --- for review comments -------------------------------------------------------------------------


def markdown(diff: ModelDiff) -> Iterator[str]:
    """A section of Markdown for one model; other people's names are made plain text."""
    yield f"### {_plain_text(diff.path)}"
    yield ""
    yield from (f"{_plain_text(line)}  " for line in summary_lines(diff))
    if diff.old is not None and diff.new is not None and diff.rows:
        names = columns(diff.rows)
        heads = ["", "tensor", "shape", *(metrics()[n].title for n in names), "stored"]
        yield ""
        yield "| " + " | ".join(_plain_text(head) for head in heads) + " |"
        yield "|---" * len(heads) + "|"
        for group in groups(diff.rows):
            for folded in group.rows:
                _, name, cells = _cells(folded, names)
                row = [what_text(folded.items[0]), _code(name), *map(_plain_text, cells)]
                yield "| " + " | ".join(row) + " |"
        told = _error_text(diff.rows)
        if told:
            yield ""
            yield _plain_text(f"~ {told}")
    if diff.text:
        yield ""
        yield "```diff"
        yield from (printable(line).replace("```", "'''") for line in diff.text)
        yield "```"
    for note in diff.notes:
        yield ""
        yield f"> {_plain_text(printable(note))}"
    yield ""


def _plain_text(text: str) -> str:
    return "".join(f"&#{ord(c)};" if c in "|<>&`*_[]@#!\\~" else c for c in printable(text))


def _code(text: str) -> str:
    return f"<code>{_plain_text(text)}</code>"
