"""What one run works with: repository, store, catalog, plug-ins; and a word to the user."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from git_theta.commands.terminal import printable
from git_theta.core import limits
from git_theta.core.manifest import Manifest, parse
from git_theta.errors import RefusedError, ThetaError, shell_word
from git_theta.repo.borrowers import sign
from git_theta.repo.gitrepo import Repo
from git_theta.repo.objects import Store
from git_theta.settings import Settings

if TYPE_CHECKING:
    from git_theta.commands.patch import Foreseen
    from git_theta.core.checkpoint import Plugins
    from git_theta.repo.catalog import Catalog


class Session:
    """Opened once per process; everything in it is made when it is first needed."""

    def __init__(self, repo: Repo | None = None) -> None:
        self.repo = Repo.find() if repo is None else repo
        self._hooks_seen = False
        # What Git had restored that is in no tree yet: it is making it in this very command, and
        # some of its merges have the file cleaned at once and give up where that differs.
        # By path: the digest of the file that was written, and its manifest.
        self.given: dict[str, tuple[str, bytes]] = {}
        # New versions made before Git asks for them, by path and manifest: where they lie.
        self.ahead: dict[tuple[str, bytes], Path] = {}
        # What these lack of the old files that Git still has, by the same.
        self.foreseen: dict[tuple[str, bytes], Foreseen] = {}
        # The manifest that was last staged, by its text: what comes next is often built on it.
        self.staged: dict[bytes, Manifest] = {}
        limits.enforce(lambda: self.settings.limits)

    @cached_property
    def settings(self) -> Settings:
        """Settings in force."""
        return Settings.read(self.repo.config)

    @cached_property
    def store(self) -> Store:
        """The object store."""
        store = Store.of(self.repo.common_dir, sync=self.settings.sync)
        if store.alternates:
            sign(self.repo.common_dir, store.alternates)
        return store

    @cached_property
    def catalog(self) -> Catalog:
        """The cache of what was seen."""
        from git_theta.repo.catalog import Catalog  # with all of SQLite

        return Catalog(self.repo.common_dir / "theta" / "catalog.db")

    @cached_property
    def plugins(self) -> Plugins:
        """How to reach plug-ins by name."""
        from git_theta.core.checkpoint import Plugins  # with all of numpy

        return Plugins(updates=_update, formats=_format)

    def parse(self, text: bytes) -> Manifest:
        """Parse a manifest, unless it is the one that was last staged.

        Raises:
            ManifestError: it is damaged.
        """
        return self.staged.get(text) or parse(text)

    def path(self, name: str) -> Path:
        """A path that Git names, in the work tree."""
        return self.repo.cwd / name

    def collect(self) -> None:
        """Remove what earlier runs stored and nothing ever named."""
        from git_theta.repo.collect import collect

        self.store.release()
        with suppress(ThetaError, OSError):  # to tidy up is no reason to fail
            collect(self.repo, self.store, self.catalog, self.settings.grace)

    def ensure_hooks(self, *, storing: bool) -> None:
        """See to it that what is committed here is pushed whole; done once, for the first file.

        Raises:
            RefusedError: something is to be stored, and a push would leave it behind.
        """
        if self._hooks_seen:
            return
        from git_theta.repo.hooks import ensure_pre_push

        try:
            line = ensure_pre_push(self.repo, self.settings)
        except RefusedError:
            if storing:
                raise
            return
        self._hooks_seen = True
        if line:
            sys.stderr.write(f"git theta: {line}\n")
            sys.stderr.flush()

    def close(self) -> None:
        """End helper processes, give up locks, close files."""
        for name in ("store", "catalog"):
            if name in self.__dict__:
                self.__dict__[name].close()
        self.repo.close()


def _update(name: str) -> Any:
    from git_theta import registry

    return registry.load("updates", name)


def _format(name: str) -> Any:
    from git_theta import registry

    return registry.load("formats", name)


def say(path: str, message: str, hint: str = "") -> None:
    """Tell the user one thing about one file, on stderr.

    Only lines of the message that are indented stay lines: no name in it can begin one of its own.
    """
    told = "\n  ".join(map(printable, message.split("\n  ")))
    lines = [f"git theta: {printable(path)}: {told}"]
    if hint:
        lines.append(f"  hint: {printable(hint)}")
    sys.stderr.write("\n".join(lines) + "\n")
    sys.stderr.flush()


def say_left(path: str, error: ThetaError) -> None:
    """Say why the text of a manifest stays in the work tree, and what gives the file."""
    again = f"git theta pull -- {shell_word(path)}"
    hint = f"{error.hint}; then run {again}" if error.hint else f"run {again}"
    say(path, f"left as a manifest: {error}", hint)


def report(path: str, error: BaseException) -> None:
    """Tell the user of an expected failure; anything else is a bug and is raised again."""
    if isinstance(error, ThetaError):
        say(path, str(error), error.hint)
    elif isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        say(path, f"{where}{error.strerror or error}")
    elif isinstance(error, MemoryError):
        say(path, "there is not enough memory")
    else:
        raise error
