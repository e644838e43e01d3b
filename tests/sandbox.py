"""A place of its own for tests that drive real Git: home, configuration, repositories."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BIN = Path(sys.executable).parent
_KEPT = ("PATH", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT", "COVERAGE_PROCESS_START")

_CONFIG = "[init]\n\tdefaultBranch = main\n[advice]\n\tdetachedHead = false\n"

_PEAK = """
import pathlib, resource, subprocess, sys
subprocess.run(sys.argv[2:], check=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
pathlib.Path(sys.argv[1]).write_text(str(peak))
"""
Done = subprocess.CompletedProcess[str]
Arrays = Mapping[str, npt.NDArray[Any]]


def clean_environment(home: Path) -> dict[str, str]:
    """An environment in which nothing of this machine's user is left."""
    env = {name: os.environ[name] for name in _KEPT if name in os.environ}
    env |= {
        "PATH": f"{BIN}{os.pathsep}{env.get('PATH', os.defpath)}",
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "GIT_CONFIG_GLOBAL": str(home / ".gitconfig"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_EDITOR": "true",
        "LC_ALL": "C.UTF-8",
    }
    for role in ("AUTHOR", "COMMITTER"):
        env |= {
            f"GIT_{role}_NAME": "Tess Tester",
            f"GIT_{role}_EMAIL": "tess@example.org",
            f"GIT_{role}_DATE": "2024-01-02T03:04:05Z",
        }
    return env


@dataclass
class Sandbox:
    """A home directory, and a repository in it where commands are run."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        home = self.root / "home"
        home.mkdir(parents=True, exist_ok=True)
        self.env = clean_environment(home) | self.env
        (home / ".gitconfig").write_text(_CONFIG)
        self.work = self.root / "work"

    @property
    def home(self) -> Path:
        return self.root / "home"

    def run(
        self,
        *words: str | Path,
        code: int | None = 0,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Done:
        """Run a program; `code` is the exit code it must end with (None: any)."""
        done = subprocess.run(
            list(map(str, words)),
            cwd=cwd or (self.work if self.work.exists() else self.root),
            env={**self.env, **(env or {})},
            capture_output=True,
            text=True,
            errors="surrogateescape",
            stdin=subprocess.DEVNULL,
            timeout=120,
        )
        if code is not None and done.returncode != code:
            shown = " ".join(map(str, words))
            raise AssertionError(
                f"{shown}: ended with {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}"
            )
        return done

    def peak(self, *words: str | Path, stdin: Path | None = None) -> tuple[int, str]:
        """Run a program: the most memory that it or a child of it had, in bytes; its stderr.

        Another process starts it: what a process inherits from the one it is forked from counts
        for it.
        """
        report, source = self.root / "peak", stdin or Path(os.devnull)
        with source.open("rb") as reader:
            done = subprocess.run(
                [sys.executable, "-c", _PEAK, report, *words],
                cwd=self.work, env=self.env, stdin=reader,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
        return int(report.read_text()), done.stderr

    def git(self, *words: str | Path, **options: Any) -> str:
        """Run Git and return its standard output."""
        return self.run("git", *words, **options).stdout

    def theta(self, *words: str | Path, **options: Any) -> Done:
        """Run git-theta the way a user does."""
        return self.run("git", "theta", *words, **options)

    def json(self, *words: str | Path, **options: Any) -> Any:
        """Run git-theta and read its report."""
        return json.loads(self.theta(*words, "--json", **options).stdout)

    def init(self, *, install: bool = True, track: str = "*.safetensors") -> Path:
        """Make the repository, set up git-theta, track a pattern."""
        if install and self._is_new():
            self.install()
            shutil.copytree(_made_once(track) / "work", self.work, symlinks=True)
        else:
            self.set_up(install=install, track=track)
        return self.work

    def install(self) -> None:
        """What `git theta install` does outside of repositories."""
        shutil.copytree(_made_once("*.safetensors") / "home", self.home, dirs_exist_ok=True)

    def _is_new(self) -> bool:
        config = (self.home / ".gitconfig").read_text()
        return config == _CONFIG and self.env == clean_environment(self.home)

    def set_up(self, *, install: bool = True, track: str = "") -> None:
        """Do by the commands what `init` copies where it was done before."""
        self.work.mkdir()
        self.git("init", "-q")
        if install:
            self.theta("install")
        if track:
            self.theta("track", track, "-q")

    def commit(self, message: str = "a commit") -> str:
        """Commit everything; return the commit's id."""
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        return self.git("rev-parse", "HEAD").strip()

    def store(self) -> Path:
        """Where the objects of the repository lie."""
        return self.work / ".git" / "theta" / "lfs.git" / "lfs" / "objects"

    def objects(self) -> list[Path]:
        """The files of all stored objects."""
        return sorted(path for path in self.store().rglob("*") if path.is_file())


@cache
def _made_once(track: str) -> Path:
    """A home and a repository as the commands make them, for all tests of a process."""
    root = Path(tempfile.mkdtemp(prefix="sandbox-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    Sandbox(root).set_up(track=track)
    return root


def model(
    path: Path, changes: Mapping[str, npt.NDArray[Any]] | None = None, *, layers: int = 4
) -> bytes:
    """Write a small safetensors file with fixed weights, some of them replaced."""
    rng = np.random.default_rng(7)
    tensors: dict[str, npt.NDArray[Any]] = {
        f"layer.{number}.weight": rng.normal(size=(40, 50)).astype("<f4")
        for number in range(layers)
    }
    tensors |= dict(changes or {})
    data = encode(tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return data


def encode(tensors: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """A safetensors file of float32 tensors, written by hand."""
    header: dict[str, Any] = {}
    body = b""
    for name, values in tensors.items():
        data = values.astype("<f4").tobytes()
        ends = [len(body), len(body) + len(data)]
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": ends}
        body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def without_program(env: Mapping[str, str], name: str, scratch: Path) -> dict[str, str]:
    """An environment in which one program is not found: PATH is a directory of links."""
    scratch.mkdir(parents=True, exist_ok=True)
    for directory in env["PATH"].split(os.pathsep):
        if not Path(directory).is_dir():
            continue
        for program in Path(directory).iterdir():
            link = scratch / program.name
            if program.name != name and not link.exists() and os.access(program, os.X_OK):
                link.symlink_to(program)
    if shutil.which(name, path=str(scratch)):
        raise AssertionError(f"{name} is still found")
    return {**env, "PATH": str(scratch)}
