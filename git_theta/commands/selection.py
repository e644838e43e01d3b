"""Which files of the work tree a command line names, as Git understands paths."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from git_theta.commands.options import path_from_top, standing_directory
from git_theta.errors import NotTrackedError, RefusedError, UsageError, shell_word
from git_theta.repo.gitrepo import GitError, Repo, run_git


def select(repo: Repo, words: Sequence[str]) -> list[str]:
    """Regular files, from the top, that git-theta keeps and that paths or pathspecs name.

    Raises:
        NotTrackedError: a word names nothing that git-theta could keep.
        UsageError: a path lies outside the work tree.
    """
    found: dict[str, None] = {}
    for word in words:
        literal = Path(standing_directory(repo), word)
        if literal.is_symlink() or (os.path.lexists(literal) and not literal.is_dir()):
            found[_one(repo, word)] = None
        else:
            found.update(dict.fromkeys(_several(repo, word)))
    return list(found)


def _one(repo: Repo, word: str) -> str:
    """A file that is named as such: whatever is wrong with it is an error."""
    path = path_from_top(repo, word)
    full = repo.cwd / path
    if not _listed(repo, f":(top,literal){path}"):
        raise _unlisted(repo, word, path)
    if not _kept(repo, [path]):
        raise NotTrackedError(
            f"{word} is not kept by git-theta",
            hint=f"git theta track {shell_word('*' + (full.suffix or full.name))}",
        )
    if not stat.S_ISREG(full.lstat().st_mode):
        raise RefusedError(f"{word} is not a regular file")
    return path


def _unlisted(repo: Repo, word: str, path: str) -> NotTrackedError:
    """Why Git does not list a file that is there."""
    asked = path.encode(errors="surrogateescape") + b"\0"
    if repo.git("check-ignore", "-z", "--stdin", stdin=asked, check=False):
        return NotTrackedError(f"{word} is ignored", hint=f"git add -f -- {shell_word(word)}")
    inside = shell_word(str(Path(word).parent))
    return NotTrackedError(
        f"{word} is in another repository, or in a submodule",
        hint=f"git -C {inside} theta add -- {shell_word(Path(word).name)}",
    )


def _several(repo: Repo, word: str) -> Iterable[str]:
    """Files in a directory, or that match a pattern: those that git-theta keeps."""
    listed = _listed(repo, word)
    there = [p for p in listed if (repo.cwd / p).is_file() and not (repo.cwd / p).is_symlink()]
    kept = _kept(repo, there)
    if not kept:
        what = "keeps no file there" if there else "finds no file there"
        raise NotTrackedError(f"{word}: git-theta {what}", hint="git theta track PATTERN")
    return kept


def _listed(repo: Repo, pathspec: str) -> list[str]:
    """Known and new files that match, without ignored ones."""
    words = ["ls-files", "-z", "-c", "-o", "--exclude-standard", "--full-name", "--", pathspec]
    try:
        told = run_git(words, cwd=standing_directory(repo))
    except GitError as error:
        raise UsageError(str(error).removeprefix("fatal: ")) from error
    return sorted({item.decode(errors="surrogateescape") for item in told.split(b"\0") if item})


def _kept(repo: Repo, paths: Sequence[str]) -> list[str]:
    attributes = repo.attributes(paths, ["filter"])
    return [path for path in paths if attributes.get(path, {}).get("filter") == "theta"]
