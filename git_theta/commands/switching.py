"""`git theta checkout`, `switch`, `restore`: Git's own, but switching costs what differs.

Git replaces a file by writing all of it. These commands keep the old file, by a second link or by
a copy that shares its blocks, run Git's command, and make the new version out of the old one: of
a copy while Git works. Git gets manifests for the large files, which are written when it is done;
where a hook of the user's is to see them, the filter writes them. Everything else, from options to
messages and exit codes, is Git's.
"""

from __future__ import annotations

import gc
import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from git_theta.commands.options import standing_directory
from git_theta.commands.session import Session
from git_theta.errors import PluginError, RefusedError, ThetaError
from git_theta.repo.gitrepo import Repo
from git_theta.repo.hooks import directory as hooks
from git_theta.repo.index import restat
from git_theta.repo.keeping import Looks, directory_in, keep, place_for
from git_theta.repo.tracked import manifest_text
from git_theta.settings import KEPT, environment
from git_theta.settings import later as written_later

if TYPE_CHECKING:
    from typing_extensions import override
else:
    from git_theta.commands.menu import override  # what takes long to import says nothing here

_HOOK = "post-checkout"


@dataclass(frozen=True, slots=True)
class _Kept:
    """The files that may be replaced."""

    directory: Path
    linked: dict[str, tuple[str, Looks]]
    """Those with a second link: the blob that is staged for each, and which file it is."""
    texts: dict[str, bytes | None]
    """All of them, with the manifests of what replaces them, None where that is none of ours."""


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
    gc.set_threshold(100_000, 50, 100)  # many records, few cycles
    threading.Thread(target=_load_ahead).start()
    session = Session()
    repo = session.repo
    where = standing_directory(repo)
    try:
        with _kept(session, words) as kept:
            env = environment() | ({KEPT: str(kept.directory)} if kept.texts else {})
            later = repo.top is not None and not (hooks(repo) / _HOOK).exists()
            if later and repo.top is not None:
                env |= written_later(kept.directory, repo.top, session.settings.direct_from)
            # A second link changed the time that Git would take for a change of the file.
            trust = ["-c", "core.trustctime=false"] if kept.linked else []
            with subprocess.Popen(["git", *trust, verb, *words], cwd=where, env=env) as git:
                if later and _is_whole(verb, words):
                    _make_ahead(session, kept, git)
            _finish(session)
        _settle(repo, kept.linked)  # to remove the second link changed its time once more
    finally:
        session.close()
    return git.returncode


def _load_ahead() -> None:
    """Import what the files will need, while Git is asked what they are."""
    from git_theta import registry
    from git_theta.commands import direct, pull  # noqa: F401

    with suppress(PluginError):
        registry.load("updates", "dense")


@contextmanager
def _kept(session: Session, words: Sequence[str]) -> Iterator[_Kept]:
    """Keep the files that a command may replace."""
    repo, store = session.repo, session.store
    store.hold()
    with directory_in(store.scratch) as directory:
        kept = _Kept(directory, {}, {})
        for path, (staged, coming) in _replaced(repo, words).items():
            target = repo.cwd / path
            if not os.path.lexists(target):
                if repo.config.get("core.sparsecheckout", "false") == "false":
                    kept.texts[path] = manifest_text(repo, coming)
                continue
            text = manifest_text(repo, staged) if _is_large(session, target) else None
            if text is None:
                continue
            looks = Looks.of(target.stat())
            how = keep(directory, path, target, text)
            if how == "linked":
                kept.linked[path] = staged, looks
            if how is not None:
                kept.texts[path] = manifest_text(repo, coming)
        session.settings = session.settings._replace(kept=directory)
        yield kept


def _is_whole(verb: str, words: Sequence[str]) -> bool:
    """Whether a command replaces all that differs: it names a revision and no paths."""
    named = [word for word in words if word == "-" or not word.startswith("-")]
    return verb != "restore" and len(named) == 1 and "--" not in words


def _make_ahead(session: Session, kept: _Kept, git: subprocess.Popen[bytes]) -> None:
    """Make new versions while Git works; what links lack is only written once Git let them go.

    What cannot be done now is done, or told of, when the files are written.
    """
    from git_theta.commands.patch import foresee, make_ahead
    from git_theta.commands.pull import rebuild_ahead

    def going_on(_: int) -> None:
        if git.poll():
            raise RefusedError("Git has refused")

    for path, text in kept.texts.items():
        if text is None:
            continue
        with suppress(ThetaError, OSError):
            if path in kept.linked:
                foresee(session, path, text, going_on)
            elif (session.repo.cwd / path).exists():
                make_ahead(session, path, text)
            else:
                rebuild_ahead(session, path, text, place_for(kept.directory, path), going_on)


def _is_large(session: Session, target: Path) -> bool:
    return target.is_file() and target.stat().st_size >= session.settings.direct_from


def _replaced(repo: Repo, words: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Clean files of which the revision in the arguments has another blob: (ours, that one)."""
    revision = _revision(repo, words)
    if revision is None or repo.top is None:
        return {}
    listing = repo.git(
        "diff-index", "--cached", "--raw", "-z", "--no-renames", revision, check=False
    )
    parts = listing.decode(errors="surrogateescape").split("\0")
    staged = {path: meta.split() for meta, path in zip(parts[::2], parts[1::2], strict=False)}
    asked = repo.attributes(list(staged), ["filter"])
    ours = [path for path in staged if asked.get(path, {}).get("filter") == "theta"]
    if not ours:
        return {}
    dirty = repo.git("diff-files", "--name-only", "-z", check=False)
    changed = set(dirty.decode(errors="surrogateescape").split("\0"))
    return {path: (staged[path][3], staged[path][2]) for path in ours if path not in changed}


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
    from git_theta.commands.direct import write
    from git_theta.commands.pull import find_pending

    waiting, failures = find_pending(session.repo, [])
    # A file that is not there at all was deleted, which is the user's own doing.
    left = [pending for pending in waiting if os.path.lexists(pending.target)]
    if left:
        session.ensure_hooks(storing=False)
    write(session, left, failures)


def _settle(repo: Repo, kept: dict[str, tuple[str, Looks]]) -> None:
    """Files that Git did not replace have a new change time: tell the index."""
    staged = {entry.path: entry.oid for entry in repo.staged(":(top)")} if kept else {}
    same = {
        path: oid
        for path, (oid, looks) in kept.items()
        if (repo.cwd / path).is_file()
        and staged.get(path) == oid
        and Looks.of((repo.cwd / path).stat()) == looks
    }
    if same:
        restat(repo, same)
