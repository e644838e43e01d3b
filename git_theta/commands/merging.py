"""Manifests merged: several in, one out, and an account of what was done.

What no side changed, or one side alone, is taken as it is stored and never read. Only what a
strategy has to settle is read, merged and stored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from git_theta import __version__
from git_theta.commands.clean import plugins_needed
from git_theta.commands.reading import Source
from git_theta.commands.session import Session
from git_theta.commands.strategies import Chooser, strategy_needs
from git_theta.core import skeleton as skeletons
from git_theta.core.assembly import Assembled, Version, assemble
from git_theta.core.clean import OPAQUE, Tools
from git_theta.core.compact import with_objects
from git_theta.core.identity import identity
from git_theta.core.manifest import CHUNK, Chunk, Manifest, Segment, Tensor, dump
from git_theta.core.merging import Step, plan, segments_read, units
from git_theta.core.recipe import Input, Instructions, Recipe
from git_theta.core.storing import Fresh, Pending, encode, store_bytes
from git_theta.errors import MergeError
from git_theta.repo.collect import blob_id
from git_theta.repo.objects import PackWriter, Spot
from git_theta.repo.reuse import Candidates, Reuse

if TYPE_CHECKING:
    from git_theta.commands.computing import Context, Task


@dataclass(frozen=True, kw_only=True)
class Side:
    """One version that goes into a merge.

    `statistics` has its side-cars by kind; those that a strategy needs and that are not given are
    looked for at `place`, a revision and the path of the model in it.
    """

    manifest: Manifest
    label: str
    text: bytes = b""
    place: tuple[str, str] | None = None
    statistics: Mapping[str, Manifest] = field(default_factory=dict)


@dataclass(kw_only=True)
class Outcome:
    """What came of a merge. With conflicts there is no `text`.

    `read` counts plain bytes that were decoded, `stored` bytes that were added to the store.
    """

    steps: list[Step]
    conflicts: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    text: bytes | None = None
    manifest: Manifest | None = None
    recipe: Recipe | None = None
    read: int = 0
    stored: int = 0


def merge_manifests(
    session: Session,
    base: Side | None,
    models: Sequence[Side],
    instructions: Instructions,
) -> Outcome:
    """Merge models that came of one ancestor (None: they have none).

    Raises:
        MergeError: the files as wholes cannot be merged.
        UsageError: a strategy is not what the instructions take it for.
        MissingError: objects that must be read are nowhere.
    """
    _refuse_unlike(base, models)
    models = [_with_statistics(session, model, instructions) for model in models]
    outcome = plan_merge(base, models, instructions)
    if not outcome.conflicts:
        Merger(session, base, models, instructions, outcome).run()
    return outcome


def _with_statistics(session: Session, side: Side, instructions: Instructions) -> Side:
    """A version with the side-cars that the strategies need, as far as they are known of."""
    kinds = {kind for rule in instructions.rules for kind in strategy_needs(rule).statistics}
    found = dict(side.statistics)
    read = (session.store.read, session.plugins.updates)
    for kind in sorted(kinds - found.keys()):
        if side.place is not None:
            from git_theta.repo.sidecars import require_sidecar

            beside = require_sidecar(session.repo, side.place, kind, side.manifest, read)
            found[kind] = beside.manifest
    return replace(side, statistics=found)


def plan_merge(base: Side | None, models: Sequence[Side], instructions: Instructions) -> Outcome:
    """What a merge would do, without reading a tensor."""
    found = units(base.manifest if base else None, [model.manifest for model in models])
    choose = Chooser(instructions, [name for unit in found for name in unit.names])
    _refuse_needs(instructions, base, models)
    everything = instructions.scope == "all"
    steps = plan(found, choose, everything=everything, mismatch=instructions.mismatch)
    outcome = Outcome(steps=steps)
    outcome.conflicts = [step for step in steps if step.action == "conflict"]
    outcome.notes = [f"{step.unit.name}: {step.note}" for step in steps if step.note]
    return outcome


def _refuse_unlike(base: Side | None, models: Sequence[Side]) -> None:
    formats = sorted({side.manifest.format for side in (*models, *([base] if base else []))})
    if len(formats) > 1:
        raise MergeError(f"the versions are of different formats: {', '.join(formats)}")
    if formats[0] == OPAQUE:
        raise MergeError("the file is kept as a whole: no tensors of it are known")


def _refuse_needs(instructions: Instructions, base: Side | None, models: Sequence[Side]) -> None:
    """Say what a strategy lacks before anything is read."""
    for rule in instructions.rules:
        needs = strategy_needs(rule)
        least, most = needs.models
        number = len(models)
        if number < least or (most is not None and number > most):
            wanted = f"{least}" if least == most else f"{least} to {most or 'any number of'}"
            raise MergeError(f"{rule.strategy} merges {wanted} models, not {number}")
        if needs.base == "required" and base is None:
            raise MergeError(
                f"{rule.strategy} needs a common ancestor, and there is none",
                hint="choose one that does not: git theta merge --list",
            )
        for kind in needs.statistics:
            without = [model.label for model in models if kind not in model.statistics]
            if without:
                raise MergeError(
                    f"{rule.strategy} needs {kind} statistics, which {' and '.join(without)} lacks",
                    hint=f"git theta stats {kind}, on each branch, and commit what it writes",
                )


class Merger:
    """Carries out a plan that has no conflicts."""

    def __init__(
        self,
        session: Session,
        base: Side | None,
        models: Sequence[Side],
        instructions: Instructions,
        outcome: Outcome,
    ) -> None:
        self.session, self.instructions, self.outcome = session, instructions, outcome
        self.base, self.models = base, models
        sides = [*models, *([base] if base else [])]
        manifests = [side.manifest for side in sides]
        manifests += [m for side in sides for m in side.statistics.values()]
        self.source = Source(session, manifests)
        self.results: dict[str, Segment] = {}
        self.pending: dict[str, Pending[Spot]] = {}

    def run(self) -> None:
        """Fetch, merge, store; fill in the outcome."""
        outcome, session = self.outcome, self.session
        self.source.fetch(self._needed())
        reuse = Reuse(Candidates(session.repo), session.store, session.catalog, _update(session))
        for side in self.models:
            reuse.add(side.manifest)
        announce = session.catalog.announce
        with (
            PackWriter(session.store, announce=announce) as data,
            PackWriter(session.store, announce=announce) as summaries,
        ):
            tools: Tools[Spot] = Tools(
                known=lambda digest: self._known(reuse, digest),
                data=data,
                summaries=summaries,
                update=session.plugins.updates("dense"),
                threads=session.settings.threads,
            )
            self._compute(tools)
            data.finish()
            summaries.finish()
            if outcome.conflicts:
                return
            self.results = {name: pending.segment() for name, pending in self.pending.items()}
            self._learn(data, summaries)
            assembled = self._assemble()
            outcome.recipe = self._recipe()
            skeleton = self._store(tools, skeletons.pack(assembled.skeleton))
            recipe = self._store(tools, outcome.recipe.dump())
            data.finish()
            summaries.finish()
            written = dict(data.finished + summaries.finished)
            self._conclude(assembled, skeleton.segment(), recipe.segment(), written)

    def _needed(self) -> list[Segment]:
        read = [segment for step in self.outcome.steps for segment in segments_read(step)]
        sides = [*self.models, *([self.base] if self.base else [])]
        read += [side.manifest.skeleton for side in sides]
        for side in sides:
            for manifest in side.statistics.values():
                read += [tensor.segment for tensor in manifest.tensors.values()]
        return read

    def _known(self, reuse: Reuse, digest: str) -> Chunk | None:
        """A chunk that is stored already, with all that is needed to read it."""
        chunk = reuse.known(digest)
        if chunk is not None:
            chunks = [chunk, *reuse.closure([chunk]).values()]
            places = [place for c in chunks for place in (c.at, c.summary) if place is not None]
            self.source.add(chunks, {place.oid: reuse.size(place.oid) for place in places})
        return chunk

    def _learn(self, data: PackWriter, summaries: PackWriter) -> None:
        """Make what was just stored readable: checksums are computed from it."""
        chunks = [chunk for segment in self.results.values() for chunk in segment.chunks]
        self.source.add(chunks, dict(data.finished + summaries.finished))

    # --- computing -------------------------------------------------------------------------------

    def _compute(self, tools: Tools[Spot]) -> None:
        steps = [step for step in self.outcome.steps if step.action == "merge"]
        counters = [step for step in self.outcome.steps if step.action == "largest"]
        if counters or steps:
            self.session.ensure_hooks(storing=True)
        if counters:
            self._settle_counters(counters)
        if not steps:
            return
        from git_theta.commands import computing, surveying

        context = self._context()
        gathered = surveying.survey(context, steps)
        tasks = (
            task
            for step in steps
            for task in computing.tasks(context, step, gathered.get(id(step.chosen)))
        )
        self._do(tasks, tools)
        self.outcome.read = self.source.read

    def _context(self) -> Context:
        from git_theta import compute
        from git_theta.commands.computing import Context

        compute.use_threads(1)
        kinds = {kind for side in self.models for kind in side.statistics}
        return Context(
            source=self.source,
            labels=tuple(side.label for side in self.models),
            keys=tuple(identity(side.manifest) for side in self.models),
            statistics={
                kind: tuple(side.statistics.get(kind) for side in self.models) for kind in kinds
            },
            device=compute.check_device(self.instructions.device),
            complain=self.outcome.notes.append,
        )

    def _settle_counters(self, steps: Sequence[Step]) -> None:
        from git_theta.commands.counters import largest

        for step in steps:
            present = [tensor for tensor in step.unit.models if tensor is not None]
            winner = largest(self.source, present)
            place = self.outcome.steps.index(step)
            self.outcome.steps[place] = replace(step, action="take", winner=winner)

    def _do(self, tasks: Iterator[Task], tools: Tools[Spot]) -> None:
        """Run tasks on several threads, as many at once as the memory allows; land in order."""
        budget = self.session.settings.memory
        waiting: deque[tuple[Task, Future[list[Fresh]]]] = deque()
        spent = 0
        pool = ThreadPoolExecutor(tools.threads)
        try:
            for task in tasks:
                while waiting and (spent + task.cost > budget or len(waiting) > tools.threads):
                    spent -= self._land(waiting, tools)
                spent += task.cost
                waiting.append((task, pool.submit(_work, task, tools)))
            while waiting:
                self._land(waiting, tools)
        finally:
            pool.shutdown(cancel_futures=True)

    def _land(self, waiting: deque[tuple[Task, Future[list[Fresh]]]], tools: Tools[Spot]) -> int:
        task, future = waiting.popleft()
        name = task.step.unit.name
        try:
            made = future.result()
        except MergeError as error:
            if all(step.unit.name != name for step in self.outcome.conflicts):
                failed = replace(task.step, action="conflict", reason=str(error))
                self.outcome.conflicts.append(failed)
            return task.cost
        pending = self.pending.setdefault(name, Pending(tools))
        for fresh in made:
            pending.append(fresh)
        return task.cost

    # --- the file --------------------------------------------------------------------------------

    def _assemble(self) -> Assembled:
        merged: dict[str, Tensor] = {}
        for step in self.outcome.steps:
            merged |= self._tensors(step)
        plugin = self.session.plugins.formats(self.models[0].manifest.format)
        base = self._version(self.base, plugin) if self.base else None
        models = [self._version(side, plugin) for side in self.models]
        assembled = assemble(plugin, base, models, merged, self.source.bytes_of)
        self.outcome.notes += assembled.notes
        return assembled

    def _version(self, side: Side, plugin: Any) -> Version:
        plain = self.source.whole(side.manifest.skeleton).tobytes()
        return Version.of(side.manifest, plain, self.source.bytes_of, plugin)

    def _tensors(self, step: Step) -> dict[str, Tensor]:
        """What a step gives: tensors by name, none where they were deleted."""
        names = step.unit.names
        if step.action == "take":
            side = self.base if step.winner < 0 else self.models[step.winner]
            tensors = {} if side is None else side.manifest.tensors
            return {name: tensors[name] for name in names if name in tensors}
        like = (self.base or self.models[0]).manifest.tensors
        if names[0] not in like:
            like = self.models[0].manifest.tensors
        segment = self.results[step.unit.name]
        if len(names) == 1 and step.unit.models[0] is not None:
            tensor = like[names[0]]
            if tensor.segment.size == segment.size and tensor.shape == step.shape:
                return {names[0]: tensor._replace(segment=segment)}
            return {names[0]: Tensor(step.dtype, step.shape, segment)}
        return {name: like[name]._replace(segment=segment) for name in names}

    def _store(self, tools: Tools[Spot], plain: bytes) -> Pending[Spot]:
        view = np.frombuffer(plain, np.uint8)
        return store_bytes(tools, [view[i : i + CHUNK] for i in range(0, len(view), CHUNK)])

    def _recipe(self) -> Recipe:
        used = {s.chosen.strategy.name: s.chosen.strategy.version
                for s in self.outcome.steps if s.chosen is not None}  # fmt: skip
        return Recipe(
            instructions=self.instructions,
            versions=used,
            base=_input(self.base) if self.base else None,
            models=tuple(map(_input, self.models)),
            made_with={"git-theta": __version__},
        )

    def _conclude(
        self, assembled: Assembled, skeleton: Segment, recipe: Segment, written: dict[str, int]
    ) -> None:
        manifest = Manifest(
            format=self.models[0].manifest.format,
            size=assembled.size,
            digest="",
            skeleton=skeleton,
            tensors=assembled.tensors,
            segments={segment.digest: segment for segment in assembled.shared},
            recipe=recipe,
        )
        for side in self.models:
            if side.text and identity(side.manifest) == identity(manifest):
                self.outcome.text, self.outcome.manifest = side.text, side.manifest
                return
        manifest = self._complete(manifest, written)
        text = dump(manifest)
        session = self.session
        session.catalog.keep_proven(c for c in manifest.all_chunks() if c.at.oid in written)
        session.catalog.claim(manifest.objects, blob_id(session.repo, text))
        self.outcome.stored = sum(written.values())
        self.outcome.text, self.outcome.manifest = text, manifest

    def _complete(self, manifest: Manifest, written: dict[str, int]) -> Manifest:
        """Bases, plug-ins and the table of objects."""
        own = list(manifest.all_chunks())
        here = {chunk.digest for chunk in own}
        bases = {d: c for d, c in self.source.closure(own).items() if d not in here}
        manifest = replace(manifest, bases=bases)
        manifest = replace(manifest, plugins=plugins_needed(manifest))
        self.source.add([], written)
        oids = {chunk.at.oid for chunk in manifest.all_chunks()}
        oids |= {c.summary.oid for c in manifest.all_chunks() if c.summary is not None}
        return with_objects(manifest, {oid: self.source.size(oid) for oid in oids})


def _work(task: Task, tools: Tools[Spot]) -> list[Fresh]:
    return [encode(tools, plain, task.step.dtype) for plain in task.work()]


def _update(session: Session) -> Any:
    return session.plugins.updates


def _input(side: Side) -> Input:
    return Input(
        label=side.label,
        identity=identity(side.manifest),
        statistics={kind: identity(m) for kind, m in sorted(side.statistics.items())},
    )
