"""Removes what `git status` stored and no commit ever named.

Cleaning a changed file stores it, since its manifest needs the names of its objects; but Git asks
for that on every status, and drops the answer. The catalog remembers which objects were written
for which manifest blob. Once they are older than the grace period and Git has none of the blobs,
they go. Anything the catalog does not know of is left alone.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from contextlib import suppress

from git_theta.repo.catalog import Catalog
from git_theta.repo.gitrepo import Repo
from git_theta.repo.objects import Store


def blob_id(repo: Repo, text: bytes) -> str:
    """The name that Git gives to a blob with these bytes in this repository."""
    kind = repo.config.get("extensions.objectformat", "sha1")
    return hashlib.new(kind, b"blob %d\0" % len(text) + text).hexdigest()


def collect(repo: Repo, store: Store, catalog: Catalog, grace: int) -> int:
    """Remove loose objects older than `grace` seconds; returns the bytes freed.

    Does nothing while another process holds the store.
    """
    before = time.time() - grace
    if not catalog.loose(before) and not store.has_temporary():
        return 0
    with store.alone(wait=False) as ours:
        if not ours:
            return 0
        # Looked at under the lock: who added what is loose may have ended meanwhile, and named it.
        loose = catalog.loose(before)
        known = repo.has_objects({blob for blobs in loose.values() for blob in blobs if blob})
        claimed = {oid for oid, blobs in loose.items() if blobs & known}
        catalog.drop_loose(claimed)
        return _remove(store, catalog, loose.keys() - claimed, before)


def _remove(store: Store, catalog: Catalog, oids: Iterable[str], before: float) -> int:
    """Remove objects whose times, looked at under the lock, are still old."""
    freed, gone = 0, []
    for oid in oids:
        path = store.path(oid)
        with suppress(FileNotFoundError):
            stat = path.stat()
            if stat.st_mtime > before:
                continue
            path.unlink()
            freed += stat.st_size
        gone.append(oid)
    catalog.drop_objects(gone)
    catalog.drop_loose(gone)
    store.sweep_temporary()
    return freed
