"""What a second version costs after fine-tunes of a real model: stored bytes / tensor bytes."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import models
from benchmarks.report import Row, Section, in_megabytes, table
from benchmarks.sandbox import RunError, Sandbox, in_child, same, size

NAME = "model.safetensors"
ENCODER = "encoder."
WORDS = {"F32": np.uint32, "BF16": np.uint16}
HEAD = "change | dtype | entries changed: | tensors: | stored: | all of .git: | as | share | "


@dataclass(frozen=True)
class Change:
    """A second version, the share of its tensors that it may take, and how it is added."""

    title: str
    version: str
    dtype: str
    bar: float | None = None
    adapter: str | None = None
    """Where set: the adapter that is side-loaded, and the kind of update."""
    kind: str = "auto"


CHANGES = (
    Change("full fine-tune, 2e-5", "full-2e-5", "fp32", 0.62),
    Change("full fine-tune, 2e-5", "full-2e-5", "bf16", 0.23),
    Change("full fine-tune, 2e-4", "full-2e-4", "fp32", 0.70),
    Change("full fine-tune, 2e-4", "full-2e-4", "bf16", 0.39),
    Change("LoRA r = 8 merged", "lora", "fp32", 0.10),
    Change("LoRA r = 8 merged, then cast", "lora", "bf16", 0.32),
    Change("LoRA r = 8 merged in bf16", "lora-native", "bf16", 0.15),
    Change("LoRA r = 8 side-loaded", "lora", "fp32", 0.045, "lora", "low-rank"),
    Change("LoRA r = 8 side-loaded", "lora-native", "bf16", 0.07, "lora", "low-rank"),
    Change("IA3 merged", "ia3", "fp32", 0.006),
    Change("IA3 merged, then cast", "ia3", "bf16"),
    Change("IA3 merged in bf16", "ia3-native", "bf16", 0.025),
    Change("IA3 side-loaded", "ia3", "fp32", None, "ia3", "ia3"),
    Change("0.5 % sparse", "sparse", "fp32", 0.006),
    Change("0.5 % sparse", "sparse", "bf16", 0.006),
)


@dataclass(frozen=True)
class Found:
    """What one change came to."""

    change: Change
    tensors: int
    """Bytes of the tensors that differ from the first version."""
    entries: float
    """The share of their entries that differ."""
    stored: int
    """Bytes of the objects that the second version added, everything in them counted."""
    git: int
    """What all of .git grew by: objects, manifest, index and cache."""
    kinds: Counter[str]
    failure: str = ""

    @property
    def share(self) -> float:
        """Stored bytes over tensor bytes; without end where the version could not be added."""
        return float("inf") if self.failure else self.stored / self.tensors

    def row(self) -> Row | None:
        """The line of the verdict, where there is a bar."""
        change = self.change
        if change.bar is None:
            return None
        shown = f"{self.share:.4f} <= {change.bar}"
        return Row(change.title, change.dtype, "", "", self.share, change.bar, shown)

    def line(self) -> str:
        """One line of the table."""
        row = self.row()
        verdict = ("met" if row.met else "**not met**") if row else ""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common())
        cells = (
            self.change.title,
            self.change.dtype,
            f"{self.entries:.1%}",
            in_megabytes(self.tensors),
            in_megabytes(self.stored),
            in_megabytes(self.git),
            self.failure or kinds,
            row.shown if row else f"{self.share:.4f}",
            verdict,
        )
        return f"| {' | '.join(cells)} |"


def trained() -> Path:
    """The folder with the versions of MiniLM, trained if they are not here yet."""
    return Path(in_child("benchmarks.training").strip())


def compared(one: Path, other: Path) -> tuple[dict[str, int], float]:
    """The tensors that differ with their sizes in bytes, and the share of their entries that do."""
    found, changed, whole = {}, 0, 0
    for name, entry in models.entries(one).items():
        length = entry.end - entry.start
        words = WORDS[entry.dtype]
        a, b = (
            np.fromfile(path, np.uint8, count=length, offset=entry.start).view(words)
            for path in (one, other)
        )
        if differ := int(np.count_nonzero(a != b)):
            found[name] = length
            changed, whole = changed + differ, whole + a.size
    return found, changed / max(1, whole)


def objects(repo: Path) -> dict[str, int]:
    """The objects of our store and their sizes."""
    folder = repo / ".git" / "theta" / "lfs.git" / "lfs" / "objects"
    return {file.name: file.stat().st_size for file in folder.glob("??/??/*")}


def _add(box: Sandbox, repo: Path, change: Change, folder: Path) -> None:
    if change.adapter is None:
        target = repo / NAME
        target.unlink()
        models.pick(folder / f"{change.version}.{change.dtype}.safetensors", target, ENCODER)
        box.run("git", "add", NAME, cwd=repo)
    else:
        source = ("--update", change.kind, "--from", str(folder / change.adapter))
        box.run("git", "theta", "add", NAME, *source, cwd=repo)
    box.run("git", "commit", "-q", "-m", change.title, cwd=repo)


def _checked(box: Sandbox, repo: Path) -> None:
    """See that the version comes back byte for byte, and that the tree is clean then.

    Raises:
        RunError: it does not, or is not.
    """
    added = repo / NAME
    kept = added.rename(box.root / "added")
    box.run("git", "checkout", "--", NAME, cwd=repo)
    if not same(kept, added):
        raise RunError(f"{added} does not come back byte for byte")
    added.touch()
    if status := box.run("git", "status", "--porcelain", cwd=repo).output:
        raise RunError(f"{repo} is not clean after a checkout:\n{status}")


def _kinds(box: Sandbox, repo: Path, changed: dict[str, int]) -> Counter[str]:
    report = json.loads(box.run("git", "theta", "show", "--json", f"HEAD:{NAME}", cwd=repo).output)
    return Counter(
        "+".join(tensor["kinds"]) for tensor in report["tensors"] if tensor["name"] in changed
    )


def _near(found: Path, wanted: Path) -> None:
    """See that a side-loaded version is the one that torch made, but for roundings.

    Raises:
        RunError: it is not.
    """
    for name, entry in models.entries(wanted).items():
        length = entry.end - entry.start
        data = (np.fromfile(p, np.uint8, length, offset=entry.start) for p in (found, wanted))
        a, b = (models.as_floats(part.tobytes(), entry.dtype) for part in data)
        if not np.allclose(a, b, rtol=1e-2, atol=float(b.std()) * 1e-3):
            raise RunError(f"{name} of {found} is not what the adapter makes of it")


def _measured(box: Sandbox, first: Path, change: Change, folder: Path) -> Found:
    """Add one change to a copy of the repository with the first version."""
    repo = box.root / "changed"
    shutil.copytree(first, repo, symlinks=True)
    before, git = objects(repo), size(repo / ".git")
    _add(box, repo, change, folder)
    stored = sum(length for oid, length in objects(repo).items() if oid not in before)
    git = size(repo / ".git") - git
    changed, share = compared(first / NAME, repo / NAME)
    wanted = box.root / "wanted"
    models.pick(folder / f"{change.version}.{change.dtype}.safetensors", wanted, ENCODER)
    _near(repo / NAME, wanted)
    _checked(box, repo)
    kinds = _kinds(box, repo, changed)
    shutil.rmtree(repo)
    return Found(change, sum(changed.values()), share, stored, git, kinds)


def _firsts(box: Sandbox, folder: Path) -> dict[str, Path]:
    """A repository with the matrices as published, in each dtype."""
    repos = {}
    for dtype in ("fp32", "bf16"):
        repo = box.repository(f"first-{dtype}", "theta")
        models.pick(folder / f"base.{dtype}.safetensors", repo / NAME, ENCODER)
        box.run("git", "add", NAME, cwd=repo)
        box.run("git", "commit", "-q", "-m", "As published", cwd=repo)
        repos[dtype] = repo
    return repos


def _all(box: Sandbox) -> Iterator[Found]:
    folder = trained()
    repos = _firsts(box, folder)
    for change in CHANGES:
        try:
            found = _measured(box, repos[change.dtype], change, folder)
        except RunError as error:
            print(f"  {change.title}, {change.dtype}: {error}", file=sys.stderr)
            found = Found(change, 0, 0, 0, 0, Counter(), "fails")
            shutil.rmtree(box.root / "changed", ignore_errors=True)
        print(f"  {found.line()}", file=sys.stderr, flush=True)
        yield found


def measure(box: Sandbox, rounds: int, scale: float) -> Section:
    """Add every change to the first version; sizes do not depend on rounds."""
    del rounds, scale
    found = list(_all(box))
    rows = [row for one in found if (row := one.row())]
    return Section(table(HEAD, (one.line() for one in found)), rows)
