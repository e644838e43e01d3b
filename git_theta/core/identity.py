"""What a file is, said from its parts: no byte of it need be read.

The digest of the whole file is known only to whoever read all of it. A merge does not, so models
are named by the digests of their parts instead, which every manifest has.
"""

from __future__ import annotations

import json

from blake3 import blake3

from git_theta.core.manifest import Manifest


def identity(manifest: Manifest) -> str:
    """A digest of the content: two manifests of one format have the same one for the same file.

    It says nothing of how the parts are stored.
    """
    tensors = [
        [name, t.dtype, list(t.shape), t.segment.digest, t.offset, t.strides]
        for name, t in sorted(manifest.tensors.items())
    ]
    shared = sorted(manifest.segments)
    said = [manifest.format, manifest.size, manifest.skeleton.digest, tensors, shared]
    return blake3(json.dumps(said, separators=(",", ":")).encode()).hexdigest()


def same_content(one: Manifest, other: Manifest) -> bool:
    """Whether two manifests stand for the same bytes, as far as their parts tell."""
    return identity(one) == identity(other)
