"""Files kept and given back by the core alone, with a real object store and no Git."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from git_theta import registry
from git_theta.core.chain import Slice, links_of
from git_theta.core.checkpoint import Plugins, rebuild
from git_theta.core.choice import Choice, Chooser, Outcome
from git_theta.core.clean import OPAQUE, Cleaner, Tools
from git_theta.core.compact import with_objects
from git_theta.core.feeds import ChunkFeed, Feed, LayoutFeed
from git_theta.core.layout import Layout
from git_theta.core.manifest import Chunk, Manifest, dump, parse
from git_theta.core.relatives import Lender, Relatives, Where
from git_theta.core.sketch import Summary
from git_theta.core.splitting import BytesSource
from git_theta.core.units import plan
from git_theta.repo.objects import Store
from git_theta.repo.packs import PackWriter, Spot


def _no_format(name: str) -> None:
    raise AssertionError(f"nothing here was made by a format, nor by {name}")


PLUGINS = Plugins(updates=lambda name: registry.load("updates", name), formats=_no_format)
ALL = {
    name: registry.load("updates", name) for name in registry.names("updates") if name != "low-rank"
}


@dataclass
class Keeper:
    """A store, and what was kept in it: every chunk of every manifest may be used again."""

    root: Path
    known: dict[str, Chunk] = field(default_factory=dict)
    parents: list[Manifest] = field(default_factory=list)
    others: list[Manifest] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    choice: Choice = field(default_factory=lambda: Choice(kinds=frozenset()))
    updates: dict[str, Any] = field(default_factory=lambda: dict(ALL))
    sizes: dict[str, int] = field(default_factory=dict)
    written: int = 0
    dense: Any = field(default_factory=lambda: ALL["dense"])
    plain: bool = False

    def __post_init__(self) -> None:
        self.store = Store(self.root)

    def keep(self, data: bytes, layout: Layout | None = None) -> Manifest:
        """Keep a file, along a layout or as opaque chunks."""
        source = BytesSource([data])
        relatives = self._relatives()
        feed: Feed = ChunkFeed(source)
        if layout is not None:
            feed = LayoutFeed(source, *plan(layout, relatives.cuts))
        chooser = Chooser(self.updates, self.choice, memory=1 << 30, tell=self.told.append)

        def store(new: Slice, digest: str, where: Where, summary: Summary | None) -> Outcome:
            return chooser.store(new, digest, relatives.of(new, digest, where, summary), where.name)

        with PackWriter(self.store) as packs, PackWriter(self.store) as summaries:
            tools: Tools[Spot] = Tools(
                known=self.known.get,
                data=packs,
                summaries=summaries,
                update=self.dense,
                store=store,
                plain=lambda: self.plain,
            )
            cleaner = Cleaner(tools)
            cleaner.read(feed)
            whole = layout is not None and not feed.truncated
            views = layout.tensors if layout is not None and whole else ()
            manifest = cleaner.manifest("test" if whole else OPAQUE, views)
            finished = dict(packs.finished + summaries.finished)
        self.written = sum(finished.values())
        self.sizes |= finished
        own = {chunk.digest: chunk for chunk in manifest.all_chunks()}
        manifest = manifest._replace(bases=self._bases(own))
        self.known |= own
        manifest = with_objects(manifest, self.sizes)
        text = dump(manifest)
        parsed = parse(text)
        if dump(parsed) != text or parsed != manifest:
            raise AssertionError("a manifest reads as something else than was written")
        return parsed

    def _relatives(self) -> Relatives:
        lender = Lender(
            known=self.known.get,
            links=lambda chunk: links_of(chunk, self.known),
            chunks=self.known,
            read=self.store.read,
            updates=PLUGINS.updates,
        )
        return Relatives(lender, self.parents, lambda: self.others)

    def _bases(self, own: dict[str, Chunk]) -> dict[str, Chunk]:
        links = (link for chunk in own.values() for link in links_of(chunk, self.known | own))
        return {
            link.digest: link._replace(summary=None) for link in links if link.digest not in own
        }

    def give(self, manifest: Manifest) -> bytes:
        """The file again."""
        pieces = rebuild(manifest, self.store.read, PLUGINS)
        return b"".join(bytes(piece) for piece in pieces)

    def returns(self, files: Sequence[bytes], layout: Layout | None = None) -> bool:
        """Keep files and compare what comes back."""
        return all(self.give(self.keep(data, layout)) == data for data in files)
