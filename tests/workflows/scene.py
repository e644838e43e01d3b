"""A repository with a safetensors and a torch checkpoint, looked at whole at every stop."""

from __future__ import annotations

import json
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


# The versions that are stored in the repository everybody starts from, one add for all of them.
STORED = [
    {},
    *({"a": number} for number in (1, 2, 3, 4, 5)),
    {"b": 1}, {"b": 2}, {"c": 1}, {"d": 1},
    {"a": 1, "b": 1}, {"a": 1, "c": 1}, {"a": 2, "b": 1}, {"a": 2, "c": 1},
    {"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 1, "d": 1}, {"a": 2, "b": 1, "c": 1},
    {"a": 1, "b": 1, "c": 1, "d": 1},
]  # fmt: skip


def _key(seeds: Mapping[str, int]) -> str:
    return " ".join(f"{name}{number}" for name, number in sorted(seeds.items()) if number)


def store_versions(person: Scene) -> None:
    """Store them, and note the blobs of their manifests; nothing is committed."""
    for number, seeds in enumerate(STORED):
        person.place({f"{number}/{name}": data for name, data in content(**seeds).items()})
    person.git("add", ".")
    staged = person.git("ls-files", "-s", "*/m.*").splitlines()
    start = person.git("rev-parse", "HEAD").strip()
    found: dict[str, dict[str, str]] = {"start": {"commit": start}}
    for line in staged:
        place, name = line.split("\t")[1].split("/")
        found.setdefault(_key(STORED[int(place)]), {})[name] = line.split()[1]
    (person.work / ".git" / "stored.json").write_text(json.dumps(found))
    person.git("reset", "-q", "--hard")
    person.git("clean", "-q", "-d", "-f")


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

    def grow(self, branch: str, *parents: str, message: str = "", **seeds: int) -> dict[str, bytes]:
        """Commit a version that was stored before, on a branch, without touching the work tree.

        Without parents the branch itself is the parent, or the first commit where it is new.
        """
        stored = json.loads((self.work / ".git" / "stored.json").read_text())
        env = {"GIT_INDEX_FILE": str(self.root / "growing")}
        tips = parents or (branch if self._has(branch) else stored["start"]["commit"],)
        self.git("read-tree", tips[0], env=env)
        for name, blob in stored[_key(seeds)].items():
            self.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{name}", env=env)
        tree = self.git("write-tree", env=env).strip()
        above = [word for tip in tips for word in ("-p", tip)]
        commit = self.git("commit-tree", tree, *above, "-m", message or branch).strip()
        self.git("update-ref", f"refs/heads/{branch}", commit)
        return content(**seeds)

    def _has(self, branch: str) -> bool:
        found = self.run("git", "rev-parse", "-q", "--verify", f"refs/heads/{branch}", code=None)
        return found.returncode == 0

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
            self.files(want)
        assert self.git("status", "--porcelain") == ""
