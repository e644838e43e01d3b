"""The files that a merge has to settle, and what it would do with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from git_theta.commands.deciding import Decision
from git_theta.commands.mergekit import Explicit
from git_theta.commands.merging import Outcome, Side, plan_merge
from git_theta.commands.session import Session
from git_theta.commands.terminal import count, printable, say, say_json, size_text
from git_theta.commands.versions import side, tree
from git_theta.core import threeway
from git_theta.core.merging import segments_read
from git_theta.core.recipe import Instructions
from git_theta.core.sidecar import is_sidecar
from git_theta.errors import UsageError

MERGED, CONFLICT = 0, 1


@dataclass(kw_only=True)
class Job:
    """One file to be merged: its versions, what decides, and what was tried before."""

    path: str
    mode: str
    base: Side | None
    models: list[Side]
    decision: Decision
    outcome: Outcome | None = None
    evaluation: Mapping[str, Any] | None = None


def explicit_jobs(session: Session, explicit: Explicit, given: Instructions) -> list[Job]:
    """The files of git-theta that all revisions have which a recipe names.

    Raises:
        UsageError: a revision is none of this repository, or they have no such file in common.
    """
    revisions = list(explicit.models) + ([explicit.base] if explicit.base else [])
    trees = {}
    for name in revisions:
        commit = session.repo.resolve(name + "^{commit}")
        if commit is None:
            raise UsageError(f"{name!r} is no revision of this repository", hint="git branch -a")
        trees[name] = (commit, tree(session, commit))
    common = set.intersection(*(set(files) for _, files in trees.values()))
    attributes = session.repo.attributes(sorted(common), ["merge"])
    decision = Decision(instructions=given, said_by="the recipe", real=True)
    jobs = []
    for path in sorted(common):
        if attributes.get(path, {}).get("merge") == "theta" and not is_sidecar(path):
            found = {
                name: side(session, path, files[path].oid, name, commit)
                for name, (commit, files) in trees.items()
            }
            base = found[explicit.base] if explicit.base else None
            models = [found[name] for name in explicit.models]
            mode = trees[explicit.models[0]][1][path].mode
            jobs.append(Job(path=path, mode=mode, base=base, models=models, decision=decision))
    if not jobs:
        raise UsageError("the revisions have no file of git-theta in common")
    return jobs


def tell_plan(jobs: Sequence[Job], *, as_json: bool) -> int:
    """Say what would be read, computed and stored."""
    rows = [_planned(job) for job in jobs]
    if as_json:
        say_json(rows)
    for row in [] if as_json else rows:
        say(f"{printable(row['path'])} ({row['said_by'] or 'no strategy'})")
        for key in ("unchanged", "taken", "merged", "conflicts"):
            say(f"  {key:10} {count(row[key], 'tensor')}")
        say(f"  reads      {size_text(row['read'])}")
        say(f"  stores     at most {size_text(row['stored'])}")
        for line in row["notes"]:
            say(f"  {printable(line)}")
    if not rows and not as_json:
        say("no tensor would have to be merged")
    return CONFLICT if any(row["conflicts"] for row in rows) else MERGED


def _planned(job: Job) -> dict[str, Any]:
    outcome = plan_merge(job.base, job.models, job.decision.instructions)
    steps = outcome.steps
    merged = [step for step in steps if step.action in ("merge", "largest")]
    unchanged = sum(step.unit.verdict.fate is threeway.Fate.UNCHANGED for step in steps)
    conflicts = outcome.conflicts
    return {
        "path": job.path,
        "said_by": job.decision.said_by,
        "unchanged": unchanged,
        "taken": len(steps) - len(merged) - len(conflicts) - unchanged,
        "merged": len(merged),
        "conflicts": len(conflicts),
        "read": sum(segment.size for step in merged for segment in segments_read(step)),
        "stored": sum(s.unit.models[0].segment.size for s in merged if s.unit.models[0]),
        "notes": outcome.notes + [f"{s.unit.name}: {s.reason}" for s in conflicts],
    }
