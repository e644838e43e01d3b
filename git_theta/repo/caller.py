"""Which Git command is calling: the nearest ancestor process that is a git."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from itertools import pairwise
from pathlib import Path

_WITH_VALUE = ("-c", "-C", "--git-dir", "--work-tree", "--namespace", "--exec-path", "--config-env")
_COMPARING = ("diff", "difftool", "diff-files", "diff-index")
# Each can let the user choose among hunks, and applies those to the index or to the work tree.
_CHOOSING = ("add", "commit", "stash", "checkout", "restore", "reset")
_DIFFING = frozenset(
    {"diff", "log", "show", "blame", "annotate", "format-patch", "diff-index", "diff-tree"}
    | {"diff-files", "stash", "whatchanged", "range-diff", "grep", "difftool"}
)


def git_command() -> tuple[str, ...]:
    """The subcommand of the calling Git and its arguments; empty where that is not known."""
    return next(iter(_git_commands()), ())


@cache
def _git_commands() -> tuple[tuple[str, ...], ...]:
    """The calling Git, and the one that called that; what is not known is left out."""
    found = []
    for words in _ancestors():
        if words and Path(words[0]).name == "git":
            command = _subcommand(words[1:])
            if command and command[0] != "theta":
                found.append(command)
        if len(found) == 2:
            break
    return tuple(found)


def _ancestors() -> Iterator[list[str]]:
    """The command lines of the parent, its parent, and so on."""
    proc, process = Path("/proc"), os.getppid()
    if not (proc / str(process) / "cmdline").exists():
        yield from _asked_of_the_system()
        return
    with suppress(OSError, ValueError):
        while process > 1:
            words = (proc / str(process) / "cmdline").read_bytes().split(b"\0")
            yield [os.fsdecode(word) for word in words[:-1]]
            # The second field is the program's name in brackets, and may hold anything.
            fields = (proc / str(process) / "stat").read_bytes().rpartition(b")")[2].split()
            process = int(fields[1])


def _asked_of_the_system() -> Iterator[list[str]]:
    import psutil  # where there is no /proc

    with suppress(psutil.Error):
        for process in psutil.Process().parents():
            yield process.cmdline()


def only_compares() -> bool:
    """Whether what Git has cleaned is compared and then forgotten.

    A patch may be applied: what it names has to be stored.
    """
    command = git_command()
    if not command or command[0] not in _COMPARING:
        return False
    patch = {"--no-ext-diff"}
    if "-" in command[0]:  # these never ask the diff driver
        patch |= {"-p", "-u", "--patch", "--binary", "--patch-with-raw", "--patch-with-stat"}
    return not patch & set(command)


def chooses_hunks() -> bool:
    """Whether the differences are shown for hunks to be chosen, as in `git add -p`."""
    calling = _git_commands()
    if len(calling) < 2 or calling[0][0] not in ("diff-files", "diff-index"):
        return False
    return calling[1][0] in _CHOOSING


def merges_texts() -> bool:
    """Whether Git writes a file of which it is merging the lines: an octopus, or -s resolve."""
    return [command[0] for command in _git_commands()] == ["checkout-index", "merge-index"]


def is_coloured() -> bool:
    """Whether Git draws the differences in colour."""
    return "--color" in git_command()


def shows_differences(asked: Mapping[str, str]) -> bool:
    """Whether what Git asks to be smudged is only to be compared: the manifest serves better."""
    return "blob" in asked and not {"can-delay", "treeish"} & set(asked) and is_diffing()


def _subcommand(words: list[str]) -> tuple[str, ...]:
    index = 0
    while index < len(words) and words[index].startswith("-"):
        index += 2 if words[index] in _WITH_VALUE else 1
    return tuple(words[index:])


def is_diffing() -> bool:
    """Whether Git wants file contents only to show differences."""
    command = git_command()
    return bool(command) and command[0] in _DIFFING


def asks_status() -> bool:
    """Whether Git only wants to know if files have changed; most often they have not."""
    return git_command()[:1] == ("status",)


def writes_files() -> bool:
    """Whether Git is most likely to ask for files to be restored, and not for files to be read."""
    return git_command()[:1] in (("checkout",), ("switch",), ("restore",), ("clone",), ("reset",))


def may_delay() -> bool:
    """Whether a delayed answer is safe: `git checkout --merge` crashes on one."""
    command = git_command()
    if not command:
        return False
    options = command[1 : command.index("--")] if "--" in command else command[1:]
    merging = any(
        word == "--merge" or (word.startswith("-") and word[1:2] != "-" and "m" in word)
        for word in options
    )
    return not (command[0] in ("checkout", "switch", "restore") and merging)


def favoured_side(configured: str = "") -> str:
    """The side that `-X ours` or `-X theirs` of the calling Git command favours; empty: none.

    Git does not tell a merge driver. `configured` is `branch.NAME.mergeOptions`, which Git puts
    before the options of `git merge` itself; as there, the last one counts.
    """
    words = [*git_command()]
    if words[:1] == ["merge"] and configured:
        words[1:1] = configured.split()
    side = ""
    for option, following in pairwise([*words, ""]):
        value = ""
        if option in ("-X", "--strategy-option"):
            value = following
        elif option.startswith("--strategy-option="):
            value = option.partition("=")[2]
        elif option.startswith("-X"):
            value = option[2:]
        if value in ("ours", "theirs"):
            side = value
        if option == "--":
            break
    return side
