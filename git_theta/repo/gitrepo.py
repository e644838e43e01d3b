"""A Git repository, asked through Git's own plumbing.

Git answers for configuration, attributes, the index and objects; nothing of it is re-implemented
here. `GIT_INDEX_FILE` and the other variables that Git gives its filters stay in force, except in
the shadow repository of the object store (`clean_environment`).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, NamedTuple

from git_theta.errors import NotTrackedError, ThetaError
from git_theta.settings import forget_super_prefix, settle_places

# A directory may have a newline in its name: a word that is known stands between any two.
_PLACES = (
    "rev-parse", "--absolute-git-dir", "--is-bare-repository", "--git-common-dir",
    "--is-bare-repository", "--show-toplevel",
)  # fmt: skip
_TOLD = re.compile(
    r"(?P<git_dir>.+?)\n(?P<bare>true|false)\n(?P<common>.+?)\n(?P=bare)\n(?:(?P<top>.+)\n)?",
    re.DOTALL,
)


class StagedEntry(NamedTuple):
    """One line of the index: a path at a stage (0 merged; 1 base, 2 ours, 3 theirs)."""

    mode: str
    oid: str
    stage: int
    path: str


class GitError(ThetaError):
    """A Git command failed in a way that we did not expect."""


def run_git(
    arguments: Sequence[str],
    *,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
) -> bytes:
    """Run Git and return what it prints.

    Raises:
        GitError: Git failed and `check` is true; the message is Git's own.
    """
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=cwd,
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            env=None if env is None else dict(env),
            capture_output=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise GitError("git is not installed, or not on PATH") from error
    if check and done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise GitError(said or f"git {arguments[0]} failed with exit code {done.returncode}")
    return done.stdout


class Repo:
    """A repository: `git_dir` is the worktree's own, `common_dir` is shared by all worktrees."""

    def __init__(self, git_dir: Path, common_dir: Path, top: Path | None) -> None:
        self.git_dir = git_dir
        self.common_dir = common_dir
        self.top = top
        self._objects: ObjectReader | None = None

    @classmethod
    def find(cls, cwd: Path | None = None) -> Repo:
        """Find the repository around a directory.

        Raises:
            NotTrackedError: there is none.
        """
        forget_super_prefix()
        settle_places()
        where = Path.cwd() if cwd is None else cwd
        told = run_git(_PLACES, cwd=where, check=False)  # it fails for the last in a bare one
        found = _TOLD.fullmatch(told.decode(errors="surrogateescape"))
        if found is None:
            raise NotTrackedError(
                "this is not a Git repository", hint="cd into one, or run git init"
            )
        git_dir, common, shown = found["git_dir"], found["common"], found["top"]
        return cls(
            git_dir=Path(git_dir),
            common_dir=(where / common).resolve(),
            top=Path(shown) if shown else None,
        )

    @property
    def cwd(self) -> Path:
        """Where Git is run: the top of the work tree, or the git directory of a bare one."""
        return self.top or self.git_dir

    def git(self, *arguments: str, stdin: bytes | None = None, check: bool = True) -> bytes:
        """Run Git here and return what it prints."""
        return run_git(arguments, cwd=self.cwd, stdin=stdin, check=check)

    def text(self, *arguments: str, check: bool = True) -> str:
        """Run Git here and return its answer as text without the last newline."""
        answer = self.git(*arguments, check=check)
        return answer.decode(errors="surrogateescape").rstrip("\n")

    def lines(self, *arguments: str, check: bool = True) -> list[str]:
        """Run Git here and return the lines of its answer; only a newline ends one."""
        return [line for line in self.text(*arguments, check=check).split("\n") if line]

    @cached_property
    def config(self) -> Mapping[str, str]:
        """All configuration in force, keys in lower case up to the last dot; the last one wins."""
        found: dict[str, str] = {}
        for item in self.git("config", "-z", "--list").split(b"\0"):
            key, _, value = item.decode(errors="surrogateescape").partition("\n")
            found[key] = value
        return found

    @property
    def objects(self) -> ObjectReader:
        """Git's object database, read through one long-running process."""
        if self._objects is None:
            self._objects = ObjectReader(self.cwd)
        return self._objects

    def close(self) -> None:
        """End the helper processes."""
        if self._objects is not None:
            self._objects.close()
            self._objects = None

    def staged(self, *pathspecs: str) -> list[StagedEntry]:
        """The index's entries, all of them or those that match (Git's pathspec language)."""
        listing = self.git("ls-files", "-s", "-z", "--full-name", "--", *pathspecs)
        return list(_staged_entries(listing))

    def attributes(self, paths: Iterable[str], names: Sequence[str]) -> dict[str, dict[str, str]]:
        """Attributes of paths (relative to the top): path -> name -> value, unset ones absent."""
        asked = b"".join(p.encode(errors="surrogateescape") + b"\0" for p in paths)
        found: dict[str, dict[str, str]] = {}
        if not asked:
            return found
        answer = self.git("check-attr", "-z", "--stdin", *names, stdin=asked)
        parts = answer.decode(errors="surrogateescape").split("\0")
        for path, name, value in zip(parts[0::3], parts[1::3], parts[2::3], strict=False):
            entry = found.setdefault(path, {})
            if value not in ("unspecified", "unset"):
                entry[name] = value
        return found

    def resolve(self, rev: str) -> str | None:
        """The commit that a revision names, or None."""
        answer = self.text("rev-parse", "-q", "--verify", "--end-of-options", rev, check=False)
        return answer or None

    def has_objects(self, oids: Collection[str]) -> set[str]:
        """Which of these objects are in Git's database here; never asks a remote."""
        if not oids:
            return set()
        if self.promisor:
            self.__dict__.pop("local_objects", None)  # Git may have more of them by now
            return set(self.local_objects & set(oids))
        asked = "".join(f"{oid}\n" for oid in oids).encode()
        answer = self.git("cat-file", "--batch-check=%(objectname)", stdin=asked).decode()
        return {line for line in answer.splitlines() if " " not in line}

    @cached_property
    def local_objects(self) -> frozenset[str]:
        """All objects here; for a partial clone, where to ask for an absent one downloads it."""
        format_ = "--batch-check=%(objectname)"
        return frozenset(self.text("cat-file", "--batch-all-objects", format_).splitlines())

    @cached_property
    def promisor(self) -> bool:
        """Whether this is a partial clone, where reading an absent blob would use the network."""
        return any(key.startswith("remote.") and key.endswith(".promisor") for key in self.config)


def _staged_entries(listing: bytes) -> Iterator[StagedEntry]:
    for item in listing.split(b"\0"):
        if item:
            meta, _, path = item.partition(b"\t")
            mode, oid, stage = meta.decode().split()
            yield StagedEntry(mode, oid, int(stage), path.decode(errors="surrogateescape"))


def read_blobs(cwd: Path, oids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Many blobs in the order asked for, through one process: (oid, bytes); none is replaced.

    Raises:
        GitError: one of them cannot be read.
    """
    if not oids:
        return
    from tempfile import TemporaryFile  # which takes as long to import as all else here

    with TemporaryFile() as asked:
        asked.write("".join(f"{oid}\n" for oid in oids).encode())
        asked.seek(0)
        process = subprocess.Popen(
            ["git", "--no-replace-objects", "cat-file", "--batch", "--buffer"],
            cwd=cwd,
            stdin=asked,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=1 << 20,
        )
        try:
            yield from _answers(process, oids)
        finally:
            process.kill()
            process.communicate()


def _answers(process: subprocess.Popen[bytes], oids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    if process.stdout is None:
        raise GitError("git cat-file has no output")
    for oid in oids:
        fields = process.stdout.readline().split()
        if len(fields) != 3:
            raise _damaged(oid)
        data = process.stdout.read(int(fields[2]) + 1)
        if len(data) != int(fields[2]) + 1:
            raise _damaged(oid)
        yield oid, data[:-1]


def _damaged(name: str) -> GitError:
    return GitError(
        f"Git cannot read object {name}: it is damaged",
        hint="git fsck --full says more; fetch it from a clone that has it",
    )


class ObjectReader:
    """`git cat-file --batch`, kept running. Not for use from several threads.

    With `replaced` false, objects are read as they are stored, whatever `git replace` says.
    """

    def __init__(self, cwd: Path, *, replaced: bool = True) -> None:
        self._cwd = cwd
        self._options = [] if replaced else ["--no-replace-objects"]
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["git", *self._options, "cat-file", "--batch"],
            cwd=self._cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def read(self, name: str, *, limit: int | None = None) -> tuple[str, bytes] | None:
        """The object that a name (`OID`, `HEAD:path`, `:0:path`) stands for: (oid, bytes).

        Returns None where there is none. Above `limit` bytes only the first `limit` are returned.

        Raises:
            GitError: it is there, and damaged.
        """
        if "\n" in name:  # would be two names to this process
            name = self._resolved(name)
        stdin, stdout = self._pipes()
        try:
            stdin.write(name.encode(errors="surrogateescape") + b"\n")
            stdin.flush()
            answer = stdout.readline().split()
        except BrokenPipeError:
            return None
        if len(answer) != 3 or not answer[2].isdigit():
            return None
        size = int(answer[2])
        wanted = size if limit is None else min(size, limit)
        data = stdout.read(wanted)
        left = size - wanted + 1
        while left:
            skipped = len(stdout.read(min(left, 1 << 20)))
            if not skipped:  # Git gives up in the middle of an object that it finds damaged
                self.close()
                self._process = self._start()
                raise _damaged(answer[0].decode())
            left -= skipped
        return answer[0].decode(), data

    def _resolved(self, name: str) -> str:
        words = ["rev-parse", "-q", "--verify", "--end-of-options", name]
        return run_git(words, cwd=self._cwd, check=False).decode().strip() or "0" * 40

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise GitError("git cat-file has no pipes")
        return stdin, stdout

    def close(self) -> None:
        """End the process."""
        stdin, stdout = self._pipes()
        stdin.close()
        stdout.close()
        self._process.wait()
