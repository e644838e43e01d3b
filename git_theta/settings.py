"""What a user may set, read once at the edge: environment, `git config theta.*`, defaults."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from git_theta.core.limits import KEYS, Limits
from git_theta.errors import UsageError

KEPT = "GIT_THETA_KEPT"
_LATER_FROM = "GIT_THETA_LATER"
# What GIT_THETA_MERGE says where `git theta merge` sees to the models itself.
LATER = "later"
COMPLETE = "_GIT_THETA_COMPLETE"
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_TRUE, _FALSE = ("true", "yes", "on", "1", ""), ("false", "no", "off", "0")


class Settings(NamedTuple):
    """Settings in force; passed down, never looked up again.

    `smudge_limit` is in bytes: larger files stay manifests in the work tree until
    `git theta pull` writes them; from `direct_from` bytes on, the filter writes files itself
    where it can. `grace` is in seconds: younger objects are never collected.
    `memory` is the bytes that whole-file work (split formats, whole-matrix encoders) may use.
    `merge_now` is what the environment says of how to merge, `merge` what the configuration does;
    `pick` is "apply" where a change that is picked is added to a tensor that both sides changed.
    `device` computes merges. `threads` is the number of encoding and decoding threads. `update`
    says which updates may store what changed (`core/choice.py` reads it). `scan` is what happens
    to a file that runs code when it is loaded: warn, refuse or off. `kept` is a directory in
    which `git theta switch` and its like keep the files that are about to be replaced. `limits`
    is what files of other people may ask for.
    """

    smudge_limit: int
    direct_from: int = 16 << 20
    skip_smudge: bool = False
    auto_hooks: bool = True
    reuse: str = "tree"
    grace: int = 24 * 3600
    memory: int = 2 << 30
    threads: int = 2
    update: str = "auto"
    sync: bool = False
    merge_now: str = ""
    merge: str = ""
    pick: str = "conflict"
    device: str = "auto"
    scan: str = "warn"
    kept: Path | None = None
    limits: Limits = Limits()

    @classmethod
    def read(cls, config: Mapping[str, str], environ: Mapping[str, str] | None = None) -> Settings:
        """Read settings.

        Raises:
            UsageError: a value is not understood; the message names its key.
        """
        env = os.environ if environ is None else environ
        values = {key.lower(): value for key, value in config.items()}
        reuse = values.get("theta.reuse", "tree")
        if reuse not in ("tree", "repository"):
            raise UsageError(f"theta.reuse is {reuse!r}", hint="set tree or repository")
        pick = values.get("theta.pickmerge", "conflict")
        if pick not in ("conflict", "apply"):
            raise UsageError(f"theta.pickMerge is {pick!r}", hint="set conflict or apply")
        scan = values.get("theta.scan", "warn")
        if scan not in ("warn", "refuse", "off"):
            raise UsageError(f"theta.scan is {scan!r}", hint="set warn, refuse or off")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return cls(
            smudge_limit=_size(values, "theta.smudgelimit", _physical_memory() // 4),
            direct_from=_size(values, "theta.directfrom", 16 << 20),
            skip_smudge=_truth(env.get("GIT_THETA_SKIP_SMUDGE", "0"), "GIT_THETA_SKIP_SMUDGE"),
            auto_hooks=_truth(values.get("theta.autohooks", "true"), "theta.autoHooks"),
            reuse=reuse,
            grace=_duration(values.get("theta.graceperiod", "24h")),
            memory=_size(values, "theta.memory", 2 << 30),
            threads=max(1, _size(values, "theta.threads", min(8, cores or 1))),
            update=values.get("theta.update", "auto"),
            sync=_syncs_loose_objects(values.get("core.fsync", "")),
            merge_now=asked_to_merge(env),
            merge=values.get("theta.merge", "").strip(),
            pick=pick,
            device=values.get("theta.device", "auto").strip(),
            scan=scan,
            kept=Path(env[KEPT]) if env.get(KEPT) else None,
            limits=_limits(values),
        )


def _limits(values: Mapping[str, str]) -> Limits:
    given = {name: key for name, key in KEYS.items() if key.lower() in values}
    return Limits(
        **{name: max(1, parse_size(values[key.lower()], key)) for name, key in given.items()}
    )


def environment() -> dict[str, str]:
    """A copy of this process's environment, for children that get a changed one."""
    return dict(os.environ)


def later(directory: Path, top: Path, size: int) -> dict[str, str]:
    """What tells the filter of one work tree that files from a size on are written after it."""
    return {KEPT: str(directory), _LATER_FROM: f"{size} {top.resolve()}"}


def written_later() -> int | None:
    """From which size on the caller writes the files itself, in the work tree where we stand."""
    size, _, top = os.environ.get(_LATER_FROM, "").partition(" ")
    return int(size) if size.isdecimal() and top == str(Path.cwd()) else None


def keep_library_to_one_thread() -> None:
    """Have numpy's library make no threads of its own: they wait in busy loops for nothing.

    To be said before numpy is imported, by who has threads for all the work there is.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def forget_super_prefix() -> None:
    """Drop what Git tells those that it runs in a submodule: most of its own commands refuse it."""
    os.environ.pop("GIT_INTERNAL_SUPER_PREFIX", None)


def settle_places() -> None:
    """Give places that the environment names from here full names: Git is run elsewhere, too."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY"):
        if os.environ.get(name):
            os.environ[name] = str(Path.cwd() / os.environ[name])


def names_work_tree() -> bool:
    """Whether the environment says where the work tree is."""
    return bool(os.environ.get("GIT_WORK_TREE"))


def asked_to_merge(env: Mapping[str, str] | None = None) -> str:
    """What the environment says of how to merge."""
    return (os.environ if env is None else env).get("GIT_THETA_MERGE", "").strip()


def merged_heads() -> dict[str, str]:
    """The commits that a running `git merge` merges, with the names that the user gave them.

    Git sets these variables for a merge, and not where it applies a change: rebase, cherry-pick.
    """
    begin = "GITHEAD_"
    return {k[len(begin) :]: v for k, v in os.environ.items() if k.startswith(begin)}


def caller_directory() -> Path:
    """Where the user stood when Git was called, which may be below the top."""
    return Path(os.environ.get("GIT_PREFIX", ""))


def difftool() -> str | None:
    """The command with which `git difftool` wants two files compared, if that is what runs us."""
    command = os.environ.get("GIT_EXTERNAL_DIFF", "")
    return command if "difftool--helper" in command else None


def debugging(words: Sequence[str] = ()) -> bool:
    """Whether failures show a traceback: `-v` on the command line, or GIT_THETA_DEBUG."""
    before = words[: words.index("--")] if "--" in words else words
    asked = "-v" in before or "--verbose" in before
    return asked or os.environ.get("GIT_THETA_DEBUG", "0").strip().lower() not in _FALSE


def wants_colour(stream: TextIO) -> bool:
    """Whether to colour what is written to a stream; NO_COLOR says no."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def completing() -> bool:
    """Whether a shell asks how a command line could go on."""
    return COMPLETE in os.environ


def _truth(text: str, key: str) -> bool:
    word = text.strip().lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise UsageError(f"{key} is {text!r}", hint="set true or false")


def _size(values: Mapping[str, str], key: str, default: int) -> int:
    text = values.get(key)
    return default if text is None else parse_size(text, key)


def parse_size(text: str, key: str) -> int:
    """A number of bytes, as people write it: 512m, 2g.

    Raises:
        UsageError: it is none; the message names the key.
    """
    match = re.fullmatch(r"\s*(\d{1,15})\s*([kmgt]?)(i?b)?\s*", text.lower())
    if match is None:
        raise UsageError(f"{key} is {text!r}", hint="set a number of bytes, such as 8g")
    return int(match[1]) * _UNITS[match[2]]


def _duration(text: str) -> int:
    match = re.fullmatch(r"\s*(\d{1,9})\s*([smhd]?)\s*", text.lower())
    if match is None:
        raise UsageError(f"theta.gracePeriod is {text!r}", hint="set a time, such as 24h, 7d or 0")
    return int(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def _syncs_loose_objects(components: str) -> bool:
    """Follow Git: `core.fsync` is a list of parts, later ones add to or (with -) take away."""
    on = False
    for part in components.split(","):
        word = part.strip()
        if word in ("loose-object", "objects", "added", "all"):
            on = True
        elif word in ("none", "-loose-object", "-objects", "-added", "-all", "derived-metadata"):
            on = False
    return on


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 16 << 30
