"""What Git's configuration must say for git-theta to work, written to and read from one scope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from git_theta.errors import ThetaError
from git_theta.repo.gitrepo import GitError, Repo, run_git

Scope: TypeAlias = Literal["local", "global", "system"]

# Git quotes %f and %P for the shell itself; "--" keeps a path that begins with a dash a path.
# `required` makes Git fail rather than commit a raw checkpoint where git-theta is missing.
# The drivers' patterns put tensors and sections into the hunk headers of `git diff` and `log -p`.
WANTED: dict[str, str] = {
    "filter.theta.process": "git-theta filter-process",
    "filter.theta.clean": "git-theta clean -- %f",
    "filter.theta.smudge": "git-theta smudge -- %f",
    "filter.theta.required": "true",
    "merge.theta.name": "git-theta: merge checkpoints tensor by tensor",
    "merge.theta.driver": "git-theta merge-driver -- %O %A %B %L %P",
    "diff.theta.command": "git-theta diff-driver",
    # In one line: tools such as git-filter-repo read `git config --list` line by line.
    "diff.theta.xfuncname": '^"(([^"\\\\]|\\\\.)*)": \\{("dtype".*)?$',
    "diff.theta.wordregex": '"([^"\\\\]|\\\\.)*"|[0-9a-f]+|[^[:space:]]',
}
AUTO_HOOKS = "theta.autohooks"


class ConfigurationError(ThetaError):
    """Git's configuration file cannot be written."""


@dataclass(frozen=True, slots=True)
class Value:
    """One value in force or shadowed: where it is set, and what it says."""

    scope: str
    origin: str
    value: str


def write(scope: Scope, key: str, value: str | None, repo: Repo | None) -> bool:
    """Set a key in one scope (None: remove it); say whether that changed anything.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    cwd = repo.cwd if repo else None
    before = values_in(scope, key, repo)
    if before == ([] if value is None else [value]):
        return False
    change = ["--unset-all", key] if value is None else ["--replace-all", key, value]
    try:
        run_git(["config", f"--{scope}", *change], cwd=cwd)
    except GitError as error:
        raise ConfigurationError(
            f"the {scope} Git configuration cannot be written: {error}",
            hint="check who owns the file, or use another scope: git theta install -h",
        ) from error
    return True


def values_in(scope: Scope, key: str, repo: Repo | None) -> list[str]:
    """The values of a key in one scope."""
    cwd = repo.cwd if repo else None
    told = run_git(["config", f"--{scope}", "-z", "--get-all", key], cwd=cwd, check=False)
    return [value.decode(errors="surrogateescape") for value in told.split(b"\0")[:-1]]


def everywhere(repo: Repo | None) -> dict[str, list[Value]]:
    """All keys of all scopes, in Git's order: the last value of a key is in force."""
    cwd = repo.cwd if repo else None
    told = run_git(["config", "-z", "--list", "--show-origin", "--show-scope"], cwd=cwd)
    parts = told.decode(errors="surrogateescape").split("\0")
    found: dict[str, list[Value]] = {}
    for scope, origin, item in zip(parts[0::3], parts[1::3], parts[2::3], strict=False):
        key, _, value = item.partition("\n")
        found.setdefault(key, []).append(Value(scope, origin.removeprefix("file:"), value))
    return found


def installed(repo: Repo | None) -> bool:
    """Whether the filter is configured in any scope that counts here."""
    return "filter.theta.process" in everywhere(repo)
