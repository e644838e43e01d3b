"""What Git does in a merge of branches: bases, the other files, and the commit."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from git_theta.errors import MergeError, NotTrackedError, RefusedError, UsageError
from git_theta.repo.gitrepo import GitError, Repo, run_git
from git_theta.settings import KEPT, LATER, environment


@dataclass(frozen=True, slots=True)
class Branch:
    """A commit that is merged, and how the user called it."""

    name: str
    oid: str


@dataclass(kw_only=True)
class Folded:
    """The tree that Git makes of all commits; `conflicts` has the stages of each path."""

    tree: str
    conflicts: dict[str, dict[int, tuple[str, str]]] = field(default_factory=dict)


def find_branches(repo: Repo, names: Sequence[str]) -> tuple[str, list[Branch]]:
    """HEAD, and the commits to be merged that are not merged yet.

    Raises:
        NotTrackedError: there is no work tree.
        UsageError: a name is no commit.
        RefusedError: a merge is under way, or there is nothing to merge into.
    """
    head = repo.resolve("HEAD^{commit}")
    if repo.top is None:
        raise NotTrackedError("a bare repository has no files to merge", hint="merge in a clone")
    if head is None:
        raise RefusedError("there is no commit to merge into", hint="commit something first")
    if (repo.git_dir / "MERGE_HEAD").exists():
        raise RefusedError("a merge is under way", hint="git commit, or git merge --abort")
    found: list[Branch] = []
    for name in names:
        oid = repo.resolve(name + "^{commit}")
        if oid is None:
            raise UsageError(f"{name!r} is no commit", hint="git branch -a")
        if not is_ancestor(repo, oid, head) and all(oid != other.oid for other in found):
            found.append(Branch(name, oid))
    return head, found


def is_ancestor(repo: Repo, one: str, other: str) -> bool:
    """Whether a commit is in the history of another."""
    return repo.text("merge-base", one, other, check=False) == one


def merge_base(repo: Repo, commits: Sequence[str]) -> str | None:
    """The one ancestor from which all changes are counted, or None where there is none.

    Where two branches have several (they merged each other), it is the ancestor of those.
    """
    found = list(commits)
    asked = "--octopus" if len(found) > 2 else "--all"
    while len(found) > 1:
        answer = repo.text("merge-base", asked, *found, check=False).split()
        if not answer:
            return None
        found, asked = answer, "--octopus"
    return found[0]


def fold(repo: Repo, head: str, branches: Sequence[Branch]) -> Folded:
    """Let Git merge all other files, one branch after the other, without touching the tree.

    Raises:
        MergeError: with several branches, files that are not git-theta's conflict.
        GitError: Git is too old, or has failed.
    """
    commit, folded = head, Folded(tree=head + "^{tree}")
    for number, branch in enumerate(branches):
        folded = _merge_tree(repo, commit, branch.oid)
        if len(branches) > 1 and folded.conflicts:
            _refuse_others(repo, folded, branch)
        if number + 1 < len(branches):
            commit = run_git(
                ["commit-tree", folded.tree, "-p", commit, "-p", branch.oid, "-m", "folded"],
                cwd=repo.cwd,
                env=environment() | _NOBODY,
            ).decode().strip()  # fmt: skip
    return folded


_NOBODY = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "git-theta"), ("EMAIL", "-"), ("DATE", "2000-01-01T00:00:00Z"))
}


def _merge_tree(repo: Repo, ours: str, theirs: str) -> Folded:
    done = subprocess.run(
        [
            "git", "merge-tree", "--write-tree", "--no-messages", "-z",
            "--allow-unrelated-histories", ours, theirs,
        ],
        cwd=repo.cwd,
        env=environment() | {"GIT_THETA_MERGE": LATER},
        capture_output=True,
        check=False,
    )  # fmt: skip
    if done.returncode not in (0, 1):
        said = done.stderr.decode(errors="replace").strip()
        raise GitError(said or "git merge-tree failed", hint="this needs Git 2.38 or later")
    items = done.stdout.decode(errors="surrogateescape").split("\0")
    folded = Folded(tree=items[0].strip())
    for item in items[1:]:
        meta, _, path = item.partition("\t")
        if path:
            mode, oid, stage = meta.split()
            folded.conflicts.setdefault(path, {})[int(stage)] = (mode, oid)
    return folded


def _refuse_others(repo: Repo, folded: Folded, branch: Branch) -> None:
    filters = repo.attributes(folded.conflicts, ["merge"])
    others = [p for p in folded.conflicts if filters.get(p, {}).get("merge") != "theta"]
    if others:
        raise MergeError(
            f"{branch.name} conflicts in {', '.join(sorted(others)[:5])}",
            hint="merge the branches one after the other, or settle these files first",
        )


def commit_tree(
    repo: Repo, folded: Folded, files: Mapping[str, tuple[str, str]], parents: Sequence[str],
    message: str,
) -> str:  # fmt: skip
    """A commit of the folded tree with some files (path -> mode, blob) replaced."""
    with tempfile.TemporaryDirectory(dir=repo.git_dir) as scratch:
        env = environment() | {"GIT_INDEX_FILE": str(Path(scratch, "index"))}
        run_git(["read-tree", folded.tree], cwd=repo.cwd, env=env)
        lines = "".join(f"{mode} {oid} 0\t{path}\0" for path, (mode, oid) in files.items())
        told = lines.encode(errors="surrogateescape")
        run_git(["update-index", "-z", "--index-info"], cwd=repo.cwd, env=env, stdin=told)
        tree = run_git(["write-tree"], cwd=repo.cwd, env=env).decode().strip()
    arguments = [word for parent in parents for word in ("-p", parent)]
    if repo.config.get("commit.gpgsign", "false").lower() in ("true", "yes", "on", "1"):
        arguments.append("-S")
    return (
        repo.git("commit-tree", tree, *arguments, "-F", "-", stdin=message.encode())
        .decode()
        .strip()
    )


def advance(repo: Repo, commit: str, action: str, kept: Path | None = None) -> None:
    """Move the branch to a commit that descends from it, and the work tree with it.

    `kept` is a directory of files that the filter may take instead of making them.

    Raises:
        RefusedError: files in the work tree stand in the way; nothing was changed.
    """
    done = subprocess.run(
        ["git", "merge", "-q", "--ff-only", commit],
        cwd=repo.cwd,
        env=environment()
        | {"GIT_REFLOG_ACTION": action}
        | ({} if kept is None else {KEPT: str(kept)}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode:
        raise RefusedError(said, hint="commit or stash these files, then merge again")
    if said:
        os.write(2, done.stderr)


def begin_conflict(repo: Repo, branch: Branch, message: str) -> None:
    """Start a merge that stops: conflicts in the index, to be settled and committed.

    Raises:
        RefusedError: files in the work tree stand in the way.
    """
    done = subprocess.run(
        ["git", "merge", "--no-commit", "--no-ff", "-m", message, branch.oid],
        cwd=repo.cwd,
        env=environment() | {"GIT_THETA_MERGE": LATER},
        capture_output=True,
        check=False,
    )
    if not (repo.git_dir / "MERGE_HEAD").exists():
        said = done.stderr.decode(errors="replace").strip()
        raise RefusedError(said or "git merge failed", hint="commit or stash your changes first")


def default_message(branches: Sequence[Branch]) -> str:
    """What Git would say of such a merge."""
    names = [f"'{branch.name}'" for branch in branches]
    if len(names) == 1:
        return f"Merge branch {names[0]}"
    return f"Merge branches {', '.join(names[:-1])} and {names[-1]}"


def with_trailers(repo: Repo, message: str, trailers: Sequence[str]) -> str:
    """A commit message with lines added in Git's way."""
    if not trailers:
        return message
    words = [word for line in trailers for word in ("--trailer", line)]
    whole = message.rstrip("\n") + "\n"
    return repo.git("interpret-trailers", *words, stdin=whole.encode()).decode()
