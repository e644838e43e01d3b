"""What `doctor` found, and its checks of the machine: programs and Git's configuration."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from git_theta import __version__
from git_theta.repo.configuration import WANTED, Value, everywhere
from git_theta.repo.gitrepo import GitError, Repo, run_git

OLDEST_GIT = (2, 26)
_WORDS_ONLY = ("merge.theta.name", "diff.theta.xfuncname", "diff.theta.wordregex")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at: a fault breaks something, a warning may one day."""

    check: str
    status: Literal["ok", "warning", "fault"]
    message: str
    remedy: str = ""


def check_git() -> Iterator[Finding]:
    """Git itself."""
    try:
        told = run_git(["--version"]).decode().strip()
    except GitError as error:
        yield Finding(check="git", status="fault", message=str(error), remedy="install Git")
        return
    numbers = tuple(map(int, re.findall(r"\d+", told)[:2]))
    if numbers < OLDEST_GIT:
        wanted = ".".join(map(str, OLDEST_GIT))
        yield Finding(
            check="git", status="fault", message=f"{told} is too old", remedy=f"install {wanted}"
        )
    else:
        yield Finding(check="git", status="ok", message=told)


def check_lfs(repo: Repo | None) -> Iterator[Finding]:
    """Git LFS, which carries objects to and from remotes."""
    if shutil.which("git-lfs") is None:
        has_remote = repo is not None and any(key.startswith("remote.") for key in repo.config)
        yield Finding(
            check="git-lfs",
            status="fault" if has_remote else "warning",
            message="git-lfs is not installed: objects can be neither pushed nor fetched",
            remedy="install git-lfs (https://git-lfs.com); `git lfs install` is not needed",
        )
        return
    told = run_git(["lfs", "version"], check=False).decode(errors="replace").strip()
    yield Finding(check="git-lfs", status="ok", message=told)


def check_program() -> Iterator[Finding]:
    """The `git-theta` that Git will run."""
    found = shutil.which("git-theta")
    if found is None:
        yield Finding(
            check="git-theta",
            status="fault",
            message="git-theta is not on PATH, so Git cannot run it",
            remedy="activate the environment it is installed in, or add its bin directory to PATH",
        )
        return
    try:
        told = (
            subprocess.run([found, "--version"], capture_output=True, check=False, timeout=60)
            .stdout.decode(errors="replace")
            .strip()
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        told = str(error)
    if told == f"git-theta {__version__}":
        yield Finding(check="git-theta", status="ok", message=f"{told} at {found}")
    else:
        yield Finding(
            check="git-theta",
            status="fault",
            message=f"Git runs {found} ({told or 'it says nothing'}), this is {__version__}",
            remedy="uninstall one of the two, or put the right one first on PATH",
        )


def check_loops() -> Iterator[Finding]:
    """The loops in C: without them all is as it is, but slower."""
    from git_theta.core import loops

    if loops.compiled is not None:
        yield Finding(check="loops", status="ok", message="those in C are installed")
    else:
        yield Finding(
            check="loops",
            status="warning",
            message="those in C were not built; numpy does the same, more slowly",
            remedy="install a C compiler and Python's headers, then git-theta again",
        )


def check_configuration(repo: Repo | None) -> Iterator[Finding]:
    """Filter, merge and diff drivers."""
    values = everywhere(repo)
    if not any(key in values for key in WANTED):
        yield Finding(
            check="configuration",
            status="fault",
            message="git-theta is not set up: tracked files are committed and checked out raw",
            remedy="git theta install",
        )
        return
    faults = [f for key in WANTED if (f := _check_key(key, values)) is not None]
    yield from faults
    if not faults:
        scope = values["filter.theta.process"][-1].scope
        yield Finding(check="configuration", status="ok", message=f"set in the {scope} scope")


def _check_key(key: str, values: Mapping[str, list[Value]]) -> Finding | None:
    wanted, found = WANTED[key], values.get(key, [])
    status: Literal["warning", "fault"] = "warning" if key in _WORDS_ONLY else "fault"
    if not found:
        return Finding(
            check="configuration",
            status=status,
            message=f"{key} is not set",
            remedy="git theta install",
        )
    last = found[-1]
    if last.value == wanted or (_same_program(last.value, wanted)):
        return None
    shadowed = any(value.value == wanted for value in found[:-1])
    told = "overrides the right value of another scope" if shadowed else f"should be {wanted!r}"
    flag = f" --{last.scope}" if last.scope in ("local", "global", "system") else ""
    remedy = f"git theta install{flag}" if flag else f"remove it from {last.origin}"
    if shadowed and flag:
        remedy = f"git config{flag} --unset-all {key}"
    return Finding(
        check="configuration",
        status=status,
        message=f"{key} is {last.value!r} in {last.origin} ({last.scope}); it {told}",
        remedy=remedy,
    )


def _same_program(value: str, wanted: str) -> bool:
    """Someone may name the program by its full path, for tools that have another PATH."""
    program, _, rest = value.partition(" ")
    name, _, words = wanted.partition(" ")
    return name == "git-theta" and program.endswith("/git-theta") and rest == words
