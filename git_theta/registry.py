"""Plug-ins by name, through entry points: listed cheaply, loaded on first use.

Groups are `git_theta.formats`, `git_theta.updates` and `git_theta.merges`. A name goes into
manifests and is a promise, so two packages that offer one name are an error for whoever asks for
it.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from git_theta.errors import NoPluginError, PluginError

OURS = "git-theta"


@cache
def _points(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=f"git_theta.{group}"):
        same = found.setdefault(point.name, [])
        if all(point.value != other.value for other in same):
            same.append(point)
    return {name: tuple(points) for name, points in found.items()}


def names(group: str) -> list[str]:
    """The names of all installed plug-ins of a group, importing none."""
    return sorted(_points(group))


def find(group: str, name: str) -> EntryPoint:
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
    distribution = find(group, name).dist
    if distribution is None:
        return OURS, ""
    return distribution.name, distribution.version
