"""A migration from beginning to end: look, convert, prove, and only then move the refs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from git_theta.commands.migrate_blobs import (
    Converter,
    Exporter,
    Importer,
    Journal,
    Moving,
    Place,
    Version,
    look_at,
)
from git_theta.commands.migrate_lines import INTO_GIT, INTO_THETA, Lines, Target, chosen
from git_theta.commands.migrate_refs import (
    BACKUP,
    Move,
    Moves,
    Ref,
    check_safe,
    check_worktrees,
    chosen_refs,
    everything,
    looks_of,
    new_value,
    tips,
)
from git_theta.commands.migrate_trees import Rewriter, Rewritten, Trees, prove
from git_theta.commands.progress import progress
from git_theta.commands.session import Session
from git_theta.commands.terminal import count, note
from git_theta.core.manifest import is_manifest
from git_theta.errors import NotTrackedError, RefusedError
from git_theta.repo.closure import objects_of
from git_theta.repo.pointers import LfsFiles
from git_theta.repo.rewrite import History, ObjectWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the user asked for."""

    target: Target
    what: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    refs: tuple[str, ...]
    excluded_refs: tuple[str, ...]
    everything: bool
    dry_run: bool
    leave_missing: bool


@dataclass(slots=True, kw_only=True)
class Report:
    """What was done, or would be. Sizes are in bytes.

    `bytes` are those of the files that all versions stand for, `stored` what they take now.
    `paths` has a row for each path: versions and their bytes.
    """

    dry_run: bool
    commits: int = 0
    rewritten: int = 0
    versions: int = 0
    bytes: int = 0
    stored: int = 0
    to_fetch: int = 0
    missing: int = 0
    refs: list[str] = field(default_factory=list)
    backup: str = ""
    map: str = ""
    paths: list[tuple[str, int, int]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For a report as JSON."""
        raw = asdict(self)
        raw["paths"] = [{"path": p, "versions": n, "bytes": size} for p, n, size in self.paths]
        return raw


def migrate(session: Session, wish: Wish) -> Report:
    """Do what was asked for.

    Raises:
        RefusedError: it is not safe now.
        MissingError: a file or an object is nowhere.
        CorruptError: a version would not give the same bytes again.
    """
    moves = Moves(session.repo)
    pending = moves.pending()
    if pending is not None:
        if wish.dry_run:
            raise RefusedError(
                "an interrupted migration has to be finished first",
                hint="run it again without --dry-run, or git theta migrate undo",
            )
        moves.run(pending)
        note(f"finished git theta migrate {pending.what}, which was interrupted")
    check_safe(session.repo)
    session.store.prepare()
    history = History(session.repo)
    try:
        return _Migration(session, wish, history, moves).run()
    finally:
        history.close()


class _Migration:
    def __init__(self, session: Session, wish: Wish, history: History, moves: Moves) -> None:
        self.session = session
        self.wish = wish
        self.history = history
        self.moves = moves
        self.trees = Trees(history)
        self.report = Report(dry_run=wish.dry_run)
        self.lfs = LfsFiles(session.repo)
        name = wish.what.replace(" --to ", "-")
        self.journal = Journal(moves.directory / f"{name}.jsonl")

    def run(self) -> Report:
        repo, wish = self.session.repo, self.wish
        refs = chosen_refs(repo, everything(repo) if wish.everything else wish.refs)
        check_worktrees(repo, refs)
        heads = tips(self.history, refs)
        commits = self.history.commits(sorted(set(heads.values())), self._excluded())
        versions = self._survey(commits)
        converter = self._converter()
        self._count(versions, converter)
        if wish.dry_run:
            self._foretell(commits, versions, converter, refs, heads)
            return self.report
        head = repo.resolve("HEAD^{commit}")
        looks = looks_of(repo, head) if head else {}
        converter.prepare(versions)
        done = self._rewrite(commits, versions, converter)
        self._conclude(refs, done, head, looks)
        return self.report

    def _excluded(self) -> list[str]:
        found = []
        for name in self.wish.excluded_refs:
            oid = self.session.repo.resolve(name + "^{commit}")
            if oid is None:
                raise NotTrackedError(f"there is no revision {name!r}", hint="git branch -a")
            found.append(oid)
        return found

    # --- looking ---------------------------------------------------------------------------------

    def _survey(self, commits: Sequence[str]) -> dict[str, Version]:
        """Every version of the files that the patterns match, in these commits and next to them."""
        roots = self._roots(commits)
        paths = self.trees.all_paths(roots)
        self.trees.chosen, self.trees.left_out = chosen(
            self.session.repo, paths, self.wish.include, self.wish.exclude,
            self.session.store.scratch,
        )  # fmt: skip
        places: dict[str, Place] = {}
        for root, commit in roots.items():
            for entry in self.trees.files(root):
                if entry.path in self.trees.chosen:
                    places.setdefault(entry.oid, Place(entry.path, commit))
        versions = look_at(self.session, self.history, places)
        if not self.wish.include:  # of all files, only those that git-theta ever kept matter
            self.trees.narrow(roots, {o for o, v in versions.items() if v.kind == "manifest"})
        return versions

    def _roots(self, commits: Sequence[str]) -> dict[str, str]:
        """The trees of these commits and of their parents, each with a commit."""
        found: dict[str, str] = {}
        for oid in commits:
            commit = self.history.commit(oid)
            found.setdefault(commit.tree, oid)
            for parent in commit.parents:
                found.setdefault(self.history.commit(parent).tree, parent)
        return found

    def _converter(self) -> Converter:
        moving = Moving(self.session, self.history, self.journal)
        if self.wish.target is INTO_THETA:
            return Importer(moving, self.lfs, leave_missing=self.wish.leave_missing)
        return Exporter(moving, None if self.wish.target is INTO_GIT else self.lfs)

    def _count(self, versions: Mapping[str, Version], converter: Converter) -> None:
        rows: dict[str, list[int]] = {}
        for version in versions.values():
            if converter.moves(version):
                rows.setdefault(version.place.path, []).append(version.size)
        self.report.paths = [(p, len(rows[p]), sum(rows[p])) for p in sorted(rows)]
        self.report.versions = sum(map(len, rows.values()))
        self.report.bytes = sum(map(sum, rows.values()))
        pointers = [v.pointer for v in versions.values() if v.pointer]
        if self.wish.target is INTO_THETA:
            self.report.to_fetch = len(self.lfs.lacking(pointers))

    def _foretell(
        self, commits: Sequence[str], versions: Mapping[str, Version], converter: Converter,
        refs: Sequence[Ref], heads: Mapping[str, str],
    ) -> None:  # fmt: skip
        touched: set[str] = set()
        for oid in commits:
            commit = self.history.commit(oid)
            files = self.trees.files(commit.tree)
            if any(parent in touched for parent in commit.parents) or any(
                f.path in self.trees.chosen and converter.moves(versions[f.oid])
                for f in files
                if f.oid in versions
            ):
                touched.add(oid)
        self.report.commits, self.report.rewritten = len(commits), len(touched)
        self.report.refs = [ref.name for ref in refs if heads.get(ref.name) in touched]

    # --- doing -----------------------------------------------------------------------------------

    def _rewrite(
        self, commits: Sequence[str], versions: Mapping[str, Version], converter: Converter
    ) -> Rewritten:
        session, writer = self.session, ObjectWriter(self.session.repo)
        lines = Lines(session.repo, self.history, writer, self.wish.target, session.store.scratch)
        lines.include, lines.exclude = self.wish.include, self.wish.exclude
        rewriter = Rewriter(self.history, writer, self.trees, lines, converter)
        with progress(len(commits), "rewriting commits") as advance:
            done = rewriter.run(commits, versions, advance)
        prove(session.repo, self.history, done)
        report = self.report
        report.commits, report.rewritten = len(commits), len(done.changed)
        report.stored = self._stored(done)
        if isinstance(converter, Importer) and converter.missing:
            report.missing = len(converter.missing)
            report.warnings.append(
                f"{count(report.missing, 'file')} of Git LFS nowhere to be had: left as pointers"
            )
        if done.unsigned:
            report.warnings.append(f"{count(done.unsigned, 'commit')} lost their signature")
        return done

    def _stored(self, done: Rewritten) -> int:
        """What the new versions take, each object counted once."""
        if self.wish.target is not INTO_THETA:
            return self.report.bytes
        objects: dict[str, int] = {}
        for new in {oid for found in done.converted.values() for oid in found}:
            text = self.history.raw(new)
            if is_manifest(text):
                objects |= objects_of(text)
        return sum(objects.values())

    def _conclude(
        self, refs: Sequence[Ref], done: Rewritten, head: str | None, looks: Mapping[str, Any]
    ) -> None:
        writer, report = ObjectWriter(self.session.repo), self.report
        number = self.moves.next_number()
        move = Move(number, self.wish.what)
        unsigned = 0
        for ref in refs:
            new, lost = new_value(self.history, writer, ref.oid, ref.kind, done.commits)
            unsigned += lost
            if new != ref.oid:
                move.refs.append((ref.name, ref.oid, new))
        writer.flush()
        if unsigned:
            report.warnings.append(f"{count(unsigned, 'tag')} lost their signature")
        if not move.refs:
            return
        if head and self._head_moves(move):
            move.head = (head, done.commits.get(head, head))
        report.refs = [name for name, _, _ in move.refs]
        report.backup = f"{BACKUP}/{number}"
        self._warn_of_others()
        report.map = str(self._write_map(number, done))
        self.moves.run(move, looks)
        self.journal.path.unlink(missing_ok=True)

    def _head_moves(self, move: Move) -> bool:
        branch = self.session.repo.text("symbolic-ref", "-q", "HEAD", check=False) or "HEAD"
        return any(name == branch for name, _, _ in move.refs)

    def _warn_of_others(self) -> None:
        """What names old commits and stays."""
        repo, warnings = self.session.repo, self.report.warnings
        names = repo.lines("for-each-ref", "--format=%(refname)")
        if any(name.startswith("refs/notes/") for name in names):
            warnings.append(
                "notes stay with the old commits; git notes copy --stdin takes them along, "
                "from the file of old and new ids (docs/migrating.md)"
            )
        if any(name.startswith("refs/replace/") for name in names):
            warnings.append("replacements (git replace) stay with the old commits")
        if "refs/stash" in names:
            warnings.append("stashes stay with the old commits; apply them before, or with care")

    def _write_map(self, number: int, done: Rewritten) -> Any:
        path = self.moves.directory / f"{number}.map"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{old} {new}\n" for old, new in done.changed.items()))
        return path
