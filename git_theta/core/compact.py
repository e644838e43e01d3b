"""When a version uses little of the objects it names: which of them to write anew.

A clone of a branch's tip fetches whole objects. What it fetches stays within `SLACK` times what
it uses, by storing anew the records of the objects it uses least.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from git_theta.core.manifest import Chunk, Manifest, Place, Segment

SLACK = 1.5


def places(manifest: Manifest) -> Iterator[Place]:
    """Every record that the manifest names."""
    for chunk in manifest.all_chunks():
        yield chunk.at
        if chunk.summary is not None:
            yield chunk.summary


def with_objects(manifest: Manifest, sizes: Mapping[str, int]) -> Manifest:
    """Fill the object table: the objects that records lie in, with their sizes."""
    named = {place.oid for place in places(manifest)}
    return manifest._replace(objects={oid: sizes[oid] for oid in sorted(named)})


def wasteful(manifest: Manifest, elsewhere: Collection[str] = ()) -> set[str]:
    """Objects of which less than half is used, as many as must go to keep within `SLACK`.

    Objects that other files of the same version name, `elsewhere`, are fetched anyway and cost
    nothing here.
    """
    used: dict[str, int] = {}
    for place in set(places(manifest)):
        if place.oid not in elsewhere:
            used[place.oid] = used.get(place.oid, 0) + place.size
    total, needed = sum(manifest.objects[oid] for oid in used), sum(used.values())
    worst = sorted(used, key=lambda oid: (used[oid] / manifest.objects[oid], oid))
    chosen: set[str] = set()
    for oid in worst:
        if total <= SLACK * needed or used[oid] * 2 >= manifest.objects[oid]:
            break
        chosen.add(oid)
        total -= manifest.objects[oid] - used[oid]
    return chosen


def moved(manifest: Manifest, where: Mapping[Place, Place]) -> Manifest:
    """The same manifest with some records at other places; the object table is unchanged."""

    def chunk_in(chunk: Chunk) -> Chunk:
        summary = chunk.summary
        if summary is not None:
            summary = where.get(summary, summary)
        return chunk._replace(at=where.get(chunk.at, chunk.at), summary=summary)

    def segment_in(segment: Segment) -> Segment:
        return segment._replace(chunks=tuple(map(chunk_in, segment.chunks)))

    segments = {digest: segment_in(segment) for digest, segment in manifest.segments.items()}
    return manifest._replace(
        skeleton=segment_in(manifest.skeleton),
        recipe=None if manifest.recipe is None else segment_in(manifest.recipe),
        segments=segments,
        bases={digest: chunk_in(chunk) for digest, chunk in manifest.bases.items()},
        tensors={
            name: tensor._replace(
                segment=segments[tensor.segment.digest]
                if tensor.shared
                else segment_in(tensor.segment)
            )
            for name, tensor in manifest.tensors.items()
        },
    )
