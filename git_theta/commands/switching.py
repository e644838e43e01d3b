"""`git theta checkout`, `switch`, `restore`: Git's own, but switching costs what differs.

Git replaces a file by writing all of it. These commands keep the old file by a second link, run
Git's command, and have the filter make the new version out of the old one. Everything else, from
options to messages and exit codes, is Git's.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click
from typing_extensions import override

from git_theta.commands.direct import hint_after
from git_theta.commands.options import standing_directory
from git_theta.commands.pull import find_pending, pull
from git_theta.commands.session import Session, say
from git_theta.repo.gitrepo import Repo
from git_theta.repo.index import restat
from git_theta.repo.keeping import directory_in, keep
from git_theta.repo.tracked import manifest_text
from git_theta.settings import KEPT, environment


class _Looks(NamedTuple):
    """The blob that is staged for a file, and which file it is."""

    oid: str
    inode: int
    size: int
    mtime: int


def _looks(oid: str, target: Path) -> _Looks:
    stat = target.stat()
    return _Looks(oid, stat.st_ino, stat.st_size, stat.st_mtime_ns)


class _Verbatim(click.Command):
    """A command that hands on its words as they stand, `--` and all."""

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args[:1] in (["-h"], ["--help"]):
            return super().parse_args(ctx, args)
        ctx.params["words"] = tuple(args)
        return []


def _verb(name: str, told: str) -> click.Command:
    def run(words: tuple[str, ...]) -> int:
        return _run(name, words)

    return _Verbatim(
        name,
        callback=run,
        help=told,
        params=[click.Argument(["words"], nargs=-1, metavar="[ARGUMENT]...")],
    )


_TOLD = """{what}

Takes the arguments of git {verb} and does the same; only that of a large file the bytes which
differ are written, into the old file where nobody else has it open, and the digest of the whole
file is checked before it comes into place.
"""

checkout = _verb(
    "checkout", _TOLD.format(what="Switch branches or restore files.", verb="checkout")
)
switch = _verb("switch", _TOLD.format(what="Switch branches.", verb="switch"))
restore = _verb("restore", _TOLD.format(what="Restore files.", verb="restore"))


def _run(verb: str, words: Sequence[str]) -> int:
    session = Session()
    repo = session.repo
    where = standing_directory(repo)
    try:
        with _kept(session, words) as (directory, changing):
            env = environment() | ({KEPT: str(directory)} if changing else {})
            # The second link changed the time that Git would take for a change of the file.
            trust = ["-c", "core.trustctime=false"] if changing else []
            done = subprocess.run(["git", *trust, verb, *words], cwd=where, env=env)
        _settle(repo, changing)
        _finish(session)
    finally:
        session.close()
    return done.returncode


@contextmanager
def _kept(session: Session, words: Sequence[str]) -> Iterator[tuple[Path, dict[str, _Looks]]]:
    """Keep the files that a command may replace: the directory, and what was kept by path."""
    repo, store = session.repo, session.store
    store.hold()
    with directory_in(store.scratch) as directory:
        kept: dict[str, _Looks] = {}
        for path, oid in _replaced(repo, words).items():
            target = repo.cwd / path
            text = manifest_text(repo, oid) if _is_large(session, target) else None
            if text is not None:
                looks = _looks(oid, target)
                if keep(directory, path, target, text):
                    kept[path] = looks
        yield directory, kept


def _is_large(session: Session, target: Path) -> bool:
    return target.is_file() and target.stat().st_size >= session.settings.direct_from


def _replaced(repo: Repo, words: Sequence[str]) -> dict[str, str]:
    """Clean files, path -> blob id, of which the revision among the arguments has another one."""
    revision = _revision(repo, words)
    if revision is None or repo.top is None:
        return {}
    listing = repo.git(
        "diff-index", "--cached", "--raw", "-z", "--no-renames", revision, check=False
    )
    parts = listing.decode(errors="surrogateescape").split("\0")
    staged = {path: meta.split()[3] for meta, path in zip(parts[::2], parts[1::2], strict=False)}
    asked = repo.attributes(list(staged), ["filter"])
    ours = [path for path in staged if asked.get(path, {}).get("filter") == "theta"]
    if not ours:
        return {}
    dirty = repo.git("diff-files", "--name-only", "-z", check=False)
    changed = set(dirty.decode(errors="surrogateescape").split("\0"))
    return {path: staged[path] for path in ours if path not in changed}


def _revision(repo: Repo, words: Sequence[str]) -> str | None:
    """The first argument, or value of --source, that names a commit."""
    for word in words:
        if word == "--":
            return None
        value = word.partition("=")[2] if word.startswith(("--source=", "-s=")) else word
        if value.startswith("-"):
            if value == "-":
                value = "@{-1}"
            else:
                continue
        commit = repo.resolve(f"{value}^{{commit}}")
        if commit is not None:
            return commit
    return None


def _finish(session: Session) -> None:
    """Write what is still a manifest: an interrupted command may have left it so."""
    if session.repo.top is None or session.settings.skip_smudge:
        return
    waiting, failures = find_pending(session.repo, [])
    # A file that is not there at all was deleted, which is the user's own doing.
    left = [pending for pending in waiting if os.path.lexists(pending.target)]
    pull(session, left, failures)
    for path, error in failures:
        say(path, f"left as a manifest: {error}", hint_after(error, path))


def _settle(repo: Repo, kept: dict[str, _Looks]) -> None:
    """Files that Git did not replace have a new change time: tell the index."""
    staged = {entry.path: entry.oid for entry in repo.staged(":(top)")} if kept else {}
    same = {
        path: looks.oid
        for path, looks in kept.items()
        if (repo.cwd / path).is_file() and _looks(staged.get(path, ""), repo.cwd / path) == looks
    }
    if same:
        restat(repo, same)
