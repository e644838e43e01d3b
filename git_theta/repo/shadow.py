"""The shadow repository: where Git LFS runs, so that the object store is its media directory.

It has no commits and no work tree. It sees the configuration that the user's repository sees,
handed over in the environment: what `-c` and includes say counts as well, and nothing is copied
to disk. Keys that would lead Git LFS away from the store are left out.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress

from git_theta.errors import TransferError
from git_theta.repo.gitrepo import Repo, run_git
from git_theta.repo.objects import Store, store_failed
from git_theta.settings import environment

Pair = tuple[str, str]

# `storage` is said here, nearest to Git LFS, so that a global one does not count. It is never said
# in the environment: there Git LFS would take it for the storage of a remote on this disk, too.
_CONFIG = """\
[core]
\trepositoryformatversion = 0
\tbare = true
[lfs]
\tstorage = lfs
"""
# fmt: off
_SECTIONS_LEFT_OUT = frozenset((
    "alias", "branch", "core", "diff", "extensions", "filter", "gc", "include", "includeif",
    "merge", "submodule", "theta",
))
_CORE_KEPT = frozenset((
    "core.askpass", "core.sshcommand", "core.gitproxy", "core.sharedrepository",
))
_LFS_LEFT_OUT = frozenset((
    "lfs.storage", "lfs.fetchinclude", "lfs.fetchexclude", "lfs.fetchrecentalways",
    "lfs.pruneafterfetch", "lfs.allowincompletepush", "lfs.skipdownloaderrors",
))
# fmt: on
_LFSCONFIG_KEPT = ("lfs.url", "lfs.pushurl", "lfs.locksverify", "lfs.gitprotocol")
_PATIENCE = "30"
_HINT = "install Git LFS (apt install git-lfs, brew install git-lfs), then try again"


class Shadow:
    """Runs Git LFS for one repository and its store."""

    def __init__(self, repo: Repo, store: Store) -> None:
        self._repo = repo
        self.path = store.root / "lfs.git"
        self._store = store
        self._environment: dict[str, str] | None = None

    def lfs(
        self, *arguments: str, stdin: bytes = b"", extra: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """Run `git lfs`: its exit code, and what it said where that was not shown to the user.

        Raises:
            TransferError: Git LFS is not installed.
        """
        shown = sys.stderr is not None and sys.stderr.isatty()
        done = subprocess.run(
            ["git", "lfs", *arguments],
            cwd=self.path,
            env=self.environment() | (extra or {}),
            input=stdin,
            stdout=sys.stderr if shown else subprocess.PIPE,
            stderr=None if shown else subprocess.STDOUT,
            check=False,
        )
        if done.returncode and not self._installed():
            raise TransferError("Git LFS is not installed, and objects travel with it", hint=_HINT)
        return done.returncode, (done.stdout or b"").decode(errors="replace").strip()

    def ask_lfs(self, *arguments: str, default: str) -> str:
        """What a `git lfs` command prints, with one remote made the default."""
        env = dict(self.environment())
        number = env["GIT_CONFIG_COUNT"]
        env[f"GIT_CONFIG_KEY_{number}"] = "remote.lfsdefault"
        env[f"GIT_CONFIG_VALUE_{number}"] = default
        env["GIT_CONFIG_COUNT"] = str(int(number) + 1)
        return run_git(["lfs", *arguments], cwd=self.path, env=env, check=False).decode(
            errors="replace"
        )

    def is_diverted(self, remote: str) -> bool:
        """Whether the objects of a remote go somewhere else than its commits."""
        keys = ["lfs.url", "lfs.pushurl", f"remote.{remote}.lfsurl", f"remote.{remote}.lfspushurl"]
        told = run_git(
            ["config", "--name-only", "--get-regexp", r"^(lfs|remote\..*)\.(lfs)?(push)?url$"],
            cwd=self.path,
            env=self.environment(),
            check=False,
        )
        return any(key in keys for key in told.decode(errors="surrogateescape").splitlines())

    def _installed(self) -> bool:
        return b"git-lfs/" in run_git(["lfs", "version"], cwd=self.path, check=False)

    def environment(self) -> dict[str, str]:
        """This process's environment, with the user's configuration and without `GIT_DIR`."""
        if self._environment is None:
            self.create()
            env = environment()
            for name in run_git(["rev-parse", "--local-env-vars"]).decode().split():
                env.pop(name, None)
            seen = Counter(_pairs(run_git(["config", "-z", "--list"], cwd=self.path, env=env)))
            pairs = list(self._handed_over(seen))
            for number, (key, value) in enumerate(pairs):
                env[f"GIT_CONFIG_KEY_{number}"] = key
                env[f"GIT_CONFIG_VALUE_{number}"] = value
            env["GIT_CONFIG_COUNT"] = str(len(pairs))
            self._environment = env
        return self._environment

    def _handed_over(self, seen: Counter[Pair]) -> Iterator[Pair]:
        """What the user's repository sees, less what the shadow sees by itself."""
        user = list(_pairs(self._repo.git("config", "-z", "--list")))
        said = {key for key, _ in user}
        for key, value in self._lfsconfig():
            if key not in said:
                yield key, value
        for pair in user:
            if seen[pair]:
                seen[pair] -= 1
            elif _travels(pair[0]):
                yield self._absolute(*pair)
        # Seconds without a byte; releases of Git LFS differ in what they do when none is said.
        if "lfs.activitytimeout" not in said:
            yield "lfs.activitytimeout", _PATIENCE
        # The shadow is bare, and found from its directory; this one setting may forbid that.
        yield "safe.bareRepository", "all"

    def _absolute(self, key: str, value: str) -> Pair:
        """A remote's relative path is meant from the top of the user's work tree."""
        if key.startswith("remote.") and key.endswith((".url", ".pushurl")):
            return key, absolute_path(self._repo, value)
        return key, value

    def _lfsconfig(self) -> Iterator[Pair]:
        """What `.lfsconfig` may say, from the work tree, else the index, else HEAD."""
        text = None
        if self._repo.top is not None:
            with suppress(OSError):
                text = (self._repo.top / ".lfsconfig").read_bytes()
        for name in (":.lfsconfig", "HEAD:.lfsconfig"):
            if text is None:
                found = self._repo.objects.read(name)
                text = found[1] if found else None
        if not text:
            return
        for key, value in _pairs(
            run_git(["config", "-z", "--list", "--file", "-"], stdin=text, check=False)
        ):
            scoped = key.startswith("lfs.") and key.endswith(".access")
            named = key.startswith("remote.") and key.endswith(".lfsurl")
            if key in _LFSCONFIG_KEPT or scoped or named:
                yield key, value

    def create(self) -> None:
        """Make the repository if it is not there; `HEAD` comes last and says that it is whole."""
        if (self.path / "HEAD").is_file():
            return
        self._store.hold()
        try:
            for name in ("objects", "refs"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            self._put("config", _CONFIG)
            self._put("HEAD", "ref: refs/heads/none\n")
        except OSError as error:
            store_failed(error, f"{self.path} cannot be made")

    def _put(self, name: str, text: str) -> None:
        handle, temporary = self._store.temporary()
        try:
            os.write(handle, text.encode())
            temporary.replace(self.path / name)
        finally:
            os.close(handle)


def absolute_path(repo: Repo, url: str) -> str:
    """A URL as it is; a relative path that exists, from the root."""
    if "://" in url or ":" in url.split("/")[0] or not url:
        return url
    path = repo.cwd / url
    return str(path.resolve()) if path.exists() else url


def _pairs(listing: bytes) -> Iterator[Pair]:
    for item in listing.split(b"\0"):
        key, given, value = item.decode(errors="surrogateescape").partition("\n")
        if key:
            yield key, value if given else "true"


def _travels(key: str) -> bool:
    section = key.partition(".")[0]
    if section in _SECTIONS_LEFT_OUT:
        return key in _CORE_KEPT
    if section == "remote":
        return not key.endswith((".promisor", ".partialclonefilter"))
    return key not in _LFS_LEFT_OUT


def batches(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """A sequence cut into pieces of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
