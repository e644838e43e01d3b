"""Where merged tensors go: packs, updates of the side they are nearest to, and a journal."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from git_theta import registry
from git_theta.commands.reading import Source
from git_theta.commands.session import Session, say
from git_theta.commands.sides import Side
from git_theta.core.chain import Slice
from git_theta.core.choice import DENSE, Choice, Chooser, Outcome, dense_record
from git_theta.core.clean import Tools
from git_theta.core.manifest import Chunk
from git_theta.core.relatives import Lender, Relatives, Where
from git_theta.core.sketch import Summary
from git_theta.errors import PluginError
from git_theta.repo.candidates import Candidates
from git_theta.repo.packs import PackWriter, Spot
from git_theta.repo.reuse import Reuse

# What a base costs in a manifest and in a header is more than can be saved on fewer bytes.
_WORTH_A_BASE = 1 << 10
# What stores changes that follow no rule.
_SCATTERED = frozenset({"delta", "sparse"})


class Keeper:
    """Stores what is merged; models are the bases, and nothing else is looked at."""

    def __init__(self, session: Session, models: Sequence[Side], source: Source) -> None:
        self._session = session
        self._source = source
        self._reuse = Reuse(
            Candidates(session.repo), session.store, session.catalog, session.plugins.updates
        )
        manifests = [side.manifest for side in models]
        for manifest in manifests:
            self._reuse.add(manifest)
        lender = Lender(
            known=self.known,
            links=self._reuse.links,
            chunks=self._reuse.chunks,
            read=session.store.read,
            updates=session.plugins.updates,
            held=source.held,
        )
        self._relatives = Relatives(lender, manifests, lambda: ())
        self._manifests = manifests
        self._choosers: dict[bool, Chooser] = {}
        self._told: set[str] = set()

    @property
    def proven(self) -> list[Chunk]:
        """Chunks that were read and proven on the way."""
        return self._reuse.proven

    def tools(self, data: PackWriter, summaries: PackWriter) -> Tools[Spot]:
        """What writing tensors needs."""
        self._choosers = {
            False: self._choosing(Choice()),
            True: self._choosing(Choice(kinds=_SCATTERED)),
        }
        return Tools(
            known=self.known,
            data=data,
            summaries=summaries,
            update=self._session.plugins.updates(DENSE),
            store=self._store,
            threads=self._session.settings.threads,
        )

    def known(self, digest: str) -> Chunk | None:
        """A chunk that is stored already, with all that is needed to read it."""
        chunk = self._reuse.known(digest)
        if chunk is not None:
            chunks = self._reuse.links(chunk)
            places = [place for c in chunks for place in (c.at, c.summary) if place is not None]
            self._source.add(chunks, {place.oid: self._reuse.size(place.oid) for place in places})
        return chunk

    def _store(self, new: Slice, digest: str, where: Where, summary: Summary | None) -> Outcome:
        if len(new.data) < _WORTH_A_BASE:
            return dense_record(self._session.plugins.updates(DENSE), new, digest)
        nearest = itertools.islice(self._relatives.of(new, digest, where, summary), 1)
        chooser = self._choosers[self._is_scattered(where.name)]
        return chooser.store(new, digest, nearest, where.name)

    def _is_scattered(self, name: str) -> bool:
        """Whether the models' own changes of a tensor follow no rule: then a merge's do not either.

        To look for a rule, such as a low rank, takes longer than to write the change down.
        """
        tensors = [manifest.tensors.get(name) for manifest in self._manifests]
        return all(
            tensor is not None and all(chunk.kind in _SCATTERED for chunk in tensor.segment.chunks)
            for tensor in tensors
        )

    def _choosing(self, choice: Choice) -> Chooser:
        loaded = ((name, self._update(name)) for name in registry.names("updates"))
        updates = {name: update for name, update in loaded if update is not None}
        memory = self._session.settings.memory
        return Chooser(updates, choice, memory=memory, tell=self._tell)

    def _tell(self, said: str) -> None:
        if said not in self._told:
            self._told.add(said)
            say("merge", said)

    def _update(self, name: str) -> Any | None:
        try:
            return self._session.plugins.updates(name)
        except PluginError:
            return None
