"""Summaries of chunks, read many at a time from the packs that are here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import msgpack

from git_theta.core.manifest import Place
from git_theta.core.payload import body
from git_theta.core.sketch import Summary, unpack
from git_theta.errors import ThetaError
from git_theta.repo.objects import Store

# From so many summaries on, a pack is read whole: one system call instead of one for each.
_MANY = 32


def read_summaries(store: Store, places: Iterable[Place]) -> dict[Place, Summary]:
    """The summaries that can be read; those that are missing or damaged are left out."""
    packs: dict[str, list[Place]] = defaultdict(list)
    for place in set(places):
        packs[place.oid].append(place)
    found: dict[Place, Summary] = {}
    for oid, wanted in packs.items():
        whole = _whole(store, oid) if len(wanted) >= _MANY else None
        for place in wanted:
            summary = _read(store, place, whole)
            if summary is not None:
                found[place] = summary
    return found


def _whole(store: Store, oid: str) -> memoryview | None:
    path = store.find(oid)
    try:
        return None if path is None else memoryview(path.read_bytes())
    except OSError:
        return None


def _read(store: Store, place: Place, whole: memoryview | None) -> Summary | None:
    try:
        if whole is None:
            record = memoryview(store.read(place))
        else:
            record = whole[place.offset : place.offset + place.size]
        return unpack(body(record))
    except (ThetaError, msgpack.UnpackException):
        return None
