"""Weights replaced by what a small update restores: because somebody asked for just that."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from git_theta.commands.session import Session, say
from git_theta.commands.sideloading import base_of, is_staged, open_model, write
from git_theta.commands.staging import Report
from git_theta.commands.tensors import OpenFile, StoredFile
from git_theta.core.chain import Bytes
from git_theta.core.edits import Edit, FactorUpdate, Kept, Product, Rebased
from git_theta.core.fitting import why_not_editable
from git_theta.core.layout import TensorView
from git_theta.core.manifest import CHUNK
from git_theta.core.truncation import memory_needed, truncated, within
from git_theta.core.values import Doubles, to_float
from git_theta.errors import RefusedError, UsageError, shell_word
from git_theta.repo.streams import FileReader

LOW_RANK, SPARSE = "low-rank", "sparse"


@dataclass(frozen=True, slots=True)
class Wish:
    """How far from the truth: at most a rank, at most a distance as a share of the norm."""

    kind: str
    rank: int | None
    tolerance: float | None

    @classmethod
    def of(cls, update: str | None, rank: int | None, tolerance: float | None) -> Wish:
        """Check the options.

        Raises:
            UsageError: they do not go together.
        """
        kind = LOW_RANK if update is None and rank is not None else update
        if kind not in (LOW_RANK, SPARSE):
            raise UsageError(
                "--lossy needs --update low-rank or --update sparse",
                hint="other updates have nothing to leave out",
            )
        if kind == SPARSE and rank is not None:
            raise UsageError("--rank is for --update low-rank")
        if rank is None and tolerance is None:
            raise UsageError("--lossy needs --rank R or --tolerance T: how far may it go?")
        if tolerance is not None and not 0 < tolerance <= 1:  # what is no number is neither
            raise UsageError(f"--tolerance is {tolerance}, not between 0 and 1")
        return cls(kind, rank, tolerance)


def approximate(session: Session, path: str, wish: Wish) -> Report:
    """Rewrite a work-tree file to weights near its own that are a small update of what is staged.

    Raises:
        RefusedError: the file is what is staged already.
    """
    base = base_of(session, path)
    if is_staged(session, path, base):
        raise RefusedError(
            f"{path} is staged as it is: there is nothing to approximate",
            hint=f"git restore --staged -- {shell_word(path)}, if it is to be compared with HEAD",
        )
    with open_model(session, path) as model:
        edits = dict(_edits(session, path, model, StoredFile(session, base), wish))
        return write(session, path, model, edits, lambda new: _measure(model, new, edits))


def _edits(
    session: Session, path: str, model: OpenFile, stored: StoredFile, wish: Wish
) -> Iterator[tuple[str, Edit]]:
    fixed = why_not_editable(model.layout)
    for name, view in sorted(model.views.items()):
        old = stored.views.get(name)
        if name in fixed or old is None or (old.dtype, old.shape) != (view.dtype, view.shape):
            continue
        if wish.kind == LOW_RANK and (len(view.shape) < 2 or 1 in _matrix(view)):
            continue
        if memory_needed(_matrix(view)) > session.settings.memory:
            say(path, f"{name} is too large for theta.memory and stays exact")
            continue
        edit = _edit(session, view, model, stored, wish)
        if edit is not None:
            yield name, edit


def _matrix(view: TensorView) -> tuple[int, int]:
    rows = view.shape[0] if view.shape else 1
    return rows, math.prod(view.shape[1:])


def _edit(
    session: Session, view: TensorView, model: OpenFile, stored: StoredFile, wish: Wish
) -> Edit | None:
    """What is done to one tensor; None where it is to stay exact."""
    new, old = model.read(view.name), stored.read(view.name)
    if np.array_equal(new, old):
        return None

    def again() -> Bytes:
        return stored.read(view.name)

    values = to_float(new, view.dtype)
    difference = values - to_float(old, view.dtype)
    if not np.isfinite(difference).all():
        return None
    room = (wish.tolerance or 0.0) * float(np.linalg.norm(values))
    if wish.kind == SPARSE:
        return Kept(_threshold(difference, room), again)
    factors = _factors(difference.reshape(_matrix(view)), wish, room)
    if factors is None:
        return None
    update = cast("FactorUpdate", session.plugins.updates(LOW_RANK))
    return Rebased(Product(update, *factors), again)


def _threshold(difference: Doubles, room: float) -> float:
    """The size up to which changes may be dropped without going further than there is room."""
    sizes = np.sort(np.abs(difference))
    dropped = int(np.searchsorted(np.cumsum(np.square(sizes)), room**2, side="right"))
    if dropped < len(sizes):  # of equal ones all go, or none
        dropped = int(np.searchsorted(sizes, sizes[dropped]))
    return float(sizes[dropped - 1]) if dropped else 0.0


def _factors(matrix: Doubles, wish: Wish, room: float) -> tuple[Doubles, Doubles] | None:
    most = min(matrix.shape)
    rank = most // 2 if wish.rank is None else wish.rank
    if rank >= most:
        return None
    return truncated(matrix, rank) if wish.tolerance is None else within(matrix, room, rank)


# --- how far -------------------------------------------------------------------------------------


@dataclass
class _Distance:
    """Sums over the numbers of a tensor, or of many."""

    apart: float = 0.0
    norm: float = 0.0
    most: float = 0.0

    def count(self, old: Doubles, new: Doubles) -> None:
        """Add numbers; those that were not finite stay, and are at no distance."""
        apart = np.abs(new - old)[np.isfinite(old)]
        self.apart += float(np.square(apart).sum())
        self.norm += float(np.square(old[np.isfinite(old)]).sum())
        self.most = max(self.most, float(apart.max(initial=0.0)))

    def add(self, other: _Distance) -> None:
        """Add another tensor."""
        self.apart += other.apart
        self.norm += other.norm
        self.most = max(self.most, other.most)

    def to_dict(self) -> dict[str, float]:
        """For a report."""
        relative = math.sqrt(self.apart / self.norm) if self.norm else 0.0
        return {"relative_l2": relative, "max": self.most}


def _measure(
    model: OpenFile, new: FileReader, edits: Mapping[str, Edit]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """How far each rewritten tensor is from what it was, and all of them together."""
    whole, rows = _Distance(), []
    for name, edit in sorted(edits.items()):
        view, own = model.views[name], _Distance()
        segment = model.layout.segments[view.segment]
        for start in range(segment.offset, segment.offset + segment.size, CHUNK):
            size = min(CHUNK, segment.offset + segment.size - start)
            old, other = (reader.read(start, size) for reader in (model.reader, new))
            own.count(to_float(old, view.dtype), to_float(other, view.dtype))
        whole.add(own)
        rows.append({"name": name, "kind": edit.kind, **own.to_dict()})
    return rows, {"lossy": whole.to_dict()}
