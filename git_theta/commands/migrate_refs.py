"""The refs that a migration moves: which, how, all at once, and back again.

What is to be done is written down first. Killed before that, a migration has changed nothing;
killed later, the next one finishes it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from git_theta.commands.staging import Look, look
from git_theta.commands.terminal import printable
from git_theta.errors import NotTrackedError, RefusedError, ThetaError
from git_theta.repo.attributes import FILE
from git_theta.repo.configuration import installed
from git_theta.repo.gitrepo import GitError, Repo
from git_theta.repo.index import restat
from git_theta.repo.objects import store_failed
from git_theta.repo.pointers import LIMIT, read_pointer
from git_theta.repo.rewrite import History, ObjectWriter, rewritten_tag, tag_target
from git_theta.repo.tracked import is_left_as_manifest

BACKUP = "refs/theta/original"
_ONGOING = {
    "MERGE_HEAD": "merge",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert",
    "rebase-merge": "rebase",
    "rebase-apply": "rebase",
    "sequencer": "cherry-pick or revert",
    "BISECT_LOG": "bisect",
}
_LEFT_ALONE = ("refs/remotes/", "refs/theta/", "refs/stash", "refs/notes/", "refs/replace/",
               "refs/bisect/", "refs/prefetch/", "refs/original/")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ref:
    """A ref to be rewritten: what it names, and the commit that this leads to."""

    name: str
    oid: str
    kind: str


@dataclass(slots=True)
class Move:
    """What is done to refs, and to HEAD's tree: enough to do it, to finish it, and to undo it.

    `refs` are [name, old id, new id], `head` is the old and the new commit that is checked out.
    """

    number: int
    what: str
    refs: list[tuple[str, str, str]] = field(default_factory=list)
    head: tuple[str, str] | None = None
    undoes: bool = False


# --- which refs, and whether it is safe ----------------------------------------------------------


def check_safe(repo: Repo) -> None:
    """Refuse to rewrite what somebody is working on.

    Raises:
        RefusedError: with what to do first.
    """
    if repo.text("rev-parse", "--is-shallow-repository") == "true":
        raise RefusedError(
            "this clone is shallow: its history is not all here", hint="git fetch --unshallow"
        )
    if (repo.common_dir / "info" / "grafts").exists():
        raise RefusedError("this repository has grafts", hint="remove .git/info/grafts first")
    for name, verb in _ONGOING.items():
        if (repo.git_dir / name).exists():
            raise RefusedError(f"a {verb} is going on", hint=f"finish or abort the {verb} first")
    if repo.top is None:
        return
    if not installed(repo):
        raise RefusedError("git-theta is not set up on this machine", hint="git theta install")
    lines = repo.text("status", "--porcelain", "-uno", "--ignore-submodules")
    if not lines:  # a new attribute file would be in the way of one that is written
        lines = repo.text("status", "--porcelain", "-uall", "--", f":(top,glob)**/{FILE}")
    if lines:
        first = printable(lines.splitlines()[0][3:])
        raise RefusedError(
            f"there are changes that are not committed, to {first} for one",
            hint="git commit them first",
        )


def chosen_refs(repo: Repo, named: Sequence[str]) -> list[Ref]:
    """The refs that were named, or all branches and tags; and HEAD where it is detached.

    Raises:
        NotTrackedError: a name is no ref.
    """
    names = [full_name(repo, name) for name in named]
    wanted = names or ["refs/heads/", "refs/tags/"]
    format_ = "%(refname)%00%(objectname)%00%(objecttype)%00%(symref)"
    found = []
    for line in repo.lines("for-each-ref", f"--format={format_}", *wanted):
        name, oid, kind, symref = line.split("\0")
        if not symref and not name.startswith(_LEFT_ALONE):
            found.append(Ref(name, oid, kind))
    head = repo.resolve("HEAD^{commit}")
    if head and (not names or "HEAD" in names) and _is_detached(repo):
        found.append(Ref("HEAD", head, "commit"))
    return found


def everything(repo: Repo) -> list[str]:
    """All refs of this repository that are its own."""
    names = repo.lines("for-each-ref", "--format=%(refname)")
    detached = ["HEAD"] if _is_detached(repo) else []
    return [name for name in names if not name.startswith(_LEFT_ALONE)] + detached


def full_name(repo: Repo, name: str) -> str:
    """The full name of a ref.

    Raises:
        NotTrackedError: there is none, or it is a remote's.
    """
    full = ref_named(repo, name)
    if full is None:
        raise NotTrackedError(f"{name!r} is no branch or tag", hint="git branch; git tag")
    if full.startswith("refs/remotes/"):
        raise NotTrackedError(
            f"{name!r} is a remote's branch, which only a push moves",
            hint=f"git switch {printable(full.split('/', 3)[-1])}, then migrate that",
        )
    return full


def ref_named(repo: Repo, name: str) -> str | None:
    """The full name of a ref, or None where a name is none."""
    if name.startswith(("-", ":")):
        return None
    told = repo.lines("rev-parse", "--symbolic-full-name", "--verify", "-q", name, check=False)
    return told[0] if told else None


def _is_detached(repo: Repo) -> bool:
    return not repo.text("symbolic-ref", "-q", "HEAD", check=False)


def check_worktrees(repo: Repo, refs: Iterable[Ref]) -> None:
    """Refuse to move a branch under the feet of another worktree.

    Raises:
        RefusedError: one has such a branch checked out.
    """
    moving = {ref.name for ref in refs}
    where = ""
    for line in repo.lines("worktree", "list", "--porcelain"):
        key, _, value = line.partition(" ")
        if key == "worktree":
            where = value
        elif key == "branch" and value in moving and not _is_here(repo, where):
            raise RefusedError(
                f"{printable(value)} is checked out in {printable(where)} as well",
                hint="git worktree remove it, or git switch --detach there",
            )


def _is_here(repo: Repo, where: str) -> bool:
    return repo.top is not None and Path(where).resolve() == repo.top.resolve()


# --- the move ------------------------------------------------------------------------------------


def tips(history: History, refs: Iterable[Ref]) -> dict[str, str]:
    """The commit that each ref leads to; tags of other things are left out."""
    found = {}
    for ref in refs:
        oid, kind = ref.oid, ref.kind
        while kind == "tag":
            oid, kind = tag_target(history.raw(oid))
        if kind == "commit":
            found[ref.name] = oid
    return found


def new_value(
    history: History, writer: ObjectWriter, oid: str, kind: str, commits: Mapping[str, str]
) -> tuple[str, int]:
    """What a ref names afterwards, and how many tags lost a signature for it."""
    if kind != "tag":
        return commits.get(oid, oid), 0
    raw = history.raw(oid)
    target, what = tag_target(raw)
    new, lost = new_value(history, writer, target, what, commits)
    if new == target:
        return oid, 0
    text, dropped = rewritten_tag(raw, new)
    return writer.write("tag", text), lost + dropped


class Moves:
    """The moves of a repository, written down under `.git/theta/migrate`."""

    def __init__(self, repo: Repo) -> None:
        self._repo = repo
        self.directory = repo.common_dir / "theta" / "migrate"
        self._pending = self.directory / "pending.json"

    def next_number(self) -> int:
        """A number that no earlier migration has."""
        listed = self._repo.lines("for-each-ref", "--format=%(refname)", BACKUP)
        taken = [int(n) for name in listed if (n := name.split("/")[3]).isdecimal()]
        taken += [int(path.stem) for path in self.directory.glob("*.json") if path.stem.isdecimal()]
        return max(taken, default=0) + 1

    def pending(self) -> Move | None:
        """A move that was begun and not finished."""
        return _read(self._pending)

    def last(self) -> Move | None:
        """The latest migration that was not undone."""
        found = [path for path in self.directory.glob("*.json") if path.stem.isdecimal()]
        return _read(max(found, key=lambda path: int(path.stem))) if found else None

    def run(self, move: Move, looks: Mapping[str, Look] | None = None) -> None:
        """Move all refs at once, then bring index and work tree after them.

        Raises:
            RefusedError: a ref has moved meanwhile.
        """
        _write(self._pending, move)
        self._move_refs(move)
        if move.head is not None and self._repo.top is not None:
            follow(self._repo, *move.head, looks or {})
        done = self.directory / f"{move.number}.json"
        if move.undoes:
            done.unlink(missing_ok=True)
            self._pending.unlink()
        else:
            self._pending.replace(done)

    def _move_refs(self, move: Move) -> None:
        lines = []
        now = {name: self._repo.resolve(name) for name, _, _ in move.refs}
        begun = any(now[name] == new != old for name, old, new in move.refs)
        for name, old, new in move.refs:
            if now[name] == new:
                continue
            if now[name] != old:
                if not begun:
                    self._pending.unlink(missing_ok=True)
                raise RefusedError(
                    f"{printable(name)} has moved meanwhile, and was not rewritten",
                    hint=f"git reset it to {old[:12]}" if begun else "run the command again",
                )
            no_deref = "option no-deref\n" if name == "HEAD" else ""
            lines.append(f"{no_deref}update {name} {new} {old}\n")
        for name, old, _ in move.refs:
            backup = f"{BACKUP}/{move.number}/{name.removeprefix('refs/')}"
            there = self._repo.resolve(backup)
            if move.undoes and there:
                lines.append(f"delete {backup} {there}\n")
            elif not move.undoes and there != old:
                lines.append(f"update {backup} {old}\n")
        text = "".join(["start\n", *lines, "prepare\n", "commit\n"])
        try:
            self._repo.git(
                "update-ref", "-m", f"git theta migrate {move.what}", "--stdin",
                stdin=text.encode(errors="surrogateescape"),
            )  # fmt: skip
        except GitError as error:
            if not any(self._repo.resolve(n) == new != old for n, old, new in move.refs):
                self._pending.unlink(missing_ok=True)
            raise RefusedError(
                f"Git would not move the refs: {error}",
                hint="remove a lock file that a killed command left, then run the command again",
            ) from error


def _read(path: Path) -> Move | None:
    try:
        raw = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    refs = [(name, old, new) for name, old, new in raw["refs"]]
    head = (raw["head"][0], raw["head"][1]) if raw["head"] else None
    return Move(raw["number"], raw["what"], refs, head, raw["undoes"])


def _write(path: Path, move: Move) -> None:
    """Write a move down for good: from here on it will be finished."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        with part.open("w") as file:
            json.dump(asdict(move), file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        store_failed(error, f"{path} cannot be written")


# --- index and work tree -------------------------------------------------------------------------


def looks_of(repo: Repo, commit: str) -> dict[str, Look]:
    """The state of the files of a commit in the work tree, which is clean now."""
    if repo.top is None:
        return {}
    listing = repo.git("ls-tree", "-r", "-z", "--name-only", "--full-tree", commit)
    names = [name.decode(errors="surrogateescape") for name in listing.split(b"\0")[:-1]]
    return {name: look(repo.cwd / name) for name in names}


class _Change(NamedTuple):
    """A file that differs between two commits; ids of zeros mean that there is none."""

    before: str
    mode: str
    oid: str

    @property
    def is_gone(self) -> bool:
        return not self.oid.strip("0")


def follow(repo: Repo, old: str, new: str, looks: Mapping[str, Look]) -> None:
    """Bring index and work tree from one commit to another whose files have the same bytes.

    Files that are as they were when `looks` were taken are not read; the others Git compares.
    """
    changes = _changes(repo, old, new)
    sparse = _sparse(repo) & changes.keys()
    lines = [f"{'0' if c.is_gone else c.mode} {c.oid}\t{p}\0" for p, c in changes.items()]
    _feed(repo, "update-index -z --index-info", lines)
    _feed(repo, "update-index -z --skip-worktree --stdin", [f"{path}\0" for path in sparse])
    here = {path: change for path, change in changes.items() if path not in sparse}
    stale, same = [], {}
    for path, change in here.items():
        full = repo.cwd / path
        if full.name == FILE:
            continue
        if _is_text(full):
            stale.append(path)
        elif looks.get(path) and looks[path] == look(full):
            same[path] = change.oid
    # Attribute files go first: they decide how Git writes the others.
    _write_attributes(repo, {p: c for p, c in here.items() if Path(p).name == FILE})
    _feed(repo, "checkout-index -f -u -z --stdin", [f"{path}\0" for path in stale])
    restat(repo, same)
    repo.git("update-index", "-q", "--refresh", check=False)


def _changes(repo: Repo, old: str, new: str) -> dict[str, _Change]:
    told = repo.git("diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev", old, new)
    items = told.decode(errors="surrogateescape").split("\0")
    found = {}
    for meta, path in zip(items[::2], items[1::2], strict=False):
        _, mode, before, oid, _ = meta.split()
        found[path] = _Change(before, mode, oid)
    return found


def _write_attributes(repo: Repo, changes: Mapping[str, _Change]) -> None:
    """Attribute files of the new commit, where the old one's stand; others are let be."""
    ours = [path for path, change in changes.items() if _is_as(repo, repo.cwd / path, change)]
    for path in ours:
        if changes[path].is_gone:
            (repo.cwd / path).unlink(missing_ok=True)
    left = [f"{path}\0" for path in ours if not changes[path].is_gone]
    _feed(repo, "checkout-index -f -u -z --stdin", left)


def _is_as(repo: Repo, full: Path, change: _Change) -> bool:
    """Whether an attribute file is what a commit says; one that somebody changes is let be."""
    there = bool(change.before.strip("0"))
    try:
        now = full.read_bytes()
    except FileNotFoundError:
        return not there
    found = repo.objects.read(change.before) if there else None
    return found is not None and now.replace(b"\r\n", b"\n") == found[1].replace(b"\r\n", b"\n")


def _is_text(full: Path) -> bool:
    """Whether the work tree has a text that stands for a file, rather than the file."""
    try:
        if is_left_as_manifest(full):
            return True
        with full.open("rb") as file:
            return read_pointer(file.read(LIMIT)) is not None
    except (OSError, ThetaError):
        return False


def _feed(repo: Repo, command: str, lines: Sequence[str]) -> None:
    if lines:
        repo.git(*command.split(), stdin="".join(lines).encode(errors="surrogateescape"))


def _sparse(repo: Repo) -> set[str]:
    listing = repo.git("ls-files", "-t", "-z").decode(errors="surrogateescape")
    return {item[2:] for item in listing.split("\0") if item.startswith("S ")}
