"""Which update stores a chunk: every one is asked, the best are tried, the smallest is kept.

What is spent on losers is bounded: estimates come from samples, at most two updates encode against
a base, `dense` only where none of them is clearly better, and at most three bases are looked at.
The answer depends on the bytes alone, never on the clock, so that the same file always makes the
same objects.
"""

from __future__ import annotations

import itertools
import math
import re
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias

import numpy as np

from git_theta.core.chain import Base, Bytes, Encoded, Slice, Update, scratch, write_record
from git_theta.core.payload import Buffer, header_of
from git_theta.errors import ThetaError, UsageError

AUTO = "auto"
DENSE = "dense"
LINKS = 8
GROWTH = 2
_LINE = 150
_GOOD = 0.9
_SMALL = 256 << 10
_TRIED = 2
_BASES = 3
_COMPARED = 128 << 10

Loaded: TypeAlias = Callable[[Slice, Bytes], "tuple[str, Encoded] | None"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a user allows: kinds of updates (None: all), and updates brought from elsewhere.

    `loaded` maps names of tensors to functions that encode a chunk against its aligned base, or
    decline. `dense` is always allowed.
    """

    kinds: frozenset[str] | None = None
    loaded: Mapping[str, Loaded] = field(default_factory=dict)


def kinds_from(text: str, installed: Collection[str]) -> frozenset[str] | None:
    """Read a setting: `auto`, kinds to choose from, or kinds to do without (`-low-rank`).

    Words are separated by commas, plus signs or blanks. None stands for all kinds.

    Raises:
        UsageError: a word names no kind that is installed.
    """
    words = [word for word in re.split(r"[,+\s]+", text.strip()) if word]
    wanted = {word for word in words if word[0] not in "-!"}
    without = {word[1:] for word in words if word[0] in "-!"}
    unknown = sorted((wanted | without) - set(installed) - {AUTO})
    if unknown or not words or AUTO in without:
        told = ", ".join(map(repr, unknown)) or repr(text)
        raise UsageError(
            f"no update is called {told}",
            hint=f"choose from {', '.join([AUTO, *sorted(installed)])}, or leave some out: -delta",
        )
    if not without and (not wanted or AUTO in wanted):
        return None
    allowed = set(installed) if not wanted or AUTO in wanted else wanted
    return frozenset(allowed - without)


class Relative(Protocol):
    """A chunk that may serve as a base, not read yet.

    `links` counts the updates from its root to it, `stored` the bytes of their records with the
    root's, `root` those of the root alone.
    """

    @property
    def links(self) -> int: ...

    @property
    def stored(self) -> int: ...

    @property
    def root(self) -> int: ...

    def load(self, new: Slice) -> tuple[Base, Bytes] | None:
        """Read and align it: valid until the next is loaded; None where it turns out unfit."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """A record, the kind of update that made it, and the digest of its base."""

    record: list[Buffer]
    kind: str
    base: str | None = None

    @property
    def size(self) -> int:
        """Bytes of the record, and of what a manifest says of its base."""
        return sum(map(len, self.record)) + (_LINE if self.base is not None else 0)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A chunk to be stored, what is known about it, and the base looked at now."""

    new: Slice
    digest: str
    base: Base | None = None
    data: Bytes | None = None


class Chooser:
    """Chooses for the chunks of one file. Safe to use from several threads.

    `tell` is called once for each update that fails or is passed over.
    """

    def __init__(
        self,
        updates: Mapping[str, Update],
        choice: Choice,
        *,
        memory: int,
        tell: Callable[[str], None],
    ) -> None:
        allowed = updates if choice.kinds is None else choice.kinds
        self._all = updates
        self._dense = updates[DENSE]
        others = [updates[name] for name in sorted(updates) if name in allowed and name != DENSE]
        self._based = [update for update in others if update.needs_base]
        self._alone = [update for update in others if not update.needs_base]
        self.loaded = choice.loaded
        self._memory = memory
        self._tell = tell
        self._told: set[str] = set()
        self._guard = threading.Lock()

    @property
    def is_plain(self) -> bool:
        """Whether without a base nothing but `dense` can be chosen."""
        return not self._alone and not self.loaded

    def wants_base(self, name: str) -> bool:
        """Whether a base could be of use for a tensor with this name."""
        return bool(self._based) or name in self.loaded

    def store(
        self, new: Slice, digest: str, relatives: Iterable[Relative] = (), name: str = ""
    ) -> Outcome:
        """The smallest record of a chunk that was found, proven by decoding it."""
        with np.errstate(all="ignore"):  # weights may hold anything
            return self._store(_Asked(new, digest), relatives, name)

    def _store(self, asked: _Asked, relatives: Iterable[Relative], name: str) -> Outcome:
        new = asked.new
        waiting = iter(relatives)
        first = next(waiting, None)
        if first is None and not self._alone:
            return self._dense_record(asked)
        relatives = waiting if first is None else itertools.chain([first], waiting)
        dense = self._dense_record(asked) if len(new.data) <= _SMALL else None
        standing = self._standing(asked) if dense is None else dense.size
        if name in self.loaded:
            relatives = list(relatives)
            brought = self._brought(asked, self.loaded[name], relatives, standing)
            if brought is not None:
                return brought
        best = self._found(asked, relatives, standing)
        if best is not None and best.size < _GOOD * standing:
            return best
        dense = dense or self._dense_record(asked)
        return best if best is not None and best.size < dense.size else dense

    def _standing(self, asked: _Asked) -> float:
        """About how large the chunk is if it is stored whole."""
        return self._dense.estimate(asked.new, None) or float(len(asked.new.data))

    def _found(
        self, asked: _Asked, relatives: Iterable[Relative], standing: float
    ) -> Outcome | None:
        """The smallest of the records that are not dense; the first that is clearly better."""
        best = self._best(asked, self._alone, standing) if self._alone else None
        for relative, base, data in _within_bounds(relatives, asked.new):
            room = GROWTH * max(relative.root, standing) - relative.stored
            limit = min(room, standing if best is None else best.size)
            found = self._best(replace(asked, base=base, data=data), self._based, limit)
            if found is not None and found.size < limit:
                best = found
            if best is not None and best.size < _GOOD * standing:
                break
        return best

    def _brought(
        self, asked: _Asked, loaded: Loaded, relatives: Iterable[Relative], standing: float
    ) -> Outcome | None:
        """What was brought from elsewhere for this chunk, above the first base that it fits."""
        for relative, base, data in _within_bounds(relatives, asked.new):
            made = loaded(asked.new, data)
            if made is not None and made[0] in self._all:
                there = replace(asked, base=base, data=data)
                found = self._proven(there, self._all[made[0]], made[1])
                room = GROWTH * max(relative.root, standing) - relative.stored
                if found is not None and found.size < min(room, standing):
                    return found
        return None

    def _best(self, asked: _Asked, updates: Iterable[Update], limit: float) -> Outcome | None:
        guesses = [(self._estimate(update, asked), update.name, update) for update in updates]
        found: Outcome | None = None
        for guess, _, update in sorted(guesses, key=lambda entry: entry[:2])[:_TRIED]:
            if guess >= (limit if found is None else _GOOD * found.size):
                break
            other = self._encoded(asked, update)
            if other is not None and (found is None or other.size < found.size):
                found = other
        return found

    def _estimate(self, update: Update, asked: _Asked) -> float:
        try:
            needs = getattr(update, "needs", None)
            if needs is not None and needs(asked.new) > self._memory:
                self._say(update, "is passed over for large tensors (theta.memory)")
                return math.inf
            guess = update.estimate(asked.new, asked.data)
            return math.inf if guess is None or math.isnan(guess) else float(guess)
        except MemoryError:
            raise
        except Exception as error:  # another package's fault must not keep a file from being added
            self._say(update, f"fails with {error!r}; others are used")
            return math.inf

    def _encoded(self, asked: _Asked, update: Update) -> Outcome | None:
        try:
            encoded = update.encode(asked.new, asked.data)
            return None if encoded is None else self._proven(asked, update, encoded)
        except MemoryError:
            raise
        except Exception as error:  # as above
            self._say(update, f"fails with {error!r}; others are used")
            return None

    def _proven(self, asked: _Asked, update: Update, encoded: Encoded) -> Outcome | None:
        """The record, if it decodes to the chunk."""
        record = write_record(asked.new, asked.digest, update.name, encoded, asked.base)
        out = scratch.take("proof", len(asked.new.data))
        try:
            frames = (memoryview(frame) for frame in record[1:])
            update.decode(header_of(record[0]), frames, asked.data, out)
            right = same(out, asked.new.data)
        except ThetaError:
            right = False
        if not right:
            self._say(update, "did not restore what it stored; others are used")
            return None
        base = None if asked.base is None else asked.base.digest
        return Outcome(record, update.name, base)

    def _dense_record(self, asked: _Asked) -> Outcome:
        return dense_record(self._dense, asked.new, asked.digest)

    def _say(self, update: Update, what: str) -> None:
        with self._guard:
            if update.name in self._told:
                return
            self._told.add(update.name)
        self._tell(f"the update {update.name!r} {what}")


def dense_record(dense: Update, new: Slice, digest: str) -> Outcome:
    """A chunk as a record that stands alone.

    Raises:
        ThetaError: the update declined; a `dense` one never does.
    """
    encoded = dense.encode(new, None)
    if encoded is None:
        raise ThetaError(f"the update {dense.name!r} declined to store a chunk")
    return Outcome(write_record(new, digest, dense.name, encoded), dense.name)


def _within_bounds(
    relatives: Iterable[Relative], new: Slice
) -> Iterable[tuple[Relative, Base, Bytes]]:
    """Bases to look at, loaded: those whose chain has room for a link."""
    fit = (relative for relative in relatives if relative.links < LINKS)
    loaded = ((relative, relative.load(new)) for relative in fit)
    ready = ((relative, *pair) for relative, pair in loaded if pair is not None)
    return itertools.islice(ready, _BASES)


def same(left: Bytes, right: Bytes) -> bool:
    """Whether two buffers hold the same bytes; looks at a little at a time."""
    if len(left) != len(right):
        return False
    whole = len(left) - len(left) % 8
    words, others = left[:whole].view(np.uint64), right[:whole].view(np.uint64)
    return np.array_equal(left[whole:], right[whole:]) and all(
        np.array_equal(words[start : start + _COMPARED], others[start : start + _COMPARED])
        for start in range(0, len(words), _COMPARED)
    )
