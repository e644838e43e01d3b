"""The same versions of MiniLM kept by git-theta and by what else there is."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from typing_extensions import override

from benchmarks import environments, models
from benchmarks.report import Section, table
from benchmarks.sandbox import CACHE, ROOT, RunError, Sandbox, same, size
from benchmarks.scenarios import NAME, place
from benchmarks.updates import trained

VERSIONS = {
    "fp32": ("base", "full-2e-5", "full-2e-4", "lora", "ia3", "sparse"),
    "bf16": ("base", "full-2e-5", "full-2e-4", "lora-native", "ia3-native", "sparse"),
}
# The original Git-Theta does nothing of this unless told so, for the whole add.
TOLD = {"lora": "low-rank", "lora-native": "low-rank", "sparse": "sparse"}
ORIGINAL = {"GIT_THETA_CHECKPOINT_TYPE": "safetensors", "GIT_THETA_LOG_LEVEL": "ERROR"}

Files = Mapping[str, Path]


@dataclass(frozen=True)
class Cell:
    """What one version cost one peer."""

    stored: int = 0
    seconds: float = 0.0
    failure: str = ""
    exact: bool = True
    """Whether the file came back as it was, where that was tried."""

    @override
    def __str__(self) -> str:
        if self.failure:
            return self.failure
        seconds = f" ({self.seconds:.1f} s)" if self.seconds else ""
        return f"{self.stored / 1e6:,.2f}{seconds}{'' if self.exact else ' *'}"


Cells = dict[str, Cell]


class Keeper:
    """A repository of one tool, to which versions are added."""

    def __init__(self, box: Sandbox, name: str, tool: str | None) -> None:
        self.box, self.count = box, 0
        self.repo = box.repository(name, tool)

    def add(self, file: Path, *environment: str) -> Cell:
        """Add and commit a version; everything that this leaves in .git is counted."""
        # Git takes a file of the same size and second for the one it knows.
        self.count += 1
        place(file, self.repo, 100_000 - 60 * self.count)
        git = self.repo / ".git"
        before = size(git)
        argv = ("env", *environment) if environment else ()
        cost = self.box.timed(*argv, "git", "add", NAME, cwd=self.repo)
        end = self.box.run(*argv, "git", "commit", "-q", "-m", file.stem, cwd=self.repo)
        return Cell(size(git) - before, cost.wall + end.wall)

    def comes_back(self, revision: str, file: Path) -> bool:
        """Whether a version is checked out as it was added."""
        self.box.run("git", "checkout", "-q", revision, cwd=self.repo)
        return same(self.repo / NAME, file)


def _branches(keeper: Keeper, files: Files, told: bool = False) -> Cells:
    """Commit the base, and each other version as a child of it."""
    cells = {"base": keeper.add(files["base"])}
    for name, file in files.items():
        if name == "base" or (told and name not in TOLD):
            continue
        keeper.box.run("git", "checkout", "-q", "-b", name, "main", cwd=keeper.repo)
        environment = _told(keeper.box, TOLD[name]) if told else []
        try:
            cells[name] = keeper.add(file, *environment)
        except RunError as error:
            cells[name] = _failed(error)
            keeper.box.run("git", "reset", "-q", "--hard", cwd=keeper.repo)
    for name, cell in cells.items():
        if not cell.failure:
            exact = keeper.comes_back("main" if name == "base" else name, files[name])
            cells[name] = Cell(cell.stored, cell.seconds, "", exact)
    return cells


def _told(box: Sandbox, kind: str) -> list[str]:
    """How the original is told a kind: it asks for a file of an update, and finds none in it."""
    empty = box.root / "empty.safetensors"
    models.write(empty, {"none": (1,)})
    return [f"GIT_THETA_UPDATE_TYPE={kind}", f"GIT_THETA_UPDATE_DATA_PATH={empty}"]


def _failed(error: RunError) -> Cell:
    print(f"  {error}", file=sys.stderr)
    return Cell(failure="fails")


def _ours(box: Sandbox, files: Files) -> Cells:
    return _branches(Keeper(box, "ours", "theta"), files)


def _lfs(box: Sandbox, files: Files) -> Cells:
    return _branches(Keeper(box, "lfs", "lfs"), files)


def _plain(box: Sandbox, files: Files) -> Cells:
    """Plain Git, and what a full repack leaves of all versions together."""
    keeper = Keeper(box, "plain", None)
    cells = _branches(keeper, files)
    cells["packed"] = packed(keeper)
    return cells


def packed(keeper: Keeper) -> Cell:
    """What `git gc` leaves of a repository, in all."""
    cost = keeper.box.timed("git", "gc", "-q", "--prune=now", cwd=keeper.repo)
    return Cell(size(keeper.repo / ".git"), cost.wall)


def original(box: Sandbox) -> Sandbox:
    """A place for the original Git-Theta, which goes by the same name as ours."""
    root = box.root / "original"
    root.mkdir(exist_ok=True)
    other = Sandbox(root, environments.programs("git-theta"))
    other.env |= ORIGINAL
    return other


def _original(box: Sandbox, files: Files) -> Cells:
    return _branches(Keeper(original(box), "dense", "theta"), files)


def _original_told(box: Sandbox, files: Files) -> Cells:
    return _branches(Keeper(original(box), "told", "theta"), files, told=True)


def zipped(jobs: list[tuple[Path, Path | None]]) -> list[Cell]:
    """What ZipNN makes of files, each alone or as a change of another."""
    lines = [json.dumps({"file": str(a), "base": str(b) if b else None}) for a, b in jobs]
    argv = (environments.programs("zipnn") / "python", ROOT / "benchmarks" / "zipped.py")
    found = subprocess.run(
        argv, input="\n".join(lines), capture_output=True, text=True, check=False
    )
    if found.returncode:
        raise RunError(f"ZipNN: {found.stderr[-2000:]}")
    answers = [json.loads(line) for line in found.stdout.splitlines()]
    return [Cell(answer["bytes"], answer["seconds"]) for answer in answers]


def _zipnn(box: Sandbox, files: Files) -> Cells:
    del box
    return dict(zip(files, zipped([(file, None) for file in files.values()]), strict=True))


def _zipnn_delta(box: Sandbox, files: Files) -> Cells:
    del box
    base = files["base"]
    jobs = [(file, None if file == base else base) for file in files.values()]
    return dict(zip(files, zipped(jobs), strict=True))


@dataclass(frozen=True)
class Peer:
    """One line of the table."""

    title: str
    measure: Callable[[Sandbox, Files], Cells]
    package: str = ""
    """Where set: measured once for each version of this, and kept in .cache."""


PEERS = (
    Peer("git-theta", _ours),
    Peer("Git LFS", _lfs),
    Peer("plain Git", _plain),
    Peer("Git-Theta 0.2.0 (the original)", _original, "git-theta"),
    Peer("the same, told the kind of update", _original_told, "git-theta"),
    Peer("ZipNN 0.5.4, each version alone", _zipnn),
    Peer("ZipNN 0.5.4, told the base", _zipnn_delta),
)


def kept(name: str, package: str, key: str, measure: Callable[[], Cells]) -> Cells:
    """What was found before for a version of a package, or what is found now."""
    if not package:
        return measure()
    facts = " ".join((name, *environments.PACKAGES[package], key))
    file = CACHE / "peers" / "results" / f"{hashlib.sha256(facts.encode()).hexdigest()[:16]}.json"
    with suppress(OSError):
        return {version: Cell(**cell) for version, cell in json.loads(file.read_text()).items()}
    cells = measure()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({version: asdict(cell) for version, cell in cells.items()}))
    return cells


def _measured(box: Sandbox, peer: Peer, dtype: str, folder: Path) -> Cells:
    files = {name: folder / f"{name}.{dtype}.safetensors" for name in VERSIONS[dtype]}
    place_of_its_own = box.root / f"{peer.measure.__name__}-{dtype}"
    place_of_its_own.mkdir()

    def measure() -> Cells:
        return peer.measure(Sandbox(place_of_its_own), files)

    try:
        return kept(f"{peer.title} {dtype}", peer.package, folder.name, measure)
    except RunError as error:
        return dict.fromkeys(VERSIONS[dtype], _failed(error))


def _line(peer: Peer, dtype: str, cells: Cells) -> str:
    names = VERSIONS[dtype]
    whole = "-"
    if all(name in cells and not cells[name].failure for name in names):
        whole = f"{sum(cells[name].stored for name in names) / 1e6:,.2f}"
    if "packed" in cells:
        whole += f"; {cells['packed']} after `git gc`"
    shown = [str(cells[name]) if name in cells else "-" for name in names]
    line = f"| {' | '.join((peer.title, *shown, whole))} |"
    print(f"  {line}", file=sys.stderr, flush=True)
    return line


def _table(box: Sandbox, dtype: str, folder: Path) -> Iterator[str]:
    yield f"all-MiniLM-L6-v2 in {dtype}:\n\n"
    head = " | ".join(("", *(f"{name}:" for name in VERSIONS[dtype]), "in all:"))
    lines = (_line(peer, dtype, _measured(box, peer, dtype, folder)) for peer in PEERS)
    yield table(head, lines)


def measure(box: Sandbox, rounds: int, scale: float) -> Section:
    """Keep all versions with every peer, once."""
    del rounds, scale
    folder = trained()
    return Section("\n".join("".join(_table(box, dtype, folder)) for dtype in VERSIONS))
