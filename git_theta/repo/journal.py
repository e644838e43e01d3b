"""What an interrupted merge had done, so that the same merge goes on where it stopped.

One file for each merge, named by everything that decides it; a line for each tensor whose bytes
lie in finished objects. The file is removed when the merge is done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from git_theta.core.manifest import Chunk, Place, Segment
from git_theta.errors import ThetaError
from git_theta.repo.objects import Store

_DAMAGED = (
    ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, ThetaError,
)  # fmt: skip


class Journal:
    """The journal of one merge. A line that cannot be read counts as not written."""

    def __init__(self, common_dir: Path, key: str) -> None:
        self._directory = common_dir / "theta" / "merges"
        self._path = self._directory / f"{key}.jsonl"

    def load(self, store: Store) -> tuple[dict[str, Segment], dict[str, int]]:
        """Tensors merged before whose objects are here, and the sizes of those."""
        found: dict[str, Segment] = {}
        sizes: dict[str, int] = {}
        try:
            lines = self._path.read_bytes().splitlines()
        except OSError:
            return found, sizes
        for line in lines:
            with suppress(*_DAMAGED):
                raw = json.loads(line)
                objects = {str(oid): int(size) for oid, size in raw["objects"].items()}
                if all(store.has(oid, size) for oid, size in objects.items()):
                    found[raw["name"]] = _segment(raw)
                    sizes |= objects
        for oid in sizes:
            store.freshen(oid)
        return found, sizes

    def add(self, name: str, segment: Segment, sizes: Mapping[str, int]) -> None:
        """Write down a tensor whose objects are finished."""
        oids = {c.at.oid for c in segment.chunks}
        oids |= {c.summary.oid for c in segment.chunks if c.summary is not None}
        raw = {
            "name": name,
            "digest": segment.digest,
            "size": segment.size,
            "chunks": [[c.digest, c.size, c.kind, c.at, c.base, c.summary] for c in segment.chunks],
            "objects": {oid: sizes[oid] for oid in sorted(oids)},
        }
        with suppress(OSError):  # without a journal, nothing is lost but time
            self._directory.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(json.dumps(raw) + "\n")

    def remove(self, grace: float) -> None:
        """Forget this merge, and others that were left longer than `grace` seconds ago."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
            for path in self._directory.glob("*.jsonl"):
                if time.time() - path.stat().st_mtime > grace:
                    path.unlink(missing_ok=True)


def _segment(raw: Mapping[str, Any]) -> Segment:
    chunks = tuple(
        Chunk(digest, size, kind, Place(*at), base, Place(*summary) if summary else None)
        for digest, size, kind, at, base, summary in raw["chunks"]
    )
    return Segment(str(raw["digest"]), int(raw["size"]), chunks)
