"""Which Git command is calling: the nearest ancestor process that is a git."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path

_WITH_VALUE = ("-c", "-C", "--git-dir", "--work-tree", "--namespace", "--exec-path", "--config-env")
_DIFFING = frozenset(
    {"diff", "log", "show", "blame", "annotate", "format-patch", "diff-index", "diff-tree"}
    | {"diff-files", "stash", "whatchanged", "range-diff", "grep", "difftool"}
)


@cache
def git_command() -> tuple[str, ...]:
    """The subcommand of the calling Git and its arguments; empty where that is not known."""
    import psutil  # costs time that most filter runs need not spend

    try:
        for process in psutil.Process().parents():
            words = process.cmdline()
            if words and Path(words[0]).name == "git":
                command = _subcommand(words[1:])
                if command and command[0] != "theta":
                    return command
    except psutil.Error:
        return ()
    return ()


def _subcommand(words: list[str]) -> tuple[str, ...]:
    index = 0
    while index < len(words) and words[index].startswith("-"):
        index += 2 if words[index] in _WITH_VALUE else 1
    return tuple(words[index:])


def is_diffing() -> bool:
    """Whether Git wants file contents only to show differences."""
    command = git_command()
    return bool(command) and command[0] in _DIFFING


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
