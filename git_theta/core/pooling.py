"""Many manifests at once: what they have in common is kept once.

A history has thousands of manifests that differ in a few tensors each; kept whole, a thousand of
them with a thousand tensors take more than a gigabyte.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

from git_theta.core.manifest import Manifest

Value = TypeVar("Value", bound=Hashable)


class Pool:
    """Records that were seen before, for others that are equal to them."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, Hashable] = {}

    def share(self, manifest: Manifest) -> Manifest:
        """The same manifest, made of records of earlier ones where they are the same."""
        one = self._one
        return manifest._replace(
            tensors={one(name): one(tensor) for name, tensor in manifest.tensors.items()},
            segments={one(digest): one(found) for digest, found in manifest.segments.items()},
            bases={one(digest): one(chunk) for digest, chunk in manifest.bases.items()},
            objects={one(oid): size for oid, size in manifest.objects.items()},
        )

    def _one(self, value: Value) -> Value:
        # The type belongs to the key: an empty name equals no record, but tuples equal each other.
        return self._seen.setdefault((type(value), value), value)  # type: ignore[return-value]
