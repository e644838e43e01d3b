"""The repository's hooks: ours is put before nothing and replaces nothing.

A hook that was there stays beside ours under another name, runs first with the same arguments and
input, and is put back by `uninstall`. Where Git looks for hooks is asked of Git.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from git_theta.errors import RefusedError, ThetaError
from git_theta.repo.gitrepo import Repo
from git_theta.repo.objects import store_failed
from git_theta.settings import Settings

NAMES = ("pre-push",)
KEPT = ".before-theta"

_MARK = re.compile(rb"^# git-theta hook, version (\d+)", re.MULTILINE)
_CALL = re.compile(rb"^[^#\n]*git[ -]theta pre-push", re.MULTILINE)
_BY_NAME = re.compile(rb"""basename\s+(--\s+)?"?\$\{?0|\$\{0##""")
_DAY = 24 * 3600
_FOREIGN = -1


class HookError(ThetaError):
    """The hooks directory cannot be written."""


def directory(repo: Repo) -> Path:
    """Where Git looks for hooks, `core.hooksPath` included."""
    return repo.cwd / repo.text("rev-parse", "--git-path", "hooks")


def install(repo: Repo) -> list[str]:
    """Add our hooks, keeping those that are there; returns the names of what changed.

    Raises:
        HookError: the directory cannot be written.
        RefusedError: a hook is there that would not run under another name.
    """
    where = directory(repo)
    return [name for name in NAMES if _install(where, name)]


def uninstall(repo: Repo) -> list[str]:
    """Take our hooks away and put back what was there; returns the names of what changed.

    Raises:
        HookError: the directory cannot be written.
    """
    where = directory(repo)
    return [name for name in NAMES if _uninstall(where / name)]


def missing(repo: Repo) -> list[str]:
    """Those of our hooks that Git would not run."""
    where = directory(repo)
    return [name for name in NAMES if not _is_served(where, name)]


def ensure_pre_push(repo: Repo, settings: Settings) -> str | None:
    """Add the hook without which a push would leave the objects behind, where it is missing.

    Returns a line for the user where something was done, or must be done by hand.

    Raises:
        RefusedError: it is missing, and `theta.autoHooks` forbids to add it.
    """
    where = directory(repo)
    if _is_served(where, "pre-push"):
        return None
    if not settings.auto_hooks:
        raise RefusedError(
            "the pre-push hook is missing, and without it what is committed here could not be "
            "pushed whole",
            hint="git theta install --local, or: git config theta.autoHooks true",
        )
    reason = _hands_off(repo, where)
    if reason:
        return _once_a_day(repo, reason)
    try:
        _install(where, "pre-push")
    except ThetaError as error:
        return _once_a_day(repo, f"the pre-push hook is missing: {error}; {error.hint}")
    return f"added the pre-push hook to {where}, which uploads objects (git theta install -h)"


# --- what is there -------------------------------------------------------------------------------


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _version(text: bytes | None) -> int:
    """The version of our hook, or -1 for somebody else's or none."""
    match = _MARK.search(text or b"")
    return int(match[1]) if match else _FOREIGN


def _is_ours(text: bytes | None) -> bool:
    return _version(text) != _FOREIGN


def _ours(name: str) -> bytes:
    # Not by importlib.resources: to import that takes longer than all else that a filter does here.
    return Path(import_module("git_theta.hooks").__path__[0], name).read_bytes()


def _is_served(where: Path, name: str) -> bool:
    """Whether Git, running this hook, comes to ours: directly, or through a hook that calls it."""
    path = where / name
    if not _is_executable(path):
        return False
    if _is_ours(_read(path)):
        return True
    wrapped = [path, where / f"{name}.legacy", where.parent / name]
    return any(_is_ours(text) or _CALL.search(text) for text in map(_read, wrapped) if text)


def _is_executable(path: Path) -> bool:
    try:
        return path.is_file() and bool(path.stat().st_mode & 0o111)
    except OSError:
        return False


def _hands_off(repo: Repo, where: Path) -> str:
    """Why the hooks directory is not ours to change unasked; empty where it is."""
    here = where.resolve()
    inside = [repo.git_dir.resolve(), repo.common_dir]
    run = "run git theta install --local"
    if any(here.is_relative_to(path) for path in inside):
        return ""
    if repo.top is None or not here.is_relative_to(repo.top.resolve()):
        return f"the hooks are shared by several repositories ({where}) and lack ours: {run}"
    if repo.git("ls-files", "--", str(where / "pre-push")):
        return f"{where / 'pre-push'} is a file of this repository and does not call us: {run}"
    return ""


def _once_a_day(repo: Repo, line: str) -> str | None:
    """The line, unless the same was said today."""
    stamp = repo.common_dir / "theta" / "told-of-hooks"
    with suppress(OSError):
        if stamp.read_text() == line and time.time() - stamp.stat().st_mtime < _DAY:
            return None
    with suppress(OSError):
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(line)
    return line


# --- changing it ---------------------------------------------------------------------------------


def _install(where: Path, name: str) -> bool:
    path, ours = where / name, _ours(name)
    found = _read(path)
    if found is not None and _version(found) >= _version(ours) and _is_executable(path):
        return False
    if not _is_ours(found) and _is_served(where, name):
        return False
    if found is not None and not _is_ours(found) and _BY_NAME.search(found):
        raise RefusedError(
            f"{path} finds its work by its own name, so it cannot be kept under another",
            hint=f'add this line to what it runs: git-theta {name} "$@"',
        )
    try:
        where.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or (found is not None and not _is_ours(found)):
            path.rename(_free(path))
        part = where / f".{name}.theta-{time.time_ns()}"
        part.write_bytes(ours)
        part.chmod(0o777 & ~_closed(where))
        part.replace(path)
    except OSError as error:
        _failed(error, where)
    return True


def _uninstall(path: Path) -> bool:
    if not _is_ours(_read(path)):
        return False
    kept = sorted(_kept(path), key=lambda other: other.name)
    try:
        if kept:
            kept[-1].replace(path)
        else:
            path.unlink()
    except OSError as error:
        _failed(error, path.parent)
    return True


def _kept(path: Path) -> Iterator[Path]:
    return path.parent.glob(f"{path.name}{KEPT}*")


def _free(path: Path) -> Path:
    """A name for a hook that is kept, after those that are kept already."""
    number = len(list(_kept(path)))
    return path.with_name(f"{path.name}{KEPT}" + (f"-{number}" if number else ""))


def _closed(where: Path) -> int:
    """What the directory does not grant to others, a new file in it should not grant either."""
    return 0o777 & ~where.stat().st_mode


def _failed(error: OSError, where: Path) -> None:
    try:
        store_failed(error, f"the hooks directory {where} cannot be written")
    except ThetaError as failure:
        raise HookError(
            str(failure), hint="check who owns it, or set core.hooksPath to a directory of yours"
        ) from error
