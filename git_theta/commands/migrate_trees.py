"""Commits rewritten one after another: the files that move, and the lines that say so."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from git_theta.commands.migrate_blobs import Converter, Place, Version
from git_theta.commands.migrate_lines import Lines, Tree
from git_theta.errors import CorruptError, RefusedError
from git_theta.repo.attributes import FILE
from git_theta.repo.candidates import MAX_MANIFEST
from git_theta.repo.gitrepo import Repo, run_git
from git_theta.repo.rewrite import (
    TREE,
    FileEntry,
    History,
    ObjectWriter,
    TreeEntry,
    rewritten_commit,
    tree_bytes,
)

_LINK = "120000"


class Trees:
    """The files of trees that matter: those that patterns match, and attribute files."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.chosen: set[str] = set()
        self.left_out: set[str] = set()
        self._flat: dict[tuple[str, str], tuple[FileEntry, ...]] = {}

    def all_paths(self, roots: Iterable[str]) -> set[str]:
        """The paths of all regular files in some trees."""
        seen: set[tuple[str, str]] = set()
        paths: set[str] = set()
        waiting = [("", root) for root in roots]
        while waiting:
            prefix, oid = waiting.pop()
            if (prefix, oid) in seen:
                continue
            seen.add((prefix, oid))
            for entry in self._history.tree(oid):
                path = prefix + _text(entry.name)
                if entry.mode == TREE:
                    waiting.append((path + "/", entry.oid))
                elif entry.is_file:
                    paths.add(path)
        return paths

    def narrow(self, roots: Iterable[str], blobs: Collection[str]) -> None:
        """Of the chosen paths, keep those at which some blob stands somewhere."""
        kept = {e.path for root in roots for e in self.files(root) if e.oid in blobs}
        self.chosen &= kept
        self._flat.clear()

    def files(self, oid: str, prefix: str = "") -> tuple[FileEntry, ...]:
        """The files of a tree that matter."""
        found = self._flat.get((prefix, oid))
        if found is None:
            found = self._flat[prefix, oid] = tuple(self._list(oid, prefix))
        return found

    def _list(self, oid: str, prefix: str) -> Iterator[FileEntry]:
        for entry in self._history.tree(oid):
            path = prefix + _text(entry.name)
            if entry.mode == TREE:
                yield from self.files(entry.oid, path + "/")
            elif self._matters(entry, path):
                yield FileEntry(path, entry.mode, entry.oid)

    def _matters(self, entry: TreeEntry, path: str) -> bool:
        if entry.name == FILE.encode() and entry.mode == _LINK:
            return True
        known = path in self.chosen or path in self.left_out
        return entry.is_file and (known or entry.name == FILE.encode())


@dataclass
class Rewritten:
    """What became of history: old id -> new id for every commit looked at."""

    commits: dict[str, str] = field(default_factory=dict)
    converted: dict[str, set[str]] = field(default_factory=dict)
    unsigned: int = 0

    @property
    def changed(self) -> dict[str, str]:
        """The commits that are others now."""
        return {old: new for old, new in self.commits.items() if old != new}


class Rewriter:
    """Rewrites commits, parents first."""

    def __init__(
        self, history: History, writer: ObjectWriter, trees: Trees, lines: Lines,
        converter: Converter,
    ) -> None:  # fmt: skip
        self._history = history
        self._writer = writer
        self._trees = trees
        self._lines = lines
        self._converter = converter
        self._lasting: set[str] = set()
        self._new: dict[FileEntry, str] = {}
        self._versions: Mapping[str, Version] = {}
        self._build: Callable[[str, tuple[tuple[str, str], ...]], str]
        self._build = lru_cache(maxsize=4096)(self._built)

    def run(
        self, commits: Sequence[str], versions: Mapping[str, Version],
        tell: Callable[[int], None],
    ) -> Rewritten:  # fmt: skip
        """Rewrite some commits.

        Raises:
            ThetaError: a version cannot be converted, or would not give the same bytes again.
        """
        self._versions = versions
        done = Rewritten()
        for oid in commits:
            commit = self._history.commit(oid)
            lasting = any(parent in self._lasting for parent in commit.parents)
            tree, lasts = self._tree(commit.tree, oid, versions, done, lasting=lasting)
            if lasts:
                self._lasting.add(oid)
            parents = {parent: done.commits.get(parent, parent) for parent in commit.parents}
            if tree == commit.tree and all(old == new for old, new in parents.items()):
                done.commits[oid] = oid
            else:
                raw, dropped = rewritten_commit(commit.raw, tree, parents)
                done.commits[oid] = self._writer.write("commit", raw)
                done.unsigned += dropped
            tell(1)
        self._writer.flush()
        return done

    def _tree(
        self, root: str, commit: str, versions: Mapping[str, Version], done: Rewritten, *,
        lasting: bool,
    ) -> tuple[str, bool]:  # fmt: skip
        """The new tree of a commit, and whether its lines are to last in its children."""
        attributes: dict[str, str] = {}
        moved: dict[str, str] = {}
        stayed: list[str] = []
        for entry in self._trees.files(root):
            if entry.path == FILE or entry.path.endswith("/" + FILE):
                attributes[entry.path] = self._attributes(entry, commit)
            elif entry.path not in self._trees.chosen or not self._moves(entry, versions):
                stayed.append(entry.path)
            else:
                new = self._convert(entry, versions[entry.oid], commit, moved)
                moved[entry.path] = new
                done.converted.setdefault(entry.oid, set()).add(new)
        files = tuple(sorted(attributes.items()))
        lines = self._lines.rewritten(Tree(files, tuple(moved), tuple(stayed), lasting))
        lasts = lasting or bool(moved) or bool(lines)
        changes = moved | lines
        return (self._build(root, tuple(sorted(changes.items()))) if changes else root), lasts

    def _attributes(self, entry: FileEntry, commit: str) -> str:
        if entry.mode == _LINK:
            raise RefusedError(
                f"{entry.path} in commit {commit[:12]} is a symbolic link, which Git ignores",
                hint="leave that commit out (--exclude-ref), or make it a file first",
            )
        return entry.oid

    def _moves(self, entry: FileEntry, versions: Mapping[str, Version]) -> bool:
        return self._converter.moves(versions[entry.oid])

    def _convert(
        self, entry: FileEntry, version: Version, commit: str, so_far: Mapping[str, str]
    ) -> str:
        if entry not in self._new:
            before = Predecessors(self, commit, dict(so_far))
            there = version._replace(place=Place(entry.path, commit))
            self._new[entry] = self._converter.convert(entry, there, before)
        return self._new[entry]

    def before(self, commit: str) -> Iterator[tuple[str, str]]:
        """The manifests of a commit's parents as they are now: (path, blob)."""
        for parent in self._history.commit(commit).parents:
            for entry in self._trees.files(self._history.commit(parent).tree):
                known = self._versions.get(entry.oid)
                if entry in self._new:
                    yield entry.path, self._new[entry]
                elif known is not None and known.kind == "manifest":
                    yield entry.path, entry.oid

    def manifest(self, oid: str) -> bytes:
        """The text of a manifest."""
        return self._history.head(oid, MAX_MANIFEST)

    def _built(self, root: str, changes: tuple[tuple[str, str], ...]) -> str:
        below: dict[bytes, list[tuple[str, str]]] = {}
        here: dict[bytes, str] = {}
        for path, oid in changes:
            first, slash, rest = path.partition("/")
            if slash:
                below.setdefault(_raw(first), []).append((rest, oid))
            else:
                here[_raw(first)] = oid
        entries = []
        for entry in self._history.tree(root):
            if entry.name in here:
                entries.append(entry._replace(oid=here.pop(entry.name)))
            elif entry.mode == TREE and entry.name in below:
                changed = tuple(below.pop(entry.name))
                entries.append(entry._replace(oid=self._build(entry.oid, changed)))
            else:
                entries.append(entry)
        entries += [TreeEntry("100644", name, oid) for name, oid in here.items()]
        return self._writer.write("tree", tree_bytes(entries))


@dataclass
class Predecessors:
    """What a new version may share chunks with: the files of the parents, and its neighbours."""

    rewriter: Rewriter
    commit: str
    neighbours: Mapping[str, str]

    def of_path(self, path: str) -> Iterator[bytes]:
        """What stood at the path before."""
        return self._texts(oid for name, oid in self.rewriter.before(self.commit) if name == path)

    def of_all_paths(self) -> Iterator[bytes]:
        """All of them."""
        known = [oid for _, oid in self.rewriter.before(self.commit)]
        return self._texts([*known, *self.neighbours.values()])

    def of_other_paths(self, path: str) -> Iterator[bytes]:
        """Those at other paths of the same commit."""
        return self._texts(oid for name, oid in self.neighbours.items() if name != path)

    def _texts(self, oids: Iterable[str]) -> Iterator[bytes]:
        return map(self.rewriter.manifest, dict.fromkeys(oids))


def prove(repo: Repo, history: History, done: Rewritten) -> None:
    """Have Git compare every new tree with the old one: nothing else than what was proven changed.

    Raises:
        CorruptError: something else did.
    """
    pairs = {
        (history.commit(old).tree, history.commit(new).tree) for old, new in done.changed.items()
    }
    asked = "".join(f"{old} {new}\n" for old, new in sorted(pairs) if old != new)
    command = "--no-replace-objects diff-tree --stdin -r -z --raw --no-renames --no-abbrev"
    told = run_git(command.split(), cwd=repo.cwd, stdin=asked.encode()) if asked else b""
    items = iter(told.split(b"\0"))
    for item in items:
        words = item.rpartition(b":")[2].decode().split()
        if b":" not in item:
            continue
        path = next(items, b"")
        if path == FILE.encode() or path.endswith(b"/" + FILE.encode()):
            continue
        old_mode, new_mode, old, new, _ = words
        if old_mode != new_mode or new not in done.converted.get(old, ()):
            raise CorruptError(
                f"{_text(path)}: the rewritten history is not what it should be; nothing was "
                "changed", hint="please report this as a bug",
            )  # fmt: skip


def _text(name: bytes) -> str:
    return name.decode(errors="surrogateescape")


def _raw(name: str) -> bytes:
    return name.encode(errors="surrogateescape")
