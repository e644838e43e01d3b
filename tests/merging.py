"""Merges without branches: files kept and merged in one process, in a real repository."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from git_theta.commands.clean import clean
from git_theta.commands.merging import Outcome, Side, merge_manifests
from git_theta.commands.session import Session
from git_theta.core.checkpoint import rebuild
from git_theta.core.manifest import Manifest, parse
from git_theta.core.recipe import Instructions, Rule
from git_theta.repo.gitrepo import Repo
from git_theta.repo.streams import PlainStream

Tensors = Mapping[str, torch.Tensor]


@dataclass
class Bench:
    """A repository with nothing in it but stored files."""

    root: Path

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "init", "-q", str(self.root)], check=True)
        attributes = self.root / ".gitattributes"
        attributes.write_text("* filter=theta merge=theta -text\n")
        self.session = Session(Repo.find(self.root))
        self.session.repo.git("config", "theta.autoHooks", "true")

    def keep(self, data: bytes, name: str = "m.safetensors") -> Side:
        """Store a file."""
        path = self.root / name
        path.write_bytes(data)
        with path.open("rb") as file:
            text = clean(self.session, name, PlainStream(file.fileno()))
        return Side(manifest=parse(text), label=name, text=text)

    def model(self, tensors: Tensors, label: str = "ours", **metadata: str) -> Side:
        """Store a safetensors file."""
        data = save({n: t.contiguous().clone() for n, t in tensors.items()}, metadata or None)
        kept = self.keep(data)
        return Side(manifest=kept.manifest, label=label, text=kept.text)

    def merge(
        self, base: Side | None, *models: Side, rules: Sequence[Rule] = (), **options: Any
    ) -> Outcome:
        """Merge, with rules or (given as options) those of `Instructions`."""
        instructions = Instructions(rules=tuple(rules), **options)
        return merge_manifests(self.session, base, models, instructions)

    def average(self, base: Side | None, *models: Side, **options: Any) -> Outcome:
        return self.merge(base, *models, rules=[Rule(strategy="average")], **options)

    def file(self, manifest: Manifest | None) -> bytes:
        """The bytes of a merged file."""
        assert manifest is not None
        pieces = rebuild(manifest, self.session.store.read, self.session.plugins)
        data = b"".join(bytes(piece) for piece in pieces)
        assert len(data) == manifest.size
        return data

    def tensors(self, outcome: Outcome) -> dict[str, torch.Tensor]:
        """The tensors of a merged safetensors file."""
        assert outcome.conflicts == []
        assert outcome.text is not None
        return load(self.file(parse(outcome.text)))

    def close(self) -> None:
        self.session.close()


def same(found: Tensors, wanted: Tensors) -> bool:
    """Whether models are the same to the bit."""
    return found.keys() == wanted.keys() and all(
        found[n].dtype == wanted[n].dtype
        and found[n].shape == wanted[n].shape
        and found[n].numpy(force=True).tobytes() == wanted[n].numpy(force=True).tobytes()
        if found[n].dtype != torch.bfloat16
        else torch.equal(found[n].view(torch.int16), wanted[n].view(torch.int16))
        for n in wanted
    )
