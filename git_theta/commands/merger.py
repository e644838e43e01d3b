"""A planned merge carried out: tensors read, merged and stored, and the file around them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from git_theta import __version__
from git_theta.commands import warming
from git_theta.commands.drafting import Draft
from git_theta.commands.keeping import Keeper
from git_theta.commands.memory import keep_memory
from git_theta.commands.pacing import Pacing
from git_theta.commands.reading import Source
from git_theta.commands.session import Session
from git_theta.commands.sides import NOTHING_ELSE, Outcome, Side, Wanted
from git_theta.commands.storing import plugins_needed
from git_theta.core import pending as new
from git_theta.core import skeleton as skeletons
from git_theta.core.assembly import Assembled, Version, assemble
from git_theta.core.chain import digest_of
from git_theta.core.checkpoint import proofs
from git_theta.core.clean import Tools
from git_theta.core.compact import places, with_objects
from git_theta.core.dtypes import nbytes
from git_theta.core.identity import identity
from git_theta.core.manifest import CHUNK, Manifest, Segment, Tensor, dump
from git_theta.core.merging import Step, segments_read
from git_theta.core.pending import Fresh, Pending, store_bytes
from git_theta.core.recipe import Input, Instructions, Recipe
from git_theta.errors import MergeError
from git_theta.repo.collect import blob_id
from git_theta.repo.journal import Journal
from git_theta.repo.packs import PackWriter, Spot
from git_theta.updates.library import one_thread

if TYPE_CHECKING:
    from git_theta.commands.tasks import Context, Room, Task

# How much work may wait for a task to land, for each thread: bytes that it takes, and tasks.
_AHEAD = 4 * CHUNK
_TASKS = 64


class Merger:
    """Carries out a plan that has no conflicts."""

    def __init__(
        self,
        session: Session,
        base: Side | None,
        models: Sequence[Side],
        instructions: Instructions,
        outcome: Outcome,
        wanted: Wanted = NOTHING_ELSE,
    ) -> None:
        self.session, self.instructions, self.outcome = session, instructions, outcome
        self.base, self.models = base, models
        self._wanted = wanted
        sides = [*models, *([base] if base else [])]
        manifests = [side.manifest for side in sides]
        manifests += [m for side in sides for m in side.statistics.values()]
        self.source = Source(session, manifests)
        self.keeper = Keeper(session, models, self.source)
        self.recipe = self._recipe()
        self.journal = Journal(session.repo.common_dir, digest_of(self.recipe.dump()))
        self.results: dict[str, Segment] = {}
        self.pending: dict[str, Pending[Spot]] = {}
        self.whole: list[str] = []
        self.written_down: list[str] = []
        self.data: PackWriter | None = None
        self.summaries: PackWriter | None = None
        self.packs = 0
        self._draft: Draft | None = None
        self._versions: dict[int, Version] = {}

    def run(self) -> None:
        """Fetch, merge, store; fill in the outcome."""
        try:
            self._run()
        finally:
            if self._draft is not None:
                self._draft.close()

    def _run(self) -> None:
        outcome, session = self.outcome, self.session
        self.source.fetch(self._needed())
        self._draft = self._drafting()
        announce = session.catalog.announce
        with (
            PackWriter(session.store, announce=announce) as data,
            PackWriter(session.store, announce=announce) as summaries,
        ):
            self.data, self.summaries = data, summaries
            tools = self.keeper.tools(data, summaries)
            try:
                self._compute(tools)
            finally:  # whatever ends it, what was merged is not merged again
                data.finish()
                summaries.finish()
                self._note_down(ended=True)
            self.results |= {name: self.pending[name].segment() for name in self.written_down}
            if outcome.conflicts:
                return
            assembled = self._assemble()
            skeleton = self._store(tools, skeletons.pack(assembled.skeleton))
            recipe = self._store(tools, self.recipe.dump())
            data.finish()
            summaries.finish()
            written = dict(data.finished + summaries.finished)
            outcome.recipe = self.recipe
            self._conclude(assembled, skeleton.segment(), recipe.segment(), written)
            self._finish_draft(assembled)
        self.journal.remove(session.settings.grace)

    def _needed(self) -> list[Segment]:
        read = [segment for step in self.outcome.steps for segment in segments_read(step)]
        sides = [*self.models, *([self.base] if self.base else [])]
        read += [side.manifest.skeleton for side in sides]
        for side in sides:
            for manifest in side.statistics.values():
                read += [tensor.segment for tensor in manifest.tensors.values()]
        return read

    def _note_down(self, *, ended: bool) -> None:
        """Write down the tensors that lie in finished packs.

        Those that are written down before the end have no summaries: their pack is still open.
        """
        if self.data is None or self.summaries is None:
            return
        if not ended and len(self.data.finished) == self.packs:
            return
        self.packs = len(self.data.finished)
        self.source.add([], dict(self.data.finished + self.summaries.finished))
        for name in list(self.whole):
            try:
                segment = self.pending[name].segment(summaries=ended)
            except IndexError:  # its pack is not finished, nor are those of later ones
                return
            self.source.add(segment.chunks, {})
            self.journal.add(name, segment, self.source.sizes_of(segment))
            if ended:
                self.results[name] = segment
            else:
                self.whole.remove(name)
                self.written_down.append(name)

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
        steps = self._left(steps)
        if not steps:
            return
        from git_theta.commands.tasks import tasks

        context = self._context(steps)
        gathered: Mapping[int, Any] = {}
        if any(map(_surveys, steps)):
            from git_theta.commands import surveying

            gathered = surveying.survey(context, steps)
        parts = (
            task for step in steps for task in tasks(context, step, gathered.get(id(step.chosen)))
        )
        with one_thread():
            self._do(parts, tools, context.room)
        self.outcome.read = self.source.read

    def _left(self, steps: list[Step]) -> list[Step]:
        """The steps that an interrupted run of the same merge has not done."""
        found, sizes = self.journal.load(self.session.store)
        self.source.add([c for segment in found.values() for c in segment.chunks], sizes)
        done = {step.unit.name for step in steps} & found.keys()
        surveyed = any(_surveys(step) for step in steps)
        if done and not (surveyed and len(done) < len(steps)):
            self.outcome.notes.append(f"went on after {len(done)} tensors that were merged before")
            self.results |= {name: found[name] for name in done}
            return [step for step in steps if step.unit.name not in done]
        return steps

    def _context(self, steps: Sequence[Step]) -> Context:
        """What the tasks share; torch is on its way meanwhile, if it is needed."""
        from git_theta.commands.tasks import Context, in_arrays

        device = self.instructions.device
        keep_memory()
        if not all(in_arrays(device, step) for step in steps):
            warming.begin()
        if device not in ("auto", "cpu"):
            warming.ready()
            from git_theta import compute

            device = compute.check_device(device)
        kinds = {kind for side in self.models for kind in side.statistics}
        return Context(
            source=self.source,
            labels=tuple(side.label for side in self.models),
            keys=tuple(identity(side.manifest) for side in self.models),
            statistics={
                kind: tuple(side.statistics.get(kind) for side in self.models) for kind in kinds
            },
            device=device,
            complain=self.outcome.notes.append,
        )

    def _settle_counters(self, steps: Sequence[Step]) -> None:
        from git_theta.commands.counters import largest

        for step in steps:
            present = [tensor for tensor in step.unit.models if tensor is not None]
            winner = largest(self.source, present)
            place = self.outcome.steps.index(step)
            self.outcome.steps[place] = replace(step, action="take", winner=winner)

    def _do(self, tasks: Iterator[Task], tools: Tools[Spot], room: Room) -> None:
        """Run tasks on several threads, as many at once as the memory allows; land in order.

        Small tasks may be done while a large one before them is under way.
        """
        pacing = Pacing(tools.threads, self.session.settings.memory, _AHEAD * tools.threads)
        waiting: deque[tuple[Task, Future[list[Fresh]]]] = deque()

        def land() -> None:
            task, future = waiting.popleft()
            pacing.taken(_kept(future))
            self._land(task, future, tools, room)

        pool = ThreadPoolExecutor(tools.threads)
        try:
            for task in tasks:
                while len(waiting) > _TASKS * tools.threads:
                    land()
                while waiting and not pacing.wait(task.cost, waiting[0][1]):
                    land()
                waiting.append((task, pool.submit(self._work, task, tools, room)))
                pacing.begin(task.cost, waiting[-1][1], _kept)
            while waiting:
                land()
        finally:
            pool.shutdown(cancel_futures=True)

    def _work(self, task: Task, tools: Tools[Spot], room: Room) -> list[Fresh]:
        step, made, at = task.step, [], task.start
        size = nbytes(step.dtype, step.shape) or 0
        tensor = new.Tensor(name=step.unit.name, dtype=step.dtype, shape=step.shape, size=size)
        try:
            for plain in task.work():
                fresh = new.encode(tools, tensor, plain, at)
                if self._draft is not None:
                    self._draft.write(step.unit.names, at, plain, fresh.digest)
                at += len(plain)
                if len(plain) == size:  # nobody looks at it again
                    room.give(plain)
                    fresh = replace(fresh, plain=None)
                made.append(fresh)
        finally:
            self.source.let_go()
        return made

    def _land(
        self, task: Task, future: Future[list[Fresh]], tools: Tools[Spot], room: Room
    ) -> None:
        name = task.step.unit.name
        try:
            made = future.result()
        except MergeError as error:
            if all(step.unit.name != name for step in self.outcome.conflicts):
                failed = replace(task.step, action="conflict", reason=str(error))
                self.outcome.conflicts.append(failed)
            return
        size = nbytes(task.step.dtype, task.step.shape)
        pending = self.pending.setdefault(name, Pending(tools, size))
        for fresh in made:
            pending.append(fresh)
        for fresh in made:
            if fresh.plain is not None:
                room.give(fresh.plain)
        if pending.size == size:
            self.whole.append(name)
            self._note_down(ended=False)

    # --- the draft -------------------------------------------------------------------------------

    def _drafting(self) -> Draft | None:
        """The merged file, if whoever asked wants it and most of it is computed here."""
        frame = self.models[0].manifest
        if self._wanted.draft is None or frame.size < self.session.settings.direct_from:
            return None
        merged = [step for step in self.outcome.steps if step.action == "merge"]
        computed = sum(nbytes(step.dtype, step.shape) or 0 for step in merged)
        if 2 * computed < frame.size:
            return None
        plugin = self.session.plugins.formats(frame.format)
        version = self._version(self.models[0], plugin)
        draft = Draft(self._wanted.draft, version, self._wanted.replaced)
        self.source.look_in(draft.read_old, draft.old_places(frame.tensors))
        return draft

    def _finish_draft(self, assembled: Assembled) -> None:
        if self._draft is None or self.outcome.manifest is None:
            return
        manifest = self.outcome.manifest
        self.source.add(manifest.all_chunks(), manifest.objects)
        segments = skeletons.ordered_segments(manifest, assembled.skeleton.order)
        done = self._draft.finish(assembled.skeleton, segments, self.source.chunk)
        self.outcome.draft = self._wanted.draft if done else None

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
        if id(side) not in self._versions:
            plain = self.source.whole(side.manifest.skeleton).tobytes()
            made = Version.of(side.manifest, plain, self.source.bytes_of, plugin)
            self._versions[id(side)] = made
        return self._versions[id(side)]

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
        used = {
            step.chosen.strategy.name: step.chosen.strategy.version
            for step in self.outcome.steps
            if step.chosen is not None
        }
        return Recipe(
            instructions=self.instructions,
            versions=used,
            base=_input(self.base) if self.base else None,
            models=tuple(map(_input, self.models)),
            made_with={"git-theta": __version__},
            evaluation=self._wanted.evaluation,
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
        fresh = proofs(manifest, lambda chunk: chunk.at.oid in written)
        session.catalog.keep_proven([*self.keeper.proven, *fresh])
        session.catalog.claim(manifest.objects, blob_id(session.repo, text))
        self.outcome.stored = sum(written.values())
        self.outcome.text, self.outcome.manifest = text, manifest

    def _complete(self, manifest: Manifest, written: dict[str, int]) -> Manifest:
        """Bases, plug-ins and the table of objects."""
        manifest = manifest._replace(bases=self.source.bases(manifest.all_chunks()))
        manifest = manifest._replace(plugins=plugins_needed(manifest))
        self.source.add([], written)
        sizes = {place.oid: self.source.size(place.oid) for place in places(manifest)}
        return with_objects(manifest, sizes)


def _surveys(step: Step) -> bool:
    return step.chosen is not None and step.chosen.strategy.needs.scope == "model"


def _input(side: Side) -> Input:
    return Input(
        label=side.label,
        identity=identity(side.manifest),
        statistics={kind: identity(m) for kind, m in sorted(side.statistics.items())},
    )


def _kept(future: Future[list[Fresh]]) -> int:
    """How many bytes wait to be stored once a task is done."""
    if future.cancelled() or future.exception() is not None:
        return 0
    return sum(fresh.nbytes for fresh in future.result())
