"""Files kept and given back by the core alone, with a real object store and no Git."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from git_theta.core.checkpoint import Plugins, rebuild
from git_theta.core.clean import OPAQUE, Cleaner, Tools
from git_theta.core.compact import with_objects
from git_theta.core.feeds import ChunkFeed, Feed, LayoutFeed
from git_theta.core.layout import Layout
from git_theta.core.manifest import Chunk, Manifest, dump, parse
from git_theta.core.splitting import BytesSource
from git_theta.core.units import plan
from git_theta.repo.objects import PackWriter, Spot, Store
from git_theta.updates.dense import DenseUpdate


def _no_format(name: str) -> None:
    raise AssertionError(f"nothing here was made by a format, nor by {name}")


PLUGINS = Plugins(updates=lambda _: DenseUpdate(), formats=_no_format)


@dataclass
class Keeper:
    """A store, and what was kept in it: every chunk of every manifest may be used again."""

    root: Path
    known: dict[str, Chunk] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    written: int = 0

    def __post_init__(self) -> None:
        self.store = Store(self.root)

    def keep(self, data: bytes, layout: Layout | None = None) -> Manifest:
        """Keep a file, along a layout or as opaque chunks."""
        source = BytesSource([data])
        feed: Feed = ChunkFeed(source) if layout is None else LayoutFeed(source, *plan(layout))
        with PackWriter(self.store) as packs, PackWriter(self.store) as summaries:
            tools: Tools[Spot] = Tools(
                known=self.known.get, data=packs, summaries=summaries, update=DenseUpdate()
            )
            cleaner = Cleaner(tools)
            cleaner.read(feed)
            whole = layout is not None and not feed.truncated
            views = layout.tensors if layout is not None and whole else ()
            manifest = cleaner.manifest("test" if whole else OPAQUE, views)
            finished = dict(packs.finished + summaries.finished)
        self.written = sum(finished.values())
        self.sizes |= finished
        self.known |= {chunk.digest: chunk for chunk in manifest.all_chunks()}
        manifest = with_objects(manifest, self.sizes)
        text = dump(manifest)
        parsed = parse(text)
        if dump(parsed) != text or parsed != manifest:
            raise AssertionError("a manifest reads as something else than was written")
        return parsed

    def give(self, manifest: Manifest) -> bytes:
        """The file again."""
        pieces = rebuild(manifest, self.store.read, PLUGINS)
        return b"".join(bytes(piece) for piece in pieces)

    def returns(self, files: Sequence[bytes], layout: Layout | None = None) -> bool:
        """Keep files and compare what comes back."""
        return all(self.give(self.keep(data, layout)) == data for data in files)
