"""A repository with a safetensors and a torch checkpoint, looked at whole at every stop."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from git_theta.core.manifest import is_manifest
from tests.checkpoints import torch_zip, weights
from tests.remote.people import Person
from tests.sandbox import encode

SAFE, TORCH = "m.safetensors", "m.pt"
PATTERNS = ("*.safetensors", "*.pt")
Content = Mapping[str, bytes]


def content(**seeds: int) -> dict[str, bytes]:
    """Both checkpoints; a tensor's numbers follow from its seed, which is 0 where none is named."""
    arrays = {
        name: weights(8, 24, seed=1000 * number + seeds.get(name, 0))
        for number, name in enumerate("abcd")
    }
    return {SAFE: encode(arrays), TORCH: torch_zip(arrays)}


class Scene(Person):
    """Somebody at work on both checkpoints."""

    _versions = 0

    def put(self, **seeds: int) -> dict[str, bytes]:
        """Write a version of both."""
        made = content(**seeds)
        self.place(made)
        return made

    def place(self, files: Content) -> None:
        """Write files into the work tree."""
        # Older than any index, so that Git need not look into it again once it is added, and
        # a second of its own for each version, since that is all that some Gits look at.
        self._versions += 10
        past = time.time() - 10_000 + self._versions
        for name, data in files.items():
            (self.work / name).parent.mkdir(parents=True, exist_ok=True)
            (self.work / name).write_bytes(data)
            os.utime(self.work / name, (past, past))

    def keep(self, message: str = "a version", **seeds: int) -> dict[str, bytes]:
        """Write a version of both and commit everything."""
        made = self.put(**seeds)
        self.commit(message)
        return made

    def files(self, want: Content, *, at: Path | None = None) -> None:
        """The files in the work tree are these, byte for byte."""
        for name, data in want.items():
            found = ((at or self.work) / name).read_bytes()
            told = "a manifest" if is_manifest(found) else f"{len(found)} other bytes"
            assert found == data, f"{name} is {told}"

    def at(self, want: Content, *, status: str = "", at: Path | None = None) -> None:
        """The files are these, and `git status` says just this about the tree."""
        self.files(want, at=at)
        assert self.git("status", "--porcelain", cwd=at) == status

    def holds_manifests(self, rev: str = "HEAD", *, cwd: Path | None = None) -> None:
        """What Git keeps of both checkpoints at a revision is a manifest."""
        for name in (SAFE, TORCH):
            text = self.git("cat-file", "blob", f"{rev}:{name}", cwd=cwd)
            assert is_manifest(text.encode()), f"{rev}:{name}"

    def sees(self, host: Path | str, wanted: Mapping[str, Content]) -> None:
        """Clone, or fetch again; each revision checks out to just these files."""
        if self.work.exists():
            self.git("fetch", "-q", "--prune", "--tags", "--force", "origin")
        else:
            self.clone(host, "-c", "advice.detachedHead=false")
        for rev, want in wanted.items():
            self.git("checkout", "-q", "--detach", rev)
            self.at(want)
