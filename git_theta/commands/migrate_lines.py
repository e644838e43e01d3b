"""The `.gitattributes` files of a rewritten tree: they must say what its blobs now are."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from git_theta.errors import RefusedError
from git_theta.repo.attributes import FILE, OURS, AttributesText, quote
from git_theta.repo.gitrepo import Repo, run_git
from git_theta.repo.rewrite import History, ObjectWriter
from git_theta.settings import environment

_NAMES = ("filter", "diff", "merge", "text")
_CHOSEN = "theta-migrate"
_LFS = ("filter=lfs", "diff=lfs", "merge=lfs", "-text")
_NOBODY = ("!filter", "!diff", "!merge", "!text")


@dataclass(frozen=True, slots=True)
class Target:
    """What the lines of files that move say before and afterwards.

    `own` is the filter whose lines are changed in place, `name` the new filter ("" for none),
    `words` a line changed in place, `added` one that is added.
    """

    own: str
    name: str
    words: tuple[str, ...]
    added: tuple[str, ...]


INTO_THETA = Target("lfs", "theta", OURS, OURS)
INTO_LFS = Target("theta", "lfs", _LFS, _LFS)
INTO_GIT = Target("theta", "", ("-text",), (*_NOBODY[:3], "-text"))


def chosen(
    repo: Repo, paths: Iterable[str], include: Sequence[str], exclude: Sequence[str], scratch: Path
) -> tuple[set[str], set[str]]:
    """Which paths some patterns match, as Git reads patterns: (chosen, left out by `exclude`)."""
    lines = [f"{quote(p)} {_CHOSEN}=yes\n" for p in include or ["*"]]
    lines += [f"{quote(p)} {_CHOSEN}=no\n" for p in exclude]
    asked = b"".join(p.encode(errors="surrogateescape") + b"\0" for p in paths)
    with tempfile.NamedTemporaryFile(dir=scratch) as file:
        file.write("".join(lines).encode(errors="surrogateescape"))
        file.flush()
        command = ["-c", f"core.attributesFile={file.name}", "check-attr", "-z", "--stdin"]
        told = run_git([*command, _CHOSEN], cwd=repo.cwd, stdin=asked) if asked else b""
    parts = told.decode(errors="surrogateescape").split("\0")
    yes: set[str] = set()
    no: set[str] = set()
    for path, value in zip(parts[0::3], parts[2::3], strict=False):
        if value in ("yes", "no"):
            (yes if value == "yes" else no).add(path)
    return yes, no


@dataclass(frozen=True, slots=True)
class Tree:
    """What matters of a tree.

    `files` are its attribute files (path and blob), `moved` the files that were converted, `stayed`
    others that the patterns match or that the lines may reach; `lasting` says that a parent has
    the lines already.
    """

    files: tuple[tuple[str, str], ...]
    moved: tuple[str, ...]
    stayed: tuple[str, ...]
    lasting: bool


class Lines:
    """Rewrites attribute files, and asks Git whether they now say what they should."""

    def __init__(
        self, repo: Repo, history: History, writer: ObjectWriter, target: Target, scratch: Path
    ) -> None:
        self._repo = repo
        self._history = history
        self._writer = writer
        self._target = target
        self._scratch = scratch
        self.include: Sequence[str] = ()
        self.exclude: Sequence[str] = ()
        self._known: dict[Tree, dict[str, str]] = {}

    def rewritten(self, tree: Tree) -> dict[str, str]:
        """Attribute files that change: path -> new blob.

        Raises:
            RefusedError: what stands outside of the tree overrides the lines.
        """
        if tree not in self._known:
            self._known[tree] = self._rewrite(tree)
        return self._known[tree]

    def _rewrite(self, tree: Tree) -> dict[str, str]:
        files, lasting = dict(tree.files), tree.lasting
        texts = {path: AttributesText(self._read(oid)) for path, oid in files.items()}
        before = {path: text.text for path, text in texts.items()}
        done: set[str] = set()
        for path, text in texts.items():
            changed = text.exchange(self._target.own, self._fits, self._target.words)
            done |= changed if path == FILE else set()
            lasting = lasting or bool(changed and path == FILE)
        if tree.moved or lasting:
            root = texts.setdefault(FILE, AttributesText(""))
            self._append(root, done)
            self._correct(files, texts, tree.moved, tree.stayed)
        return {
            path: self._write(text)
            for path, text in texts.items()
            if text.text != before.get(path, "")
        }

    def _fits(self, pattern: str) -> bool:
        return not self.include or pattern in self.include

    def _append(self, root: AttributesText, done: Collection[str]) -> None:
        """Lines for patterns that have none yet, and for what is left out of them."""
        there = {line.pattern for line in root.lines if self._says_so(line.attributes)}
        for pattern in self.include:
            if pattern not in done and pattern not in there:
                root.append(pattern, self._target.added)
        for pattern in self.exclude:
            root.append(pattern, _NOBODY)

    def _says_so(self, words: Collection[str]) -> bool:
        return set(self._target.added) <= set(words)

    def _correct(
        self,
        files: Mapping[str, str],
        texts: dict[str, AttributesText],
        moved: Sequence[str],
        stayed: Sequence[str],
    ) -> None:
        """Ask Git, and add a line of its own for each path where the answer is wrong."""
        old = self._ask(files, stayed)
        for attempt in range(2):
            new = self._ask({p: self._write(t) for p, t in texts.items()}, [*moved, *stayed])
            wrong = {p: self._target.added for p in moved if not self._right(new.get(p, {}))}
            wrong |= {
                path: _as_before(old.get(path, {}))
                for path in stayed
                if old.get(path, {}).get("filter") != new.get(path, {}).get("filter")
            }
            if not wrong:
                return
            if attempt:
                path = next(iter(wrong))
                raise RefusedError(
                    f"attributes outside of history decide about {path}",
                    hint="look into .git/info/attributes and core.attributesFile",
                )
            for path, words in wrong.items():
                place, pattern = _nearest(path, texts)
                texts[place].append(pattern, words)

    def _right(self, found: Mapping[str, str]) -> bool:
        if self._target.name:
            return found.get("filter") == self._target.name and "text" not in found
        return found.get("filter") not in ("theta", "lfs")

    def _ask(self, files: Mapping[str, str], paths: Sequence[str]) -> dict[str, dict[str, str]]:
        """The attributes of paths in a tree that has these attribute files."""
        if not paths:
            return {}
        self._writer.flush()
        with tempfile.TemporaryDirectory(dir=self._scratch) as directory:
            env = environment() | {"GIT_INDEX_FILE": f"{directory}/index"}
            entries = "".join(f"100644 {oid}\t{path}\0" for path, oid in files.items())
            _git(self._repo, env, "update-index -z --index-info", entries)
            asked = "".join(f"{path}\0" for path in paths)
            command = f"check-attr --cached -z --stdin {' '.join(_NAMES)}"
            told = _git(self._repo, env, command, asked)
        parts = told.split("\0")
        found: dict[str, dict[str, str]] = {}
        for path, name, value in zip(parts[0::3], parts[1::3], parts[2::3], strict=False):
            if value not in ("unspecified", "unset"):
                found.setdefault(path, {})[name] = value
        return found

    def _read(self, oid: str) -> str:
        return self._history.raw(oid).decode(errors="surrogateescape")

    def _write(self, text: AttributesText) -> str:
        return self._writer.write("blob", text.text.encode(errors="surrogateescape"))


def _git(repo: Repo, env: Mapping[str, str], command: str, stdin: str) -> str:
    told = run_git(
        command.split(), cwd=repo.cwd, env=env, stdin=stdin.encode(errors="surrogateescape")
    )
    return told.decode(errors="surrogateescape")


def _as_before(old: Mapping[str, str]) -> tuple[str, ...]:
    words = [f"{name}={old[name]}" if name in old else f"!{name}" for name in _NAMES[:3]]
    return (*words, "-text" if old.get("filter") == "lfs" else "!text")


def _nearest(path: str, texts: Mapping[str, AttributesText]) -> tuple[str, str]:
    """The attribute file that decides about a path, and a pattern for just this path there."""
    pure = PurePosixPath(path)
    for parent in pure.parents:
        place = FILE if str(parent) == "." else f"{parent}/{FILE}"
        if place in texts or place == FILE:
            relative = pure.relative_to(parent).as_posix()
            return place, "/" + re.sub(r"([\\*?\[])", r"\\\1", relative)
    raise AssertionError("every path lies below the top")
