"""`git theta du`: what the files cost in storage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click

from git_theta.commands.options import JSON_OPTION
from git_theta.commands.terminal import (
    count,
    note,
    say,
    say_json,
    say_painted,
    say_table,
    size_text,
)
from git_theta.core.manifest import Chunk, Manifest, Place
from git_theta.errors import ManifestError
from git_theta.repo.closure import manifests_among
from git_theta.repo.gitrepo import Repo
from git_theta.repo.objects import Store
from git_theta.repo.tracked import (
    every_manifest,
    history,
    parse_at,
    read_or_error,
    staged_blobs,
    tree_blobs,
)


@click.command()
@click.argument("rev", required=False)
@click.option("--commits", is_flag=True, help="Show what each commit up to REV (HEAD) added.")
@JSON_OPTION
def command(rev: str | None, commits: bool, as_json: bool) -> None:
    """Show what the files in the index, or in the revision REV, cost in storage.

    STORED counts the records that a file needs; OWN those of them that no other listed file
    needs. The store holds the objects of all versions that were added or fetched here; UNNAMED
    are those that no manifest of this repository names.

    With --commits, STORED counts the records that a commit is the first to need, SIZE the bytes
    of the files that it brought.
    """
    repo = Repo.find()
    if commits:
        rows = list(_commits(repo, rev or "HEAD"))
        if as_json:
            say_json({"rev": rev or "HEAD", "commits": rows})
        else:
            _print_commits(rows)
        return
    blobs = staged_blobs(repo) if rev is None else tree_blobs(repo, rev)
    manifests = {b.path: parse_at(b.path, b.text) for b in blobs if b.text is not None}
    report = _report(repo, manifests)
    if as_json:
        say_json({"rev": rev, **report})
    else:
        _print(report)


def _report(repo: Repo, manifests: dict[str, Manifest]) -> dict[str, Any]:
    needed = {path: {chunk.at for chunk in m.all_chunks()} for path, m in manifests.items()}
    users = Counter(place for places in needed.values() for place in places)
    return {
        "files": [
            {
                "path": path,
                "size": manifest.size,
                "stored": _sum(needed[path]),
                "own": _sum({place for place in needed[path] if users[place] == 1}),
                "kinds": _kinds(manifest.all_chunks()),
            }
            for path, manifest in sorted(manifests.items())
        ],
        "kinds": _kinds(chunk for m in manifests.values() for chunk in m.all_chunks()),
        "size": sum(manifest.size for manifest in manifests.values()),
        "stored": _sum(set(users)),
        "store": _store(repo),
    }


def _kinds(chunks: Iterable[Chunk]) -> dict[str, int]:
    """Bytes of records by kind of update, each record counted once."""
    kinds: Counter[str] = Counter()
    for place, kind in {chunk.at: chunk.kind for chunk in chunks}.items():
        kinds[kind] += place.size
    return dict(sorted(kinds.items()))


def _commits(repo: Repo, rev: str) -> Iterator[dict[str, Any]]:
    """What each commit added, the oldest first; those that brought no checkpoint are left out."""
    seen: set[Place] = set()
    for commit in history(repo, rev):
        size, fresh = 0, []
        listed = [(blob, path) for path, blob in commit.brought]
        manifests = [parse_at(one.path, one.text) for one in manifests_among(repo, listed)]
        for manifest in manifests:
            size += manifest.size
            fresh += [chunk for chunk in manifest.all_chunks() if chunk.at not in seen]
        seen.update(chunk.at for chunk in fresh)
        if manifests:
            yield {
                "commit": commit.oid,
                "subject": commit.subject,
                "files": len(manifests),
                "size": size,
                "stored": _sum({chunk.at for chunk in fresh}),
                "kinds": _kinds(fresh),
            }


def _print_commits(rows: Sequence[dict[str, Any]]) -> None:
    table = [
        (
            row["commit"][:10],
            size_text(row["size"]),
            size_text(row["stored"]),
            _share(row["stored"], row["size"]),
            ", ".join(f"{kind} {size_text(size)}" for kind, size in row["kinds"].items()),
            row["subject"],
        )
        for row in rows
    ]
    heads = ("COMMIT", "SIZE", "STORED", "RATIO", "KINDS", "SUBJECT")
    say_table(heads, table, right=(1, 2, 3))
    size, stored = sum(row["size"] for row in rows), sum(row["stored"] for row in rows)
    total = f"{size_text(size)}, stored in {size_text(stored)} ({_share(stored, size)})"
    say_painted(f"{count(len(rows), 'commit')}: {total}", "bold")


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2f}" if whole else "-"


def _sum(places: set[Place]) -> int:
    return sum(place.size for place in places)


def _store(repo: Repo) -> dict[str, int]:
    here = {oid: stat.st_size for oid, stat in Store.of(repo.common_dir).oids()}
    named: set[str] = set()
    for blob, text in every_manifest(repo):
        read = read_or_error(f"blob {blob}", text)
        if isinstance(read, ManifestError):
            note(f"warning: {read} (git theta fsck)")
        else:
            named.update(read.objects)
    unnamed = here.keys() - named
    return {
        "objects": len(here),
        "bytes": sum(here.values()),
        "unnamed_objects": len(unnamed),
        "unnamed_bytes": sum(here[oid] for oid in unnamed),
    }


def _print(report: dict[str, Any]) -> None:
    rows = [
        (size_text(f["size"]), size_text(f["stored"]), size_text(f["own"]), f["path"])
        for f in report["files"]
    ]
    say_table(("SIZE", "STORED", "OWN", "PATH"), rows, right=(0, 1, 2))
    share = _share(report["stored"], report["size"])
    total = f"{size_text(report['size'])}, stored in {size_text(report['stored'])} ({share})"
    say_painted(f"{count(len(rows), 'file')}: {total}", "bold")
    for kind, size in report["kinds"].items():
        say(f"  {kind}: {size_text(size)}")
    store = report["store"]
    say(f"Store: {count(store['objects'], 'object')}, {size_text(store['bytes'])}")
    if store["unnamed_objects"]:
        lost = count(store["unnamed_objects"], "object")
        say(f"  unnamed: {lost}, {size_text(store['unnamed_bytes'])}")
