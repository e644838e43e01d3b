"""What goes into a merge, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from git_theta.core.manifest import Manifest
from git_theta.core.merging import Step
from git_theta.core.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Side:
    """One version that goes into a merge.

    `statistics` has its side-cars by kind; those that a strategy needs and that are not given are
    looked for at `place`, a revision and the path of the model in it.
    """

    manifest: Manifest
    label: str
    text: bytes = b""
    place: tuple[str, str] | None = None
    statistics: Mapping[str, Manifest] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is wanted of a merge besides a manifest.

    `draft` is where the file itself is to be written, if most of a large one is computed, and
    `replaced` the file that it will take the place of;
    `evaluation` is what the recipe is to say of how its parameters were chosen.
    """

    draft: Path | None = None
    replaced: Path | None = None
    evaluation: Mapping[str, Any] | None = None


NOTHING_ELSE = Wanted()


@dataclass(kw_only=True)
class Outcome:
    """What came of a merge. With conflicts there is no `text`.

    `read` counts plain bytes that were decoded, `stored` bytes that were added to the store.
    `draft` is the merged file itself, where it was asked for and made.
    """

    steps: list[Step]
    conflicts: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    text: bytes | None = None
    manifest: Manifest | None = None
    recipe: Recipe | None = None
    read: int = 0
    stored: int = 0
    draft: Path | None = None
