"""`git theta merge-driver`: what Git runs when both sides changed a tracked file.

For now it decides nothing: the file stays as it is on our side, Git notes a conflict, and the
user is told how to settle it. It never asks, and never writes conflict markers.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from git_theta.commands.terminal import complain, count, printable
from git_theta.core.manifest import Manifest, Tensor, is_manifest, parse

MERGED, CONFLICT = 0, 1
_OUTERMOST = 7
_SHOWN = 3


@click.command()
@click.argument("base")
@click.argument("ours")
@click.argument("theirs")
@click.argument("marker_size", type=int)
@click.argument("path")
def command(base: str, ours: str, theirs: str, marker_size: int, path: str) -> int:
    """Run by Git when both sides of a merge changed a tracked file; not for use by hand.

    `git theta install` puts it into Git's configuration as merge.theta.
    """
    if marker_size > _OUTERMOST:
        # Two merge bases are being merged into one that nobody will see. Like Git's own driver
        # for binary files, keep their ancestor: then neither side can win by looking unchanged.
        Path(ours).write_bytes(Path(base).read_bytes())
        return MERGED
    sides = [_read(Path(name)) for name in (base, ours, theirs)]
    _explain(path, *sides)
    return CONFLICT


def _read(path: Path) -> Manifest | None:
    data = path.read_bytes()
    return parse(data) if is_manifest(data) else None


def _explain(
    path: str, base: Manifest | None, ours: Manifest | None, theirs: Manifest | None
) -> None:
    complain(f"git theta: {printable(path)}: both sides changed this file")
    if ours is not None and theirs is not None:
        complain(f"  {_compared(base, ours, theirs)}")
    quoted = printable(shlex.quote(path))
    complain(
        "  The work tree holds our side. Tensors cannot be merged one by one yet: take a side."
    )
    for side in ("ours", "theirs"):
        complain(f"  {side + ':':8}git checkout --{side} -- {quoted} && git add -- {quoted}")


def _compared(base: Manifest | None, ours: Manifest, theirs: Manifest) -> str:
    before = {} if base is None else base.tensors
    conflicts, only_ours, only_theirs = [], 0, 0
    for name in sorted({*before, *ours.tensors, *theirs.tensors}):
        old, here, there = before.get(name), ours.tensors.get(name), theirs.tensors.get(name)
        if _same(here, there):
            continue
        if _same(old, there):
            only_ours += 1
        elif _same(old, here):
            only_theirs += 1
        else:
            conflicts.append(name)
    shown = ", ".join(map(printable, conflicts[:_SHOWN]))
    more = ", ..." if len(conflicts) > _SHOWN else ""
    named = f" ({shown}{more})" if conflicts else ""
    return (
        f"{count(len(conflicts), 'tensor')} changed on both sides{named}, "
        f"{only_ours} only on ours, {only_theirs} only on theirs"
    )


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.same_as(other)
