"""The page of `git theta diff --html`: what changed in some models, to look at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from git_theta import __version__
from git_theta.commands.comparing import Measured, metrics
from git_theta.commands.diff_model import ModelDiff, number
from git_theta.commands.diff_text import title
from git_theta.commands.pages.assemble import assemble
from git_theta.commands.terminal import printable
from git_theta.commands.watching import Picture
from git_theta.core.changes import RENAMED
from git_theta.core.folding import block_of, module_of

_TENSORS = 20_000
_PICTURES = 1500
_LABELS = {
    "relative_l2": "|ΔW| / |W|",
    "l2": "|ΔW|",
    "cosine": "cosine",
    "largest": "largest change",
    "changed_share": "values changed",
    "sign_flips": "signs turned",
    "rank": "rank of the difference",
    "nans": "NaN",
    "infinities": "Inf",
}
_TITLES = {"relative_l2": "|ΔW|/|W|", "l2": "|ΔW|", "nans": "NaN", "infinities": "Inf"}


def diff_page(
    diffs: Sequence[tuple[ModelDiff, Mapping[str, Picture]]], told: str, *, exact: bool
) -> str:
    """The page; `told` says what was compared."""
    names = {name for diff, _ in diffs for row in diff.rows for name in row.values}
    data = {
        "told": printable(told),
        "version": __version__,
        "exact": exact,
        "metrics": [
            {"name": n, "title": _TITLES.get(n, metric.title.lower()), "label": _label(n)}
            for n, metric in metrics().items()
            if n in names
        ],
        "models": [_model(diff, pictures) for diff, pictures in diffs],
    }
    heading = ", ".join(title(diff) for diff, _ in diffs) or "nothing differs"
    return assemble("diff", f"{heading}: {printable(told)}", data)


def _label(name: str) -> str:
    return printable(_LABELS.get(name, metrics()[name].title.lower()))


def _model(diff: ModelDiff, pictures: Mapping[str, Picture]) -> dict[str, Any]:
    relative = diff.relative()
    ordered = sorted(diff.rows, key=_first_of)[:_TENSORS]
    drawn = {row.change.name for row in ordered[:_PICTURES]}
    everything = [*(row.change.name for row in ordered), *diff.unchanged]
    several = len({module_of(name) for name in everything if block_of(name)[0] is not None}) > 1
    notes = [printable(note) for note in diff.notes]
    if len(ordered) < len(diff.rows):
        notes.append(f"Only the {_TENSORS:,} tensors that changed most are on this page.")
    return {
        "title": title(diff),
        "counts": diff.counts(),
        "same": diff.same,
        "old": None if diff.old is None else diff.old.to_dict(),
        "new": None if diff.new is None else diff.new.to_dict(),
        "relative_l2": None if relative is None else number(relative[0]),
        "estimated": relative is not None and relative[1],
        "still": _still(diff, several),
        "text": [printable(line) for line in diff.text],
        "notes": notes,
        "tensors": [
            _tensor(
                row, pictures.get(row.change.name) if row.change.name in drawn else None, several
            )
            for row in ordered
        ],
    }


def _still(diff: ModelDiff, several: bool) -> list[tuple[str, int]]:
    """The places on the map of tensors whose values did not change."""
    found = []
    renamed = [row.change.name for row in diff.rows if row.what == RENAMED]
    for name in (*renamed, *diff.unchanged)[:_TENSORS]:
        block, part = block_of(name)
        if block is not None:
            found.append((printable(f"{module_of(name)}: {part}" if several else part), block))
    return found


def _first_of(row: Measured) -> tuple[float, str]:
    return (-math.inf if row.relative is None else -row.relative, row.change.name)


def _tensor(row: Measured, picture: Picture | None, several: bool) -> dict[str, Any]:
    change = row.change
    block, part = block_of(change.name)
    known = metrics()
    found: dict[str, Any] = {
        "name": printable(change.name),
        "old_name": None if change.old_name is None else printable(change.old_name),
        "what": row.what,
        "sure": row.sure,
        "old": _side(change.old),
        "new": _side(change.new),
        "kinds": list(row.kinds),
        "stored": row.stored,
        "block": block,
        "part": printable(f"{module_of(change.name)}: {part}" if several else part),
        "metrics": {
            name: {
                "value": number(value.value),
                "text": printable(known[name].text(value.value)),
                "error": number(value.error),
            }
            for name, value in row.values.items()
        },
    }
    if picture is not None:
        found |= {"histogram": picture.histogram, "singular": picture.singular}
    return found


def _side(tensor: Any) -> dict[str, Any] | None:
    if tensor is None:
        return None
    return {
        "dtype": printable(tensor.dtype),
        "shape": list(tensor.shape),
        "bytes": tensor.segment.size,
    }
