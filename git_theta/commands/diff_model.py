"""The whole answer to what changed in one model, before it is printed in one way or another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from git_theta.commands import plain_data
from git_theta.commands.comparing import Measured, Watch, measure
from git_theta.commands.model_versions import Version
from git_theta.core.changes import KINDS
from git_theta.core.identity import identity


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one version is: its files, bytes and number of tensors."""

    paths: tuple[str, ...]
    formats: tuple[str, ...]
    size: int
    tensors: int
    digests: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "paths": list(self.paths),
            "formats": list(self.formats),
            "size": self.size,
            "tensors": self.tensors,
            "digests": list(self.digests),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDiff:
    """One model that differs between two versions; a side is None where the model is not there.

    `rows` are the changed tensors, `unchanged` names the others, `text` are lines of a diff of
    what is no tensor, `notes` what could not be found out.
    """

    path: str
    old: Side | None
    new: Side | None
    rows: tuple[Measured, ...] = ()
    unchanged: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def same(self) -> int:
        """How many tensors did not change."""
        return len(self.unchanged)

    @property
    def differs(self) -> bool:
        """Whether a byte of the files, or which files they are, is different."""
        if self.old is None or self.new is None:
            return self.old is not self.new
        return (self.old.paths, self.old.digests) != (self.new.paths, self.new.digests)

    def counts(self) -> dict[str, int]:
        """How many tensors changed in which way."""
        found = dict.fromkeys(KINDS, 0)
        for row in self.rows:
            found[row.what] += 1
        return {what: number for what, number in found.items() if number}

    def relative(self) -> tuple[float, bool] | None:
        """The norm of all differences relative to that of what changed; whether it is estimated.

        Tensors that share their bytes count once.
        """
        square = whole = 0.0
        estimated, seen = False, set()
        for row in self.rows:
            facts, tensor = row.facts, row.change.tensor
            if facts is None or facts.square is None or facts.old_square is None:
                continue
            if tensor.shared and (tensor.segment.digest, tensor.offset) in seen:
                continue
            seen.add((tensor.segment.digest, tensor.offset))
            square += facts.square
            whole += facts.old_square
            estimated |= not facts.exact
        return (math.sqrt(square / whole), estimated) if whole else None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `docs/commands.md` names the keys."""
        relative = self.relative()
        return {
            "path": self.path,
            "old": None if self.old is None else self.old.to_dict(),
            "new": None if self.new is None else self.new.to_dict(),
            "same": self.same,
            "counts": self.counts(),
            "relative_l2": None if relative is None else number(relative[0]),
            "tensors": [_row(row) for row in self.rows],
            "text": list(self.text),
            "notes": list(self.notes),
        }


def _row(row: Measured) -> dict[str, Any]:
    change = row.change
    return {
        "name": change.name,
        "old_name": change.old_name,
        "what": row.what,
        "sure": row.sure,
        "exact": row.facts is not None and row.facts.exact,
        "old": _tensor(change.old),
        "new": _tensor(change.new),
        "kinds": list(row.kinds),
        "stored": row.stored,
        "metrics": {
            name: {"value": number(value.value), "error": number(value.error)}
            for name, value in row.values.items()
        },
    }


def _tensor(tensor: Any) -> dict[str, Any] | None:
    if tensor is None:
        return None
    return {
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "digest": tensor.segment.digest,
        "bytes": tensor.segment.size,
    }


def number(value: Any) -> Any:
    """A number for JSON, which has no infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def compare_versions(  # noqa: PLR0913
    path: str,
    old: Version | None,
    new: Version | None,
    *,
    exact: bool = False,
    threads: int = 2,
    notes: Sequence[str] = (),
    watch: Watch | None = None,
) -> ModelDiff:
    """Compare two versions of one model."""
    before, after = old or Version([]), new or Version([])
    rows, unchanged = measure(before, after, exact=exact, threads=threads, watch=watch)
    text = plain_data.compare(before, after) if old and new else []
    # Nobody has read the whole of a file that a merge made; its parts name it then.
    known = all(f.source.manifest.digest for side in (before, after) for f in side.files)
    return ModelDiff(
        path=path,
        old=_side(old, known),
        new=_side(new, known),
        rows=tuple(rows),
        unchanged=unchanged,
        text=tuple(text),
        notes=tuple(notes),
    )


def _side(version: Version | None, known: bool) -> Side | None:
    if version is None:
        return None
    manifests = [file.source.manifest for file in version.files]
    formats = sorted({manifest.format for manifest in manifests})
    return Side(
        paths=tuple(file.path for file in version.files),
        formats=tuple(formats),
        size=version.size,
        tensors=len(version.tensors) + len(version.aside),
        digests=tuple(m.digest if known else identity(m) for m in manifests),
    )
