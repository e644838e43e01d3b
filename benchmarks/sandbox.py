"""A place of its own for git: home, configuration, tools, and what a command costs there."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
TOOLS = ("lfs", "theta")
PATTERN = "*.safetensors"
# ru_maxrss counts KiB on Linux and bytes on macOS.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class RunError(Exception):
    """Something that a reader of the output has to know, and that ends the run."""


@dataclass(frozen=True)
class Cost:
    """What one command took: it and all the processes that it waited for."""

    wall: float
    cpu: float
    peak: int
    """Memory of the largest single process, in bytes."""
    output: str


# The interpreter's own folder: the git-theta that is tried is that of this .venv, unless said.
HERE = Path(sys.executable).parent


def _environment(home: Path, programs: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "XDG_", "VIRTUAL_"))}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)  # who installs a package has it compiled once
    others = os.environ.get("PATH", os.defpath).split(os.pathsep)
    path = [str(programs), *(folder for folder in others if Path(folder) != HERE)]
    return kept | {
        "PATH": os.pathsep.join(path),
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "GIT_CONFIG_GLOBAL": str(home / ".gitconfig"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CEILING_DIRECTORIES": str(home.parent),
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
        "TZ": "UTC",
    }


class Sandbox:
    """A temporary folder in which neither git nor its extensions see the user's settings."""

    def __init__(self, root: Path, programs: Path = HERE) -> None:
        self.root = root
        home = root / "home"
        home.mkdir(parents=True)
        self.env = _environment(home, programs)
        if shutil.which("git-theta", path=str(programs)) is None:
            raise RunError(f"git-theta is not installed in {programs}: run make setup")
        if shutil.which("git-lfs", path=self.env["PATH"]) is None:
            raise RunError("git-lfs is not installed: run make setup")
        self.run("git", "config", "--global", "user.name", "A. Modeller", cwd=home)
        self.run("git", "config", "--global", "user.email", "modeller@example.org", cwd=home)
        self.run("git", "config", "--global", "init.defaultBranch", "main", cwd=home)
        self.run("git", "config", "--global", "advice.detachedHead", "false", cwd=home)
        for tool in TOOLS:
            self.run("git", tool, "install", cwd=home)

    def run(self, *argv: str, cwd: Path) -> Cost:
        """Run a command to its end.

        Raises:
            RunError: it did not exit with 0.
        """
        with tempfile.TemporaryFile(dir=self.root) as output:
            start = time.perf_counter()
            process = subprocess.Popen(
                argv, cwd=cwd, env=self.env, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
            # wait4 and not wait: it tells the cost of the whole tree, the filter included.
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            output.seek(0)
            text = output.read().decode(errors="replace")
        if process.returncode:
            raise RunError(f"{' '.join(argv)} exited with {process.returncode}:\n{text[-4000:]}")
        return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * RSS_UNIT, text)

    def timed(self, *argv: str, cwd: Path) -> Cost:
        """Run a command with nothing left to write to the disk from before."""
        os.sync()
        return self.run(*argv, cwd=cwd)

    def repository(self, name: str, tool: str | None) -> Path:
        """Make a repository in which a tool tracks safetensors files, or where Git has its way."""
        path = self.root / name
        self.run("git", "init", "-q", str(path), cwd=self.root)
        if tool:
            self.run("git", tool, "track", PATTERN, cwd=path)
        else:
            (path / ".gitattributes").write_text(f"{PATTERN} binary\n")
        self.run("git", "add", ".gitattributes", cwd=path)
        self.run("git", "commit", "-q", "-m", "Track models", cwd=path)
        return path


@contextmanager
def sandbox(parent: Path | None = None, programs: Path = HERE) -> Iterator[Sandbox]:
    """A sandbox that is gone afterwards, with the git-theta of some folder."""
    place = parent or CACHE
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=place) as root:
        yield Sandbox(Path(root).resolve(), programs)


def in_child(*arguments: str) -> str:
    """Run one of these modules in a process of its own, and give what it printed.

    A process that made arrays would hand its size to the children whose memory is measured.
    """
    argv: Sequence[str] = (sys.executable, "-m", *arguments)
    return subprocess.run(argv, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def size(path: Path) -> int:
    """Bytes in all the files below a folder, hard links counted once."""
    seen: dict[tuple[int, int], int] = {}
    for file in path.rglob("*"):
        found = file.lstat()
        if file.is_file() and not file.is_symlink():
            seen[found.st_dev, found.st_ino] = found.st_size
    return sum(seen.values())


def stamps(path: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of each file below a folder: what differs afterwards was written."""
    files = (file for file in path.rglob("*") if file.is_file())
    return {file: (file.stat().st_size, file.stat().st_mtime_ns) for file in files}


def same(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes."""
    filecmp.clear_cache()
    return filecmp.cmp(one, other, shallow=False)
