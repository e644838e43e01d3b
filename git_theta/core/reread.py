"""Manifests of which a near relative was read before: lines that both have are not read again.

Two versions of a model share most of their lines. What comes out is what `parse` gives.
"""

from __future__ import annotations

import json
from git_theta.core.lines import Lines, object_lines, oid_of, read_lines, tensor_section
from git_theta.core.manifest import Manifest, Tensor, parse
from git_theta.errors import ManifestError

# With fewer lines in common, finding them costs as much as reading them.
FEW = 500


def parse_like(text: bytes, relative: bytes, known: Manifest) -> Manifest:
    """Read a manifest, given the text of another one and what `parse` made of that.

    Raises:
        ManifestError: as `parse`.
    """
    try:
        start, end = tensor_section(text)
        lines = text[start:end].split(b",\n")
        common = _common(lines, read_lines(relative), object_lines(text), known)
        if len(common) >= FEW:
            taken = {name: known.tensors[name] for name in common.values()}
            rest = b",\n".join([line for line in lines if line not in common])
            start -= not rest  # one line less, and its end with it
            if len(taken) == len(common):
                return parse(text[:start] + rest + text[end:], taken)
    except ManifestError:
        pass  # `parse` says what is wrong with the text as it is
    return parse(text)


def _common(
    lines: Sequence[bytes], relative: Lines, objects: frozenset[bytes], known: Manifest
) -> dict[bytes, str]:
    """The lines that mean the same tensor in both, with its name."""
    # With one brace in it, a line is one whole entry, whatever its strings hold.
    lines = [
        line
        for line in lines
        if line in relative.tensors
        and line.count(b"{") == 1
        and line[-1:] == b"}"
        and b'": {' in line
    ]
    try:
        heads = [line[: line.index(b'": {') + 1] for line in lines]
        names: list[str] = json.loads(b"[" + b",".join(heads) + b"]")
    except ValueError:
        return {}
    if len(names) != len(lines):
        return {}
    oids = {oid_of(line) for line in relative.objects & objects}
    return {
        line: name
        for line, name in zip(lines, names, strict=True)
        if _lies_in(known.tensors.get(name), oids)
    }


def _lies_in(tensor: Tensor | None, oids: set[str]) -> bool:
    """Whether a tensor has a segment of its own in objects that both manifests name alike."""
    if tensor is None or tensor.shared:
        return False
    return all(
        chunk.at.oid in oids and (chunk.summary is None or chunk.summary.oid in oids)
        for chunk in tensor.segment.chunks
    )
