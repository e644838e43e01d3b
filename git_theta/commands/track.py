"""`git theta track`: patterns in `.gitattributes`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from git_theta import registry
from git_theta.commands.options import (
    JSON_OPTION,
    attributes_file,
    path_from_top,
    standing_directory,
)
from git_theta.commands.terminal import complain, count, note, printable, say, say_json
from git_theta.errors import UsageError
from git_theta.repo.attributes import FILE, AttributesFile, check_pattern
from git_theta.repo.configuration import installed
from git_theta.repo.gitrepo import Repo
from git_theta.repo.tracked import staged_blobs

_SHOWN = 5


@click.command()
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@click.option("--format", "format_name", metavar="F", help="Read the files as this format.")
@click.option("--merge", "merge_name", metavar="S", help="Merge the files by this strategy.")
@JSON_OPTION
def command(
    patterns: tuple[str, ...], format_name: str | None, merge_name: str | None, as_json: bool
) -> None:
    """Keep the files that match a PATTERN with git-theta; without one, list what is kept.

    Writes lines into the .gitattributes of the current directory. Quote the pattern, or the
    shell replaces it by the files of today:

    \b
        git theta track '*.safetensors'
        git theta track 'checkpoints/**/*.pt' --format torch

    Commit .gitattributes, so that every clone knows. Files that were committed before stay as
    they are until `git add --renormalize`.
    """
    repo = Repo.find()
    if not patterns:
        _list(repo, as_json)
        return
    options = _options(format_name, merge_name)
    wanted = [check_pattern(_relative(repo, pattern)) for pattern in patterns]
    attributes = AttributesFile(attributes_file(repo))
    changed = {pattern: attributes.track(pattern, options) for pattern in wanted}
    attributes.save()
    if as_json:
        rows = [{"pattern": p, "changed": is_new} for p, is_new in changed.items()]
        say_json({"file": str(attributes.path), "patterns": rows})
    else:
        for pattern, is_new in changed.items():
            say(f"{'Tracking' if is_new else 'Already tracking'} {printable(pattern)}")
    _advise(repo, patterns, attributes)


def _options(format_name: str | None, merge_name: str | None) -> dict[str, str]:
    known = [*registry.names("formats"), "opaque"]
    if format_name is not None and format_name not in known:
        raise UsageError(
            f"no format is called {format_name!r}", hint=f"installed are: {', '.join(known)}"
        )
    if merge_name is not None and not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}(:\S+)?", merge_name):
        raise UsageError(f"this cannot be the name of a merge strategy: {merge_name!r}")
    if merge_name is not None:
        strategy = merge_name.partition(":")[0]
        if strategy not in [*registry.names("merges"), "conflict"]:
            raise UsageError(f"no strategy is called {strategy!r}", hint="git theta merge --list")
    given = {"theta-format": format_name, "theta-merge": merge_name}
    return {name: value for name, value in given.items() if value is not None}


def _relative(repo: Repo, pattern: str) -> str:
    """A pattern given as an absolute path, from where the user stands; others as they are."""
    if not Path(pattern).is_absolute():
        return pattern
    here = standing_directory(repo)
    full = Path(pattern)
    if not full.parent.is_dir() or not full.is_relative_to(here):
        return pattern  # a leading slash: only in this directory, as gitattributes has it
    return "/" + full.relative_to(here).as_posix()


def _advise(repo: Repo, patterns: tuple[str, ...], attributes: AttributesFile) -> None:
    here = standing_directory(repo)
    if len(patterns) > 1 and all((here / pattern).is_file() for pattern in patterns):
        suffix = Path(patterns[0]).suffix
        note(
            "hint: these are single files; was a pattern not quoted? For future files too: "
            f"git theta track '*{printable(suffix)}'"
        )
    if not installed(repo):
        complain("warning: git-theta is not set up on this machine; run: git theta install")
    _warn_of_overridden(repo, attributes)
    raw = [blob.path for blob in staged_blobs(repo) if blob.text is None]
    if raw:
        shown = ", ".join(printable(path) for path in raw[:_SHOWN])
        more = f" and {len(raw) - _SHOWN} more" if len(raw) > _SHOWN else ""
        note(f"{count(len(raw), 'file')} committed before stays as it is: {shown}{more}")
        note("hint: to keep it with git-theta from now on: git add --renormalize -- PATH")


def _warn_of_overridden(repo: Repo, attributes: AttributesFile) -> None:
    for pattern, value, example in overridden(repo, attributes):
        complain(
            f"warning: {printable(pattern)} is overridden: filter is {printable(value)} for a "
            f"file such as {printable(example)}; look at the lines below it, and at "
            ".git/info/attributes"
        )


def overridden(repo: Repo, attributes: AttributesFile) -> Iterator[tuple[str, str, str]]:
    """Patterns of a file that do not do what they say: (pattern, filter in force, example).

    A later line, or a file that Git reads after this one, may say something else.
    """
    everywhere = attributes.path.parent == repo.common_dir / "info"
    below = "." if everywhere else path_from_top(repo, str(attributes.path.parent))
    prefix = "" if below == "." else below + "/"
    for line in attributes.lines:
        example = _example(line.pattern) if line.ours else ""
        if not example:
            continue
        found = repo.attributes([prefix + example], ["filter"])
        value = found.get(prefix + example, {}).get("filter", "unset")
        if value != "theta":
            yield line.pattern, value, prefix + example


def _example(pattern: str) -> str:
    """A path that a simple pattern matches; empty for one with brackets or odd escapes."""
    if re.search(r"[\[\]\\?]", pattern):
        return ""
    return pattern.lstrip("/").replace("**/", "a/").replace("**", "a").replace("*", "a")


def _list(repo: Repo, as_json: bool) -> None:
    rows = []
    for path in attribute_files(repo):
        for line in AttributesFile(path).lines:
            if line.ours:
                name = path.name if repo.top is None else str(path.relative_to(repo.top))
                options = [word for word in line.attributes if word.startswith("theta-")]
                rows.append({"pattern": line.pattern, "file": name, "options": options})
    if as_json:
        say_json(rows)
        return
    for row in rows:
        told = "".join(f" {word}" for word in row["options"])
        say(f"{printable(str(row['pattern']))} ({printable(str(row['file']))}){printable(told)}")
    if not rows:
        note("Nothing is tracked yet; for example: git theta track '*.safetensors'")


def attribute_files(repo: Repo) -> list[Path]:
    """All files of the repository in which attributes may stand."""
    if repo.top is None:
        return []
    listing = repo.git("ls-files", "-z", "-c", "-o", "--", f":(top,glob)**/{FILE}")
    names = sorted({name.decode(errors="surrogateescape") for name in listing.split(b"\0")[:-1]})
    found = [repo.top / name for name in names]
    local = repo.common_dir / "info" / "attributes"
    return [path for path in [*found, local] if path.is_file() and not path.is_symlink()]
