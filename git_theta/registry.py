"""Plug-ins by name, through entry points: listed cheaply, loaded on first use.

Groups are `git_theta.formats`, `git_theta.updates` and `git_theta.merges`. A name goes into
manifests and is a promise, so two packages that offer one name are an error for whoever asks for
it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from git_theta.errors import NoPluginError, PluginError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

OURS = "git-theta"
_PREFIX = "git_theta."
_ENTRIES = "entry_points.txt"


class Point(NamedTuple):
    """An entry point: its group, its name, what it names, and who says what provides it."""

    group: str
    name: str
    value: str
    package: Callable[[], tuple[str, str]]

    def load(self) -> Any:
        """Import what it names.

        Raises:
            ImportError: it is not there.
        """
        module, _, attribute = self.value.partition("[")[0].strip().partition(":")
        loaded = import_module(module.strip())
        if not attribute:
            return loaded
        try:
            return attrgetter(attribute.strip())(loaded)
        except AttributeError as error:
            raise ImportError(str(error)) from error


@cache
def _points(group: str) -> dict[str, tuple[Point, ...]]:
    found: dict[str, list[Point]] = {}
    for point in _all_points():
        if point.group == _PREFIX + group:
            same = found.setdefault(point.name, [])
            if all(point.value != other.value for other in same):
                same.append(point)
    return {name: tuple(points) for name, points in found.items()}


@cache
def _all_points() -> tuple[Point, ...]:
    """The entry points of all our groups.

    The standard library's way takes as long as all else that a filter needs to start; so where
    packages lie in plain directories, as they do nearly always, we look there ourselves.
    """
    found = tuple(_in_directories()) if _are_directories() else ()
    return found or tuple(_by_library())


def _are_directories() -> bool:
    """Whether nothing on the path is an archive, and no foreign finder knows of packages."""
    known = ("PathFinder", "MetadataPathFinder")
    return not any(map(os.path.isfile, sys.path)) and not any(
        hasattr(finder, "find_distributions")
        and getattr(finder, "__name__", type(finder).__name__) not in known
        for finder in sys.meta_path
    )


def _in_directories() -> Iterator[Point]:
    seen: set[str] = set()
    for folder in sys.path:
        try:
            names = sorted(os.listdir(folder or "."))  # noqa: PTH208 - a tenth of the time
        except OSError:
            continue
        for name in names:
            if name.endswith((".dist-info", ".egg-info")):
                package = re.sub(r"[-_.]+", "-", name.rpartition(".")[0].partition("-")[0].lower())
                if package not in seen:  # as for modules, the first one on the path counts
                    seen.add(package)
                    yield from _read(Path(folder or ".", name))


def _read(info: Path) -> Iterator[Point]:
    """The entry points of one package, by the directory that describes it."""
    try:
        with open(info / _ENTRIES, encoding="utf-8") as file:  # noqa: PTH123 - as above
            text = file.read()
    except (OSError, ValueError):
        return
    if _PREFIX not in text:
        return
    group = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            group = line.strip("[]").strip()
        elif group.startswith(_PREFIX) and line and line[0] not in "#;":
            name, _, value = line.partition("=")
            yield Point(group, name.strip(), value.strip(), lambda: _described(info))


@cache
def _described(info: Path) -> tuple[str, str]:
    """A package's own words on its name and version."""
    from importlib.metadata import PathDistribution

    package = PathDistribution(info)
    return package.metadata["Name"], package.version


def _by_library() -> Iterator[Point]:
    from importlib.metadata import distributions

    seen: set[str] = set()
    for package in distributions():
        called = package.metadata["Name"]
        if called and called not in seen:
            seen.add(called)
            for entry in package.entry_points:
                if entry.group.startswith(_PREFIX):
                    yield _named(entry, (called, package.version))


def _named(entry: EntryPoint, package: tuple[str, str]) -> Point:
    return Point(entry.group, entry.name, entry.value, lambda: package)


def names(group: str) -> list[str]:
    """The names of all installed plug-ins of a group, importing none."""
    return sorted(_points(group))


def find(group: str, name: str) -> Point:
    """Find one plug-in without importing it.

    Raises:
        PluginError: no installed package, or more than one, offers the name.
    """
    points = _points(group).get(name, ())
    if not points:
        raise NoPluginError(
            f"no {group[:-1]} plug-in is called {name!r}",
            hint=f"installed are: {', '.join(names(group))}",
        )
    if len(points) > 1:
        values = " and ".join(point.value for point in points)
        raise PluginError(
            f"the {group[:-1]} {name!r} comes from {values}", hint="uninstall one of them"
        )
    return points[0]


@cache
def load(group: str, name: str) -> Any:
    """An instance of one plug-in; its class takes no arguments.

    Raises:
        PluginError: it is not installed, claimed twice, or cannot be imported.
    """
    return load_class(group, name)()


@cache
def load_class(group: str, name: str) -> Any:
    """The class of one plug-in, for those that take parameters.

    Raises:
        PluginError: it is not installed, claimed twice, or cannot be imported.
    """
    point = find(group, name)
    try:
        return point.load()
    except ImportError as error:
        raise PluginError(
            f"the {group[:-1]} plug-in {name!r} cannot be imported: {error}"
        ) from error


def provider(group: str, name: str) -> tuple[str, str]:
    """The distribution that provides a plug-in, and its version."""
    return (OURS, "") if is_ours(group, name) else find(group, name).package()


def is_ours(group: str, name: str) -> bool:
    """Whether a plug-in is part of this package.

    Raises:
        PluginError: no installed package, or more than one, offers the name.
    """
    return find(group, name).value.startswith(f"{_PREFIX}{group}.")
