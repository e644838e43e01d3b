"""A hundred versions of a small model, one for each step of its training, with every peer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

from benchmarks.peers import Cell, Cells, Keeper, kept, original, packed, zipped
from benchmarks.plot import Line, Panel, drawn
from benchmarks.report import Section, table
from benchmarks.sandbox import ROOT, RunError, Sandbox, in_child

PICTURE = ROOT / "docs" / "hundred-versions.svg"
DTYPES = ("fp32", "bf16")
FEW = 20  # versions that the original Git-Theta is given: each takes it seconds
QUICK = 12
HEAD = "kept by | dtype | versions: | bytes in all: | for each version: | seconds for each: | "


@dataclass(frozen=True)
class Way:
    """One line of the picture."""

    title: str
    measure: Callable[[Sandbox, Sequence[Path]], Cells]
    package: str = ""
    most: int = 100
    dashed: bool = False


def _kept_by(keeper: Keeper, files: Sequence[Path]) -> Cells:
    """Commit each version over the one before, and see some of them come back."""
    cells = {file.name: keeper.add(file) for file in files}
    for number in {0, len(files) // 2, len(files) - 1}:
        name = files[number].name
        exact = keeper.comes_back(f"main~{len(files) - 1 - number}", files[number])
        cells[name] = Cell(cells[name].stored, cells[name].seconds, "", exact)
    return cells


def _ours(box: Sandbox, files: Sequence[Path]) -> Cells:
    return _kept_by(Keeper(box, "ours", "theta"), files)


def _lfs(box: Sandbox, files: Sequence[Path]) -> Cells:
    return _kept_by(Keeper(box, "lfs", "lfs"), files)


def _plain(box: Sandbox, files: Sequence[Path]) -> Cells:
    keeper = Keeper(box, "plain", None)
    cells = _kept_by(keeper, files)
    return cells | {"packed": packed(keeper)}


def _original(box: Sandbox, files: Sequence[Path]) -> Cells:
    return _kept_by(Keeper(original(box), "original", "theta"), files)


def _alone(box: Sandbox, files: Sequence[Path]) -> Cells:
    del box
    found = zipped([(file, None) for file in files])
    return {file.name: cell for file, cell in zip(files, found, strict=True)}


def _chained(box: Sandbox, files: Sequence[Path]) -> Cells:
    """Each version as a change of the one before: nothing bounds what the last one needs."""
    del box
    jobs: list[tuple[Path, Path | None]] = [(files[0], None)]
    jobs += [(new, old) for old, new in pairwise(files)]
    return {file.name: cell for file, cell in zip(files, zipped(jobs), strict=True)}


WAYS = (
    Way("git-theta", _ours),
    Way("Git LFS", _lfs),
    Way("plain Git", _plain),
    Way("Git-Theta 0.2.0 (the original)", _original, "git-theta", FEW),
    Way("ZipNN 0.5.4, each version alone", _alone),
    Way("ZipNN 0.5.4, told the one before, without end", _chained, dashed=True),
)


def _measured(box: Sandbox, way: Way, dtype: str, files: Sequence[Path]) -> Cells:
    """What a way came to; nothing where it cannot do it at all."""
    given = files[: way.most]
    here = box.root / f"{way.measure.__name__}-{dtype}"
    here.mkdir()
    key = f"{files[0].parent.name} {len(given)}"
    try:
        return kept(
            f"steps {way.title} {dtype}",
            way.package,
            key,
            lambda: way.measure(Sandbox(here), given),
        )
    except RunError as error:
        print(f"  {way.title}: {error}", file=sys.stderr)
        return {}


def _line(way: Way, dtype: str, cells: Cells) -> str:
    versions = [cell for name, cell in cells.items() if name != "packed"]
    if not versions:
        return f"| {way.title} | {dtype} | fails | | | | |"
    whole, seconds = sum(c.stored for c in versions), sum(c.seconds for c in versions)
    notes = ["not byte for byte"] if not all(cell.exact for cell in versions) else []
    if "packed" in cells:
        notes.append(f"{cells['packed'].stored / 1e6:,.1f} MB after `git gc`")
    figures = (
        str(len(versions)),
        f"{whole / 1e6:,.1f} MB",
        f"{whole / len(versions) / 1e6:,.2f} MB",
        f"{seconds / len(versions):.2f}",
        "; ".join(notes),
    )
    line = f"| {' | '.join((way.title, dtype, *figures))} |"
    print(f"  {line}", file=sys.stderr, flush=True)
    return line


def _series(way: Way, cells: Cells) -> Line | None:
    stored = [cell.stored / 1e6 for name, cell in cells.items() if name != "packed"]
    return Line(way.title, list(accumulate(stored)), way.dashed) if stored else None


def measure(box: Sandbox, rounds: int, scale: float) -> Section:
    """Commit every version with every peer, once, and draw what that comes to."""
    del rounds
    folder = Path(in_child("benchmarks.steps").strip())
    lines, panels = [], []
    for dtype in DTYPES:
        files = sorted(folder.glob(f"*.{dtype}.safetensors"))
        files = files if scale == 1 else files[:QUICK]
        found = {way: _measured(box, way, dtype, files) for way in WAYS}
        lines += [_line(way, dtype, cells) for way, cells in found.items()]
        series = [line for way, cells in found.items() if (line := _series(way, cells))]
        panels.append(Panel(f"{dtype}: MB under .git in all", series))
    picture = PICTURE if scale == 1 else box.root.parent / PICTURE.name
    picture.write_text(drawn(panels))
    text = f"![Bytes kept against versions committed]({PICTURE.name})\n\n{table(HEAD, lines)}"
    return Section(text)
