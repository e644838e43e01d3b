"""What this repository has seen and proven: a cache in SQLite that may be deleted at any time.

It maps the digest of a file to the manifest first written for it, and the digest of a chunk to a
record that was written or decoded here. Busy, damaged or on a disk that SQLite cannot lock, we
work without it: every method then finds nothing and keeps nothing.
"""

from __future__ import annotations

import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from git_theta.core.manifest import Chunk, Place

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (digest TEXT PRIMARY KEY, written REAL, manifest BLOB);
CREATE TABLE IF NOT EXISTS chunks (
  digest TEXT, oid TEXT, start INTEGER, length INTEGER, size INTEGER, kind TEXT, base TEXT,
  PRIMARY KEY (digest, oid, start)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS loose (
  oid TEXT, blob TEXT, written REAL, PRIMARY KEY (oid, blob)
) WITHOUT ROWID;
"""
_VERSION = 1
_TOGETHER = 500

T = TypeVar("T")


class KnownFile(NamedTuple):
    """A manifest written before, the digest of its file, and when that was (Unix time)."""

    digest: str
    manifest: bytes
    written: float


class Catalog:
    """The cache of one repository, shared by its worktrees. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._guard = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._opened = False
        self._bare: bool | None = None

    def manifest(self, digest: str) -> KnownFile | None:
        """The manifest first written for a file with this digest."""
        rows = self._rows("SELECT manifest, written FROM files WHERE digest = ?", (digest,))
        for packed, written in rows:
            with suppress(zlib.error):
                return KnownFile(digest, zlib.decompress(packed), written)
        return None

    def keep_manifest(self, digest: str, text: bytes, *, replace: bool = False) -> None:
        """Remember a manifest; the first one stays unless `replace` is true."""
        verb = "REPLACE" if replace else "IGNORE"
        row = (digest, time.time(), zlib.compress(text, 1))
        self._write(f"INSERT OR {verb} INTO files VALUES (?, ?, ?)", [row])  # noqa: S608

    def manifests(self) -> Iterator[KnownFile]:
        """All manifests that were written here, whether anything names them or not."""
        for digest, packed, written in self._rows(
            "SELECT digest, manifest, written FROM files", ()
        ):
            with suppress(zlib.error):
                yield KnownFile(digest, zlib.decompress(packed), written)

    def places(self) -> list[tuple[str, str, int]]:
        """Where all known records lie: (digest of the chunk, object, offset)."""
        return [(d, o, s) for d, o, s in self._rows("SELECT digest, oid, start FROM chunks", ())]

    def proven(self, digest: str) -> list[Chunk]:
        """Records of a chunk that this repository wrote or has decoded, sealed."""
        return self.proven_of([digest])[digest]

    def proven_of(self, digests: Sequence[str]) -> dict[str, list[Chunk]]:
        """What `proven` finds for each of many chunks."""
        found: dict[str, list[Chunk]] = {digest: [] for digest in digests}
        if self._is_bare():
            return found
        for start in range(0, len(digests), _TOGETHER):
            some = tuple(digests[start : start + _TOGETHER])
            marks = ",".join("?" * len(some))
            columns = "digest, size, kind, oid, start, length, base"
            asked = f"SELECT {columns} FROM chunks WHERE digest IN ({marks})"  # noqa: S608
            for digest, size, kind, oid, at, length, base in self._rows(asked, some):
                chunk = Chunk(digest, size, kind, Place(oid, at, length), base)
                found.setdefault(digest, []).append(chunk)  # a damaged table may say any digest
        return found

    def _is_bare(self) -> bool:
        """Whether no chunk was known when that was first asked; saves a question a tensor."""
        if self._bare is None:
            self._bare = not self._rows("SELECT 1 FROM chunks LIMIT 1", ())
        return self._bare

    def keep_proven(self, chunks: Iterable[Chunk]) -> None:
        """Remember records that were written or decoded here, `sealed` with their chains."""
        rows = [(c.digest, *c.at, c.size, c.kind, c.base) for c in chunks]
        rows.sort(key=itemgetter(0))  # many are in the table's order far sooner than in any other
        self._bare = None
        self._write("INSERT OR IGNORE INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def announce(self, oid: str) -> None:
        """Remember an object that is about to land and that no manifest names yet."""
        self._write("INSERT OR REPLACE INTO loose VALUES (?, '', ?)", [(oid, time.time())])

    def claim(self, oids: Iterable[str], blob: str) -> None:
        """Remember the manifest blob that names objects, for those of them that are loose.

        Others are left alone: commits may name them that nobody asks about when these are
        collected.
        """
        now = time.time()
        self._write(
            "INSERT OR REPLACE INTO loose SELECT ?, ?, ? "
            "WHERE EXISTS (SELECT 1 FROM loose WHERE oid = ?)",
            [(oid, blob, now, oid) for oid in oids],
        )

    def loose(self, before: float) -> dict[str, set[str]]:
        """Objects loose since before a time, with the manifest blobs that would name them."""
        found: dict[str, set[str]] = {}
        rows = self._rows(
            "SELECT oid, blob FROM loose WHERE oid NOT IN "
            "(SELECT oid FROM loose WHERE written >= ?)",
            (before,),
        )
        for oid, blob in rows:
            found.setdefault(oid, set()).add(blob)
        return found

    def drop_loose(self, oids: Iterable[str]) -> None:
        """Forget that objects are loose: they are gone, or a manifest in Git names them."""
        self._write("DELETE FROM loose WHERE oid = ?", [(oid,) for oid in oids])

    def drop_objects(self, oids: Iterable[str]) -> None:
        """Forget records of objects that are gone."""
        self._write("DELETE FROM chunks WHERE oid = ?", [(oid,) for oid in oids])

    def drop_manifests(self, of: Collection[str]) -> None:
        """Forget the manifests of files with these digests."""
        self._write("DELETE FROM files WHERE digest = ?", [(digest,) for digest in of])

    def clear(self) -> None:
        """Forget everything."""
        for table in ("files", "chunks", "loose"):
            self._write(f"DELETE FROM {table}", [()])  # noqa: S608

    def close(self) -> None:
        """Close the file."""
        with self._guard:
            if self._db is not None:
                self._db.close()
                self._db = None
            self._opened = False

    def _rows(self, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        return self._with(lambda db: db.execute(statement, values).fetchall(), [])

    def _write(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        def work(db: sqlite3.Connection) -> None:
            with db:
                db.executemany(statement, rows)

        if rows:
            self._with(work, None)

    def _with(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        with self._guard:
            try:
                db = self._open()
                return otherwise if db is None else work(db)
            except sqlite3.OperationalError:
                # Busy, read only, or on a disk that cannot lock: one wait is enough for a process.
                with suppress(sqlite3.Error):
                    if self._db is not None:
                        self._db.execute("PRAGMA busy_timeout = 0")
                return otherwise
            except (sqlite3.DatabaseError, UnicodeDecodeError):  # what it says may be damaged, too
                self._start_again()
                return otherwise

    def _open(self) -> sqlite3.Connection | None:
        if not self._opened:
            self._opened = True
            if not self.path.parent.is_dir():
                self._opened = False
                return None
            db = sqlite3.connect(self.path, timeout=2, check_same_thread=False)
            try:
                usable = _prepare(db)
            except (sqlite3.Error, UnicodeDecodeError):
                db.close()
                raise
            if usable:
                self._db = db
            else:
                db.close()
        return self._db

    def _start_again(self) -> None:
        """A damaged file is worth nothing: remove it, and work without until the next run."""
        if self._db is not None:
            self._db.close()
            self._db = None
        with suppress(OSError):
            self.path.unlink()


def _prepare(db: sqlite3.Connection) -> bool:
    """Make the tables where they are not there; false for a catalog of another version."""
    db.execute("PRAGMA synchronous = OFF")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == 0:
        db.executescript(_SCHEMA + f"PRAGMA user_version = {_VERSION};")
    return version in (0, _VERSION)
