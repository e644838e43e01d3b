"""Objects of repositories on this machine, taken without Git LFS: by hard link, else by copy.

A remote that is a directory holds them where `git lfs push` put them, or in a store of its own,
being somebody's working repository.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from git_theta.repo.gitrepo import Repo
from git_theta.repo.objects import Store, object_path, store_failed
from git_theta.repo.shadow import absolute_path


class Neighbour:
    """Media directories to take objects from."""

    def __init__(self, media: Sequence[Path]) -> None:
        self.media = tuple(media)

    @classmethod
    def at(cls, common_dir: Path) -> Neighbour:
        """Those of a repository: of Git LFS, of its own store, and of what that borrows from."""
        store = Store.of(common_dir)
        return cls([common_dir / "lfs" / "objects", store.media, *store.alternates])

    def find(self, oid: str, size: int) -> Path | None:
        """The file of an object that has the right size, or None."""
        for media in self.media:
            path = object_path(media, oid)
            with suppress(OSError):
                if path.stat().st_size == size:
                    return path
        return None

    def has(self, oid: str, size: int) -> bool:
        """Whether an object is there."""
        return self.find(oid, size) is not None

    def lend(self, store: Store, wanted: Mapping[str, int]) -> dict[str, int]:
        """Bring objects into a store; returns those that are not to be had here."""
        lacking = {}
        for oid, size in wanted.items():
            source = self.find(oid, size)
            if source is None or not _bring(store, source, oid, size):
                lacking[oid] = size
        return lacking


def directory_of(repo: Repo, remote: str, *, push: bool = False) -> Path | None:
    """The common Git directory of a remote that is a path or a file:// URL, or None."""
    url = remote
    if is_named(repo, remote):
        asked = ("remote", "get-url", "--push") if push else ("ls-remote", "--get-url")
        url = repo.text(*asked, remote, check=False)
    if url.startswith("file://"):
        url = unquote(url.removeprefix("file://").removeprefix("localhost"))
    path = Path(absolute_path(repo, url))
    return _common_directory(path) if path.is_absolute() else None


def is_named(repo: Repo, remote: str) -> bool:
    """Whether this is the name of a configured remote, rather than a URL."""
    return any(key.startswith(f"remote.{remote}.") for key in repo.config)


def _common_directory(path: Path) -> Path | None:
    """Follow the order in which Git itself looks for a repository at a path."""
    for suffix in ("/.git", "", ".git/.git", ".git"):
        found = Path(f"{path}{suffix}")
        with suppress(OSError):
            if found.is_file():
                text = found.read_text(errors="surrogateescape")
                found = found.parent / text.removeprefix("gitdir:").strip()
            if (found / "HEAD").is_file():
                shared = found / "commondir"
                if shared.is_file():
                    found = found / shared.read_text(errors="surrogateescape").strip()
                return found.resolve()
    return None


def _bring(store: Store, source: Path, oid: str, size: int) -> bool:
    """Link or copy one object. What is stored already gives way only if it is damaged."""
    target = store.path(oid)
    store.hold()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except FileExistsError:
            if target.stat().st_size != size and not _is_sound(target, oid):
                _copy(store, source, oid)
        except OSError:  # another disk, or a system that does not allow links to others' files
            _copy(store, source, oid)
        store.freshen(oid)
        return target.stat().st_size == size
    except FileNotFoundError:
        return False  # it was taken away meanwhile
    except OSError as error:
        store_failed(error, f"object {oid[:16]} cannot be stored")


def _copy(store: Store, source: Path, oid: str) -> None:
    handle, temporary = store.temporary()
    try:
        with source.open("rb") as reader, open(handle, "wb", closefd=False) as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
        store.land(temporary, handle, oid)
    finally:
        os.close(handle)
        temporary.unlink(missing_ok=True)


def _is_sound(path: Path, oid: str) -> bool:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest() == oid
