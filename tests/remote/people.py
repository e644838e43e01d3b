"""People who share repositories, each with a home and a configuration of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from git_theta.core.manifest import is_manifest
from tests.sandbox import Done, Sandbox, model

NAME = "model.safetensors"


class Person(Sandbox):
    """A sandbox with verbs for sharing a model."""

    @property
    def file(self) -> Path:
        """The model in the work tree."""
        return self.work / NAME

    def write(self, number: int, name: str = NAME) -> bytes:
        """Write a version of a model: one of its four tensors differs from that of the others."""
        rng = np.random.default_rng(number)
        changed = {f"layer.{number % 4}.weight": rng.normal(size=(40, 50)).astype("<f4")}
        return model(self.work / name, changed if number else None)

    def save(self, number: int, name: str = NAME) -> bytes:
        """Write a version and commit it."""
        data = self.write(number, name)
        self.commit(f"version {number}")
        return data

    def push(self, *words: str | Path, **options: Any) -> Done:
        """Run git push."""
        return self.run("git", "push", *(words or ("origin", "HEAD")), **options)

    def clone(self, source: str | Path, *words: str, **options: Any) -> Done:
        """Clone into the work tree's place."""
        return self.run("git", *words, "clone", source, self.work, cwd=self.root, **options)

    def history(self, name: str = NAME) -> list[bytes]:
        """The model as it was in each commit of HEAD, the oldest first."""
        versions = []
        for commit in self.git("rev-list", "--reverse", "HEAD", "--", name).split():
            target = self.root / "exported"
            self.theta("export", f"{commit}:{name}", "-o", target, "--force")
            versions.append(target.read_bytes())
        return versions

    def is_left(self, name: str = NAME) -> bool:
        """Whether the file in the work tree is still a manifest."""
        return is_manifest((self.work / name).read_bytes())


def lfs_objects(repository: Path) -> list[Path]:
    """The objects that Git LFS put into a bare repository."""
    return sorted(p for p in (repository / "lfs" / "objects").rglob("*") if p.is_file())
