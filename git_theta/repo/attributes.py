"""Lines of a `.gitattributes` file: written by us, everything else kept verbatim.

What attributes mean is asked of Git (`Repo.attributes`); here lines are only found, added and
taken out, and a pattern is quoted as gitattributes(5) wants it.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from git_theta.errors import RefusedError, UsageError, shell_word

FILE = ".gitattributes"
FILTER = "filter=theta"
OURS = (FILTER, "diff=theta", "merge=theta", "-text")
_OPTIONS = ("theta-format", "theta-merge")
_ESCAPES = {"\a": "a", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t", "\v": "v"}
_UNESCAPES = {letter: character for character, letter in _ESCAPES.items()}
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\([0-3][0-7]{2}|.)")


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its text without the end of line, and what it says if it names a pattern."""

    text: str
    pattern: str = ""
    attributes: tuple[str, ...] = ()

    @property
    def ours(self) -> bool:
        """Whether the line gives its pattern to git-theta."""
        return FILTER in self.attributes


def parse_line(text: str) -> Line:
    """Read one line; comments, macros and blank lines have no pattern."""
    stripped = text.lstrip(" \t")
    if not stripped or stripped.startswith("#"):
        return Line(text)
    quoted = _QUOTED.match(stripped)
    if quoted:
        pattern, rest = _unquote(quoted[1]), stripped[quoted.end() :]
    else:
        pattern, _, rest = re.sub(r"[ \t\r]+", " ", stripped).partition(" ")
    if pattern.startswith("[attr]"):
        return Line(text)
    return Line(text, pattern, tuple(rest.split()))


def _unquote(body: str) -> str:
    def undo(match: re.Match[str]) -> str:
        code = match[1]
        if len(code) == 3:
            return bytes([int(code, 8)]).decode("latin-1")
        return _UNESCAPES.get(code, code)

    plain = _ESCAPE.sub(undo, body)
    if not re.search(r"\\[0-3][0-7]{2}", body):
        return plain
    return plain.encode("latin-1", "ignore").decode(errors="surrogateescape")


def quote(pattern: str) -> str:
    """Write a pattern as gitattributes(5) wants it: in quotes where it has to be."""
    if pattern and pattern[0] != "#" and not re.search(r'[\s"\x00-\x1f\x7f]', pattern):
        return pattern
    escaped = pattern.replace("\\", "\\\\").replace('"', '\\"')
    for character, letter in _ESCAPES.items():
        escaped = escaped.replace(character, "\\" + letter)
    return f'"{escaped}"'


def check_pattern(pattern: str) -> str:
    """A pattern that Git will understand, relative to the file's own directory.

    Raises:
        UsageError: Git would ignore it, or it reaches outside the directory.
    """
    while pattern.startswith("./"):
        pattern = pattern[2:]
    if not pattern or "\0" in pattern:
        raise UsageError("a pattern is empty", hint="git theta track '*.safetensors'")
    if pattern.startswith("!"):
        raise UsageError(f"Git ignores patterns that begin with '!': {pattern!r}")
    if pattern.startswith("[attr]"):
        raise UsageError(f"Git takes {pattern!r} for a macro")
    if ".." in pattern.split("/"):
        raise UsageError(
            f"a pattern cannot reach outside its directory: {pattern!r}",
            hint="run git theta track in the directory that holds the files, or above it",
        )
    if pattern.endswith("/"):
        raise UsageError(
            f"Git attributes do not match directories: {pattern!r}",
            hint=f"for everything below it: git theta track {shell_word(pattern + '**')}",
        )
    return pattern


class AttributesText:
    """The lines of a `.gitattributes` file being changed."""

    def __init__(self, text: str) -> None:
        self._eol = "\r\n" if "\r\n" in text else "\n"
        self._kept = _split(text)

    @property
    def text(self) -> str:
        """The file as it stands now."""
        return "".join(self._kept)

    @property
    def lines(self) -> list[Line]:
        """All lines as they stand."""
        return [parse_line(line.rstrip("\r\n")) for line in self._kept]

    def append(self, pattern: str, words: Sequence[str]) -> None:
        """Add a line, which comes to say more than those before it."""
        if self._kept and not self._kept[-1].endswith("\n"):
            self._kept[-1] += self._eol
        self._kept.append(" ".join([quote(pattern), *words]) + self._eol)

    def exchange(self, name: str, fits: Callable[[str], bool], words: Sequence[str]) -> set[str]:
        """Give the patterns of one filter that fit to another; the patterns that were changed.

        `words` take the place of those that belong to the filter; others on the line stay.
        """
        changed = set()
        for number, line in enumerate(self.lines):
            if f"filter={name}" in line.attributes and fits(line.pattern):
                old = {f"{key}={name}" for key in ("filter", "diff", "merge")} | {"-text"}
                left = [w for w in line.attributes if w not in old and not _is_option(w)]
                self._replace(number, line.pattern, [*words, *left])
                changed.add(line.pattern)
        return changed

    def track(self, pattern: str, options: Mapping[str, str]) -> bool:
        """Give a pattern to git-theta; say whether that changed anything.

        A line that already does is changed in place if its options differ; other lines stay.
        """
        wanted = [*OURS, *(f"{name}={value}" for name, value in options.items())]
        for number, line in enumerate(self.lines):
            if line.ours and line.pattern == pattern:
                wanted += [word for word in line.attributes if not _is_ours(word)]
                if not options:
                    wanted += [word for word in line.attributes if _is_option(word)]
                return self._replace(number, pattern, wanted)
        self.append(pattern, wanted)
        return True

    def untrack(self, pattern: str) -> bool:
        """Take a pattern away from git-theta; other attributes on its line stay."""
        lines = self.lines
        found = [n for n, ln in enumerate(lines) if ln.ours and ln.pattern == pattern]
        for number in reversed(found):
            left = [word for word in lines[number].attributes if not _is_ours(word)]
            if left:
                self._write(number, pattern, left)
            else:
                del self._kept[number]
        return bool(found)

    def _replace(self, number: int, pattern: str, attributes: Sequence[str]) -> bool:
        before = self.lines[number].attributes
        if sorted(before) == sorted(attributes):
            return False
        self._write(number, pattern, attributes)
        return True

    def _write(self, number: int, pattern: str, attributes: Sequence[str]) -> None:
        ending = self._kept[number][len(self._kept[number].rstrip("\r\n")) :]
        self._kept[number] = " ".join([quote(pattern), *attributes]) + ending


class AttributesFile(AttributesText):
    """A `.gitattributes` file on disk; nothing is written before `save`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_symlink():
            raise RefusedError(
                f"{path} is a symbolic link, which Git ignores", hint="make it a file"
            )
        raw = path.read_bytes() if path.exists() else b""
        self._before = raw.decode(errors="surrogateescape")
        super().__init__(self._before)

    def save(self) -> None:
        """Write the file whole or not at all.

        One that we emptied stays, empty: `git add --renormalize` stops at a file that is gone.
        """
        text = self.text
        if text == self._before:
            return
        mode = self.path.stat().st_mode & 0o777 if self.path.exists() else None
        descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=".gitattributes.")
        part = Path(name)
        try:
            os.close(descriptor)
            part.write_bytes(text.encode(errors="surrogateescape"))
            part.chmod(0o644 if mode is None else mode)
            part.replace(self.path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _split(text: str) -> list[str]:
    """Lines as Git sees them: only LF ends one."""
    return [line for line in re.split(r"(?<=\n)", text) if line]


def _is_option(word: str) -> bool:
    return word.partition("=")[0] in _OPTIONS


def _is_ours(word: str) -> bool:
    return word in OURS or _is_option(word)
