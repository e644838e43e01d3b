"""Statistics of a model in a file beside it: what the file is called, and what it says of itself.

`model.fisher.safetensors` lies beside `model.safetensors` (or `model.pt`). Its tensors have the
names of the model's; its metadata say which weights they were computed from. Weights are known by
a digest that follows from the manifest alone, so to find a stale side-car nothing is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from blake3 import blake3

from git_theta.core.manifest import Manifest
from git_theta.errors import CorruptError

FORMAT = 1
SUFFIX = ".safetensors"
Kind = Literal["fisher", "gram", "moments"]
KINDS: tuple[Kind, ...] = ("fisher", "gram", "moments")

# What the numbers are, in words, for people who read the metadata with other tools.
CONVENTIONS: Mapping[str, str] = {
    "fisher": "mean over examples of the squared gradient of each, shaped like the parameter",
    "gram": "mean over rows x of x^T x, for y = x W^T with W out x in (convolutions: unfolded)",
    "moments": "NAME#mean, NAME#sqmean, NAME#dev: K deviations from the running mean, flattened",
}


def sidecar_path(path: str, kind: str) -> str:
    """The path of a model's statistics: the suffix of the model gives way."""
    return str(PurePosixPath(path).with_suffix(f".{kind}{SUFFIX}"))


def is_sidecar(path: str) -> bool:
    """Whether a path is named as statistics are."""
    return any(path.endswith(f".{kind}{SUFFIX}") for kind in KINDS)


def weights_digest(manifest: Manifest) -> str:
    """The identity of a model's tensors, however the file around them is written.

    BLAKE3 of one line of JSON for each tensor, in order of name: name, dtype, shape, offset,
    strides, and the digest of the segment that holds it.
    """
    whole = blake3()
    for name, tensor in sorted(manifest.tensors.items()):
        strides = None if tensor.strides is None else list(tensor.strides)
        line = [
            name, tensor.dtype, list(tensor.shape), tensor.offset, strides, tensor.segment.digest
        ]  # fmt: skip
        whole.update(json.dumps(line, separators=(",", ":")).encode() + b"\n")
    return whole.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a side-car says of itself; safetensors keeps it as texts under `__metadata__`.

    `model_digest` is the `weights_digest` of the model. `estimator` says where labels came from:
    "true" (expectation over the model's own predictions), "sampled" (drawn from them),
    "empirical" (the data's labels), or "" where there are none. `code` is the version of the
    program and of torch. `commits` are those that moments were taken over.
    """

    kind: str
    model_digest: str
    n_samples: int
    estimator: str = ""
    reduction: str = "mean"
    seed: int = 0
    code: str = ""
    convention: str = ""
    commits: str = ""

    def metadata(self) -> dict[str, str]:
        """As safetensors keeps it."""
        return {"format": str(FORMAT)} | {key: str(value) for key, value in asdict(self).items()}

    @classmethod
    def read(cls, header: bytes) -> Facts:
        """Read them from the start of a safetensors file.

        Raises:
            CorruptError: it is no side-car, or one of a later version.
        """
        found = _metadata(header)
        if found.get("format") != str(FORMAT):
            raise CorruptError(
                f"statistics of format {found.get('format')!r}, this git-theta reads {FORMAT}"
            )
        try:
            return cls(
                kind=found["kind"],
                model_digest=found["model_digest"],
                n_samples=int(found["n_samples"]),
                estimator=found.get("estimator", ""),
                reduction=found.get("reduction", "mean"),
                seed=int(found.get("seed", "0")),
                code=found.get("code", ""),
                convention=found.get("convention", ""),
                commits=found.get("commits", ""),
            )
        except (KeyError, ValueError) as error:
            raise CorruptError(f"the statistics do not say what they are: {error!r}") from error


def _metadata(header: bytes) -> Mapping[str, Any]:
    size = int.from_bytes(header[:8], "little")
    try:
        found = json.loads(header[8 : 8 + size])["__metadata__"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptError("the file has no metadata, so it holds no statistics") from error
    if not isinstance(found, dict):
        raise CorruptError("the file has no metadata, so it holds no statistics")
    return found
