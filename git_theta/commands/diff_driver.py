"""`git theta diff-driver`: what `git diff` runs for a tracked file.

Git calls it with the path, and for each side a file, the blob's id and the mode. Where Git made a
temporary file, our filter has put the manifest into it. Weights are never fetched here, and the
store is not written to.
"""

from __future__ import annotations

import gc
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from git_theta.commands import plain_data
from git_theta.commands.diff_model import ModelDiff, compare_versions
from git_theta.commands.diff_text import lines, shape_text
from git_theta.commands.model_versions import File, Source, Stored, Version, parse_versions
from git_theta.commands.session import Session
from git_theta.commands.terminal import printable, say, write_anything
from git_theta.core.manifest import is_manifest
from git_theta.errors import ThetaError
from git_theta.repo.streams import open_regular
from git_theta.repo.tracked import manifest_text, parse_at
from git_theta.settings import difftool

_NOTHING = "/dev/null"
_FETCHING = "git theta diff, with the same arguments, fetches them"


def run(words: Sequence[str]) -> int:
    """Show what changed in one file, with the words that Git gives to a diff driver."""
    write_anything()
    gc.disable()  # a hundred thousand records, none of which is garbage before the end
    if len(words) < 7:
        say(f"* Unmerged path {printable(words[0] if words else '')}")
        return 0
    path, old_file, old_hex, old_mode, new_file, new_hex, new_mode, *rest = words
    new_path = rest[0] if rest else path
    tool = difftool()
    if tool is None:
        for line in _header(path, new_path, (old_mode, new_mode), rest[1:]):
            say(line)
    session = Session()
    with ExitStack() as stack:
        stack.callback(session.close)
        try:
            old_given, new_given = (path, old_file, old_hex), (new_path, new_file, new_hex)
            if tool is not None:
                sides = _side(session, stack, *old_given), _side(session, stack, *new_given)
                return _hand_over(tool, words, *sides)
            old, new = _sides(session, stack, old_given, new_given)
            found = compare_versions(new_path, old, new, threads=session.settings.threads)
        except ThetaError as error:  # a diff of other files must go on
            say(f"git theta: {printable(path)}: {printable(str(error))}")
            return 0
        for line in lines(found):
            say(line)
        if _lacks_summaries(session, found):
            say(f"note: distances are not known, the summaries are not here: {_FETCHING}")
    return 0


def _lacks_summaries(session: Session, found: ModelDiff) -> bool:
    """Whether a distance is not known because nobody has fetched what would tell it."""
    unknown = (row.change for row in found.rows if row.facts is not None and row.relative is None)
    tensors = (tensor for change in unknown for tensor in (change.old, change.new))
    chunks = (chunk for tensor in tensors if tensor for chunk in tensor.segment.chunks)
    oids = {chunk.summary.oid for chunk in chunks if chunk.summary is not None}
    return any(session.store.find(oid) is None for oid in oids)


def _hand_over(tool: str, words: Sequence[str], old: Version | None, new: Version | None) -> int:
    """Give the tool of `git difftool` two texts with one tensor a line."""
    given = list(words)
    with tempfile.TemporaryDirectory(prefix="git-theta-") as folder:
        for place, side, name in ((1, old, "old"), (4, new, "new")):
            if side is not None:
                target = Path(folder) / name / Path(words[0]).name
                target.parent.mkdir()
                told = "".join(f"{line}\n" for line in _described(side))
                target.write_text(told, encoding="utf-8", errors="backslashreplace")
                given[place] = str(target)
        done = subprocess.run(["sh", "-c", f'{tool} "$@"', tool, *given], check=False)
    return done.returncode


def _described(side: Version) -> Iterator[str]:
    for name, tensor in sorted(side.tensors.items()):
        yield f"{printable(name)}: {shape_text(tensor)} {tensor.segment.digest[:16]}"
    for file in side.files:
        for key, value in sorted((plain_data.describe(file.source) or {}).items()):
            yield printable(f"{key}: {value}")


def _header(path: str, new_path: str, modes: tuple[str, str], said: Sequence[str]) -> Iterator[str]:
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


def _sides(
    session: Session, stack: ExitStack, old: tuple[str, str, str], new: tuple[str, str, str]
) -> tuple[Version | None, Version | None]:
    """Both sides; two manifests are read together, which takes less time."""
    texts = [
        None if file == _NOTHING else _manifest(session, Path(file), blob)
        for _, file, blob in (old, new)
    ]
    if texts[0] is not None and texts[1] is not None:
        return parse_versions(session, (old[0], new[0]), (texts[0], texts[1]))
    return _side(session, stack, *old), _side(session, stack, *new)


def _side(session: Session, stack: ExitStack, path: str, file: str, blob: str) -> Version | None:
    """One side, by what Git gives: a manifest where there is one, else a pass over the file."""
    if file == _NOTHING:
        return None
    source: Source
    text = _manifest(session, Path(file), blob)
    if text is not None:
        source = Stored(session, parse_at(path, text))
    else:
        handle = open_regular(session.repo.cwd / file)
        if handle is None:
            return None
        stack.callback(os.close, handle)
        source = _looked_at(session, path, file, handle)
    return Version([File(path, source)])


def _looked_at(session: Session, path: str, file: str, handle: int) -> Source:
    """A pass over a file that is no manifest; the filter may have made it just before."""
    if session.path(path) == session.repo.cwd / file:
        from git_theta.commands.peeking import peek

        return peek(session, path, handle)
    from git_theta.commands.scratch import Scratch

    return Scratch(session, path, handle)


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
