"""`git theta show`: the tensors of a file and how each is stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import click

from git_theta.commands.model_totals import total_lines, totals, tree_lines
from git_theta.commands.options import JSON_OPTION, path_from_top, split_revision
from git_theta.commands.terminal import (
    count,
    printable,
    say,
    say_json,
    say_painted,
    say_table,
    size_text,
)
from git_theta.core.chain import links_of
from git_theta.core.checkpoint import by_digest
from git_theta.core.manifest import Chunk, Manifest, Segment, Tensor
from git_theta.repo.gitrepo import Repo
from git_theta.repo.objects import Store
from git_theta.repo.tracked import find_blob, parse_at


@click.command()
@click.argument("place", metavar="[REV:]PATH")
@click.option("--tree", is_flag=True, help="Show the modules as a tree.")
@JSON_OPTION
def command(place: str, tree: bool, as_json: bool) -> None:
    """Show the tensors of a file and how each is stored.

    PATH alone is what is staged; HEAD~2:PATH what was committed, the path from the top of the
    repository (or ./ from here).

    STORED counts the bytes of the tensor's own records, without the bases of updates, which
    are listed in the last lines; RATIO is its share of BYTES. LINKS counts the updates between
    the tensor and what is stored whole, 0 for a tensor that is stored whole itself.
    """
    repo = Repo.find()
    rev, path = split_revision(place)
    if rev is None or path.startswith("./"):
        path = path_from_top(repo, path)
    oid, text = find_blob(repo, rev, path)
    manifest = parse_at(path, text)
    report = _report(manifest, Store.of(repo.common_dir))
    if as_json:
        say_json({"path": path, "rev": rev, "blob": oid, **report, **totals(manifest)})
        return
    if tree:
        say_painted(printable(path), "bold")
        for line in tree_lines(manifest.tensors):
            say(line)
    else:
        _print(path, report)
    for line in total_lines(manifest):
        say(line)


def _report(manifest: Manifest, store: Store) -> dict[str, Any]:
    here = [oid for oid, size in manifest.objects.items() if store.has(oid, size)]
    chunks = by_digest(manifest)
    return {
        "format": manifest.format,
        "size": manifest.size,
        "digest": manifest.digest or None,
        "stored": stored(manifest.all_chunks()),
        "plugins": dict(manifest.plugins),
        "objects": [{"oid": o, "size": s, "here": o in here} for o, s in manifest.objects.items()],
        "tensors": [_tensor(name, t, chunks) for name, t in sorted(manifest.tensors.items())],
        "segments": [
            {"digest": s.digest, **_segment(s, chunks)} for s in manifest.segments.values()
        ],
        "skeleton": _segment(manifest.skeleton, chunks),
        "bases": {"count": len(manifest.bases), "stored": stored(manifest.bases.values())},
    }


def _tensor(name: str, tensor: Tensor, chunks: Mapping[str, Chunk]) -> dict[str, Any]:
    return {
        "name": name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "digest": tensor.segment.digest,
        "shared": tensor.shared,
        **_segment(tensor.segment, chunks),
    }


def _segment(segment: Segment, chunks: Mapping[str, Chunk]) -> dict[str, Any]:
    return {
        "bytes": segment.size,
        "stored": stored(segment.chunks),
        "kinds": sorted({chunk.kind for chunk in segment.chunks}),
        "links": max((len(links_of(c, chunks)) - 1 for c in segment.chunks), default=0),
        "lossy": any(chunk.lossy for chunk in segment.chunks),
    }


def stored(chunks: Iterable[Chunk]) -> int:
    """Bytes of the records that hold some chunks, each record counted once."""
    return sum(place.size for place in {chunk.at for chunk in chunks})


def _print(path: str, report: dict[str, Any]) -> None:
    say_painted(printable(path), "bold")
    rows = [
        (
            tensor["name"],
            tensor["dtype"],
            "x".join(map(str, tensor["shape"])) or "scalar",
            size_text(tensor["bytes"]),
            "shared" if tensor["shared"] else size_text(tensor["stored"]),
            "" if tensor["shared"] else _ratio(tensor["stored"], tensor["bytes"]),
            "+".join(tensor["kinds"]) + (" (lossy)" if tensor["lossy"] else ""),
            str(tensor["links"]),
        )
        for tensor in report["tensors"]
    ]
    heads = ("TENSOR", "DTYPE", "SHAPE", "BYTES", "STORED", "RATIO", "KIND", "LINKS")
    say_table(heads, rows, right=(3, 4, 5, 7))
    for segment in report["segments"]:
        told = f"{size_text(segment['bytes'])}, stored in {size_text(segment['stored'])}"
        say(f"shared bytes {segment['digest'][:16]}: {told}")
    if report["bases"]["count"]:
        bases = count(report["bases"]["count"], "base")
        say(f"{bases} of updates: stored in {size_text(report['bases']['stored'])}")
    _print_totals(report)


def _print_totals(report: dict[str, Any]) -> None:
    share = _ratio(report["stored"], report["size"])
    say(
        f"{count(len(report['tensors']), 'tensor')}, {printable(report['format'])}, "
        f"{size_text(report['size'])}; stored in {size_text(report['stored'])} ({share}), "
        f"{count(len(report['objects']), 'object')}"
    )
    missing = sum(not entry["here"] for entry in report["objects"])
    if missing:
        say(f"{count(missing, 'object')} not here (git theta fetch)")
    for point, provider in report["plugins"].items():
        say(f"needs {printable(point)} of {printable(provider)}")
    if not report["tensors"]:
        say("No tensors: the file is kept as a whole, in chunks.")


def _ratio(part: int, whole: int) -> str:
    return f"{part / whole:.2f}" if whole else "-"
