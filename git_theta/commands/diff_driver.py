"""`git theta diff-driver`: what `git diff` runs for a tracked file.

Git calls it with the path, and for each side a file, the blob's id and the mode. Where Git made a
temporary file, our filter has put the manifest into it. Weights are never fetched here, and the
store is not written to.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import click

from git_theta.commands.diff_model import compare_versions
from git_theta.commands.diff_text import lines
from git_theta.commands.session import Session
from git_theta.commands.terminal import printable, say
from git_theta.commands.versions import File, Source, Stored, Version
from git_theta.core.manifest import is_manifest
from git_theta.errors import ThetaError
from git_theta.repo.streams import open_regular
from git_theta.repo.tracked import manifest_text, parse_at

_NOTHING = "/dev/null"


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def command(words: tuple[str, ...]) -> None:
    """Run by `git diff` for a tracked file; not for use by hand.

    `git theta install` puts it into Git's configuration as diff.theta.
    """
    if len(words) < 7:
        say(f"* Unmerged path {printable(words[0] if words else '')}")
        return
    path, old_file, old_hex, old_mode, new_file, new_hex, new_mode, *rest = words
    new_path = rest[0] if rest else path
    for line in _header(path, new_path, (old_mode, new_mode), rest[1:]):
        say(line)
    session = Session()
    with ExitStack() as stack:
        stack.callback(session.close)
        try:
            old = _side(session, stack, path, old_file, old_hex)
            new = _side(session, stack, new_path, new_file, new_hex)
            found = compare_versions(new_path, old, new, threads=session.settings.threads)
        except ThetaError as error:  # a diff of other files must go on
            say(f"git theta: {printable(path)}: {printable(str(error))}")
            return
        for line in lines(found):
            say(line)


def _header(path: str, new_path: str, modes: tuple[str, str], said: list[str]) -> Iterator[str]:
    """What Git itself would say of names and modes."""
    yield f"diff --git a/{printable(path)} b/{printable(new_path)}"
    old, new = modes
    if old == ".":
        yield f"new file mode {new}"
    elif new == ".":
        yield f"deleted file mode {old}"
    elif old != new:
        yield f"old mode {old}"
        yield f"new mode {new}"
    for text in said:
        for line in text.splitlines():
            if not line.startswith(("index ", "old mode", "new mode")):
                yield printable(line)


def _side(session: Session, stack: ExitStack, path: str, file: str, blob: str) -> Version | None:
    """One side, by what Git gives: a manifest where there is one, else a pass over the file."""
    if file == _NOTHING:
        return None
    source: Source
    text = _manifest(session, Path(file), blob)
    if text is not None:
        source = Stored(session, parse_at(path, text))
    else:
        from git_theta.commands.scratch import Scratch

        handle = open_regular(session.repo.cwd / file)
        if handle is None:
            return None
        stack.callback(os.close, handle)
        source = Scratch(session, path, handle)
    return Version([File(path, source)])


def _manifest(session: Session, file: Path, blob: str) -> bytes | None:
    with (session.repo.cwd / file).open("rb") as opened:
        if is_manifest(opened.read(64)):
            opened.seek(0)
            return opened.read()
    if not blob.strip("0."):
        return None
    begin = session.repo.objects.read(blob, limit=64)
    if begin is None or not is_manifest(begin[1]):
        return None
    return manifest_text(session.repo, blob)
