"""`git theta merge`: any number of branches into one, in one commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from git_theta.commands import history, warming
from git_theta.commands.conflicts import explain
from git_theta.commands.deciding import configured
from git_theta.commands.history import Branch, Folded
from git_theta.commands.jobs import CONFLICT, MERGED, Job, explicit_jobs, tell_plan
from git_theta.commands.listing import list_strategies
from git_theta.commands.merge_driver import tell
from git_theta.commands.merge_options import instructions_of, strategy_options
from git_theta.commands.mergekit import Explicit
from git_theta.commands.merging import merge_manifests
from git_theta.commands.options import JSON_OPTION
from git_theta.commands.placing import Placed, place, write_blob
from git_theta.commands.recipes import read_recipe
from git_theta.commands.session import Session
from git_theta.commands.sides import Wanted
from git_theta.commands.strategies import strategy_class
from git_theta.commands.terminal import complain, count, note, printable
from git_theta.commands.versions import Blob, side, tree
from git_theta.core import threeway
from git_theta.core.recipe import Instructions
from git_theta.core.sidecar import is_sidecar
from git_theta.errors import MergeError, ThetaError, UsageError
from git_theta.repo import keeping
from git_theta.repo.exchange import let_go_later

TRAILER = "Theta-Recipe"


@dataclass(kw_only=True)
class Merge:
    """One run: what is merged into what, and how it was asked for."""

    session: Session
    head: str
    branches: list[Branch]
    given: Instructions
    message: str
    trees: list[Mapping[str, Blob]] = field(default_factory=list)
    base: str | None = None


@click.command()
@click.argument("branches", metavar="[BRANCH]...", nargs=-1)
@click.option("-m", "message", metavar="MESSAGE", help="The commit's message.")
@strategy_options
@click.option(
    "--eval",
    "evaluate",
    metavar="COMMAND",
    help="Run it on the merged file; its last line is a number, and higher is better.",
)
@click.option(
    "--try",
    "tries",
    multiple=True,
    metavar="KEY=V1,V2,...",
    help="Values of a parameter (or names of strategies) of which --eval chooses the best.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be read, computed and stored.")
@click.option("--list", "listing", is_flag=True, help="List all strategies and what they need.")
@click.option("--verify", metavar="COMMIT", help="Repeat a merge and compare what comes out.")
@click.option("--replay", metavar="COMMIT", help="Merge as that commit was merged.")
@JSON_OPTION
def command(branches: tuple[str, ...], listing: bool, verify: str | None, **options: Any) -> int:
    """Merge BRANCHes, any number at once, and commit the result.

    \b
        git theta merge feature --strategy average
        git theta merge math code chat -s ties --set density=0.2 --for 'lm_head*' ours
        git theta merge --list

    Files of git-theta are merged tensor by tensor, counted from the ancestor of all branches; all
    others as git merge merges them. Without --strategy, what the attribute theta-merge or the
    setting theta.merge says decides. The recipe is kept with the merged file.

    \b
        git theta merge math -s ties --try density=0.1,0.2,0.5 --eval 'python score.py'

    The command gets the path of the merged file as its last argument, or as $MODEL. Where it fails
    for every merge, nothing is committed.
    """
    if listing:
        list_strategies(as_json=options["as_json"])
        return 0
    if options["tries"] and not options["evaluate"]:
        raise UsageError("--try needs --eval", hint="a command that says how good a model is")
    session = Session()
    try:
        if verify is not None:
            from git_theta.commands.verifying import verify_commit

            return verify_commit(session, verify, as_json=options["as_json"])
        explicit = _explicit(options["recipe"])
        if explicit is not None:
            return _run_explicit(session, branches, explicit, options)
        if not branches:
            raise UsageError("no branch was named", hint="git theta merge -h")
        return _run(session, branches, options)
    finally:
        session.close()


def _run(session: Session, names: Sequence[str], options: Mapping[str, Any]) -> int:
    head, branches = history.find_branches(session.repo, names)
    if not branches:
        note("Already up to date.")
        return MERGED
    message = options["message"] or history.default_message(branches)
    given = _instructions(session, options)
    merge = Merge(session=session, head=head, branches=branches, given=given, message=message)
    merge.base = history.merge_base(session.repo, [head, *(branch.oid for branch in branches)])
    if _may_fast_forward(merge) and not options["dry_run"]:
        history.advance(session.repo, branches[0].oid, f"theta merge {branches[0].name}")
        note(f"Fast-forward to {branches[0].name}.")
        return MERGED
    warming.meanwhile(_load_merger)
    folded = history.fold(session.repo, head, branches)
    if folded.conflicts and given.rules and not options["dry_run"]:
        warming.begin_if(lambda: _computes_in_torch(given))
    return _carry_out(merge, folded, _jobs(merge, folded), options)


def _load_merger() -> None:
    from git_theta.commands import arrays, merger  # noqa: F401


def _carry_out(
    merge: Merge, folded: Folded, jobs: Sequence[Job], options: Mapping[str, Any]
) -> int:
    if options["dry_run"]:
        return tell_plan(jobs, as_json=options["as_json"])
    session = merge.session
    session.store.prepare()
    session.store.hold()
    if options["evaluate"] and not jobs:
        note("git theta: no tensor has to be merged, so the command of --eval was not run")
    elif options["evaluate"]:
        from git_theta.commands.evaluating import Judge

        judge = Judge(session=session, command=options["evaluate"], jobs=jobs)
        judge.choose(options["tries"])
    with keeping.directory_in(session.store.scratch) as kept:
        _merge_all(session, jobs, kept)
        return _finish(merge, folded, jobs, kept)


def _merge_all(session: Session, jobs: Sequence[Job], kept: Path) -> None:
    for job in jobs:
        draft = keeping.place_for(kept, job.path) if _on_same_disk(session, kept) else None
        replaced = None if session.repo.top is None else session.repo.top / job.path
        wanted = Wanted(draft=draft, replaced=replaced, evaluation=job.evaluation)
        instructions = job.decision.instructions
        job.outcome = merge_manifests(session, job.base, job.models, instructions, wanted)
        if job.outcome.text is None:
            explain(session, job.path, job.base, job.models, job.outcome, job.decision)
        else:
            tell(job.path, job.outcome, job.decision)
            if job.outcome.draft is not None:
                keeping.describe(kept, job.path, job.outcome.text)


def _on_same_disk(session: Session, kept: Path) -> bool:
    """Whether what is written among the objects can be moved into the work tree."""
    top = session.repo.top
    return top is not None and kept.stat().st_dev == top.stat().st_dev


def _explicit(path: Path | None) -> Explicit | None:
    """What a recipe that names its models says, such as one of mergekit."""
    found = read_recipe(path) if path is not None else None
    return found if isinstance(found, Explicit) else None


def _run_explicit(
    session: Session, names: Sequence[str], explicit: Explicit, options: Mapping[str, Any]
) -> int:
    """Merge the revisions that a recipe names, whatever their history; all become parents."""
    if names:
        raise UsageError("the recipe names the models itself", hint="leave the branches out")
    for line in explicit.notes:
        note(f"git theta: {line}")
    repo = session.repo
    revisions = [*explicit.models, *([explicit.base] if explicit.base else [])]
    head, branches = history.find_branches(repo, list(dict.fromkeys(revisions)))
    given = _instructions(session, options)
    message = options["message"] or history.default_message(branches)
    merge = Merge(session=session, head=head, branches=branches, given=given, message=message)
    folded = history.fold(repo, head, branches) if branches else Folded(tree=head + "^{tree}")
    jobs = explicit_jobs(session, explicit, given)
    return _carry_out(merge, folded, jobs, options)


def _instructions(session: Session, options: Mapping[str, Any]) -> Instructions:
    given = None
    if options["replay"] is not None:
        from git_theta.commands.verifying import instructions_of_commit

        given = instructions_of_commit(session, options["replay"])
    return instructions_of(options, session.settings.device, given)


def _computes_in_torch(given: Instructions) -> bool:
    with suppress(ThetaError):  # told of where the strategy is used
        needs = [strategy_class(rule.strategy).needs for rule in given.rules]
        return any(not need.arrays for need in needs)
    return False


def _may_fast_forward(merge: Merge) -> bool:
    """Whether nothing was changed here since the branch left, and no strategy is to see all."""
    if len(merge.branches) > 1 or merge.base != merge.head:
        return False
    return not merge.given.rules or merge.given.scope == "conflicts"


# --- which files ---------------------------------------------------------------------------------


def _jobs(merge: Merge, folded: Folded) -> list[Job]:
    """The files of git-theta that Git cannot settle by taking one side's blob."""
    session = merge.session
    commits = [merge.head, *(branch.oid for branch in merge.branches)]
    merge.trees = [tree(session, commit) for commit in commits]
    before = tree(session, merge.base) if merge.base else {}
    paths = sorted({path for files in merge.trees for path in files})
    attributes = session.repo.attributes(paths, ["merge", "theta-merge"])
    jobs = []
    for path in paths:
        if attributes.get(path, {}).get("merge") != "theta" or is_sidecar(path):
            continue
        job = _job(merge, folded, path, before, attributes[path].get("theta-merge", ""))
        if job is not None:
            jobs.append(job)
    return jobs


def _job(
    merge: Merge, folded: Folded, path: str, before: Mapping[str, Blob], attribute: str
) -> Job | None:
    blobs = [files.get(path) for files in merge.trees]
    base = before.get(path)
    stages = folded.conflicts.get(path, {})
    if len(blobs) == 2 and set(stages) >= {2, 3}:  # renames are followed by Git
        base = Blob(*stages[1]) if 1 in stages else None
        blobs = [Blob(*stages[2]), Blob(*stages[3])]
    decision = configured(merge.session, merge.given, attribute)
    verdict = threeway.classify(base and base.oid, [blob and blob.oid for blob in blobs])
    if None in blobs or verdict.fate is threeway.Fate.UNCHANGED:
        return None
    if not verdict.is_conflict and not _sees_all(decision.instructions):
        return None
    labels = ["ours", *(branch.name for branch in merge.branches)]
    commits = [merge.head, *(branch.oid for branch in merge.branches)]
    models = [
        side(merge.session, path, blob.oid, label, commit)
        for blob, label, commit in zip(blobs, labels, commits, strict=True)
        if blob is not None
    ]
    ancestor = side(merge.session, path, base.oid, "base", merge.base) if base else None
    mode = next(blob.mode for blob in blobs if blob is not None)
    return Job(path=path, mode=mode, base=ancestor, models=models, decision=decision)


def _sees_all(instructions: Instructions) -> bool:
    needs = [strategy_class(rule.strategy).needs for rule in instructions.rules]
    every = any(need.every or need.scope == "model" for need in needs)
    return bool(needs) and (instructions.scope == "all" or every)


# --- the end -------------------------------------------------------------------------------------


def _finish(merge: Merge, folded: Folded, jobs: Sequence[Job], kept: Path) -> int:
    repo = merge.session.repo
    merged = {job.path: job for job in jobs if job.outcome and job.outcome.text is not None}
    left = sorted((folded.conflicts.keys() | {job.path for job in jobs}) - merged.keys())
    if not left:
        _commit(merge, folded, merged, kept)
        return MERGED
    if len(merge.branches) > 1:
        raise MergeError(
            f"{', '.join(left[:5])}: conflicts are left, so nothing was committed",
            hint="name a strategy for them, with --strategy or --for",
        )
    message = history.with_trailers(repo, merge.message, _trailers(merged.values()))
    history.begin_conflict(repo, merge.branches[0], message)
    place(merge.session, {path: _placed(job) for path, job in merged.items()})
    complain(f"git theta: {count(len(left), 'file')} in conflict: {', '.join(left[:5])}")
    complain("hint: settle them, then git commit; or git merge --abort")
    return CONFLICT


def _placed(job: Job) -> Placed:
    text = job.outcome.text if job.outcome else None
    return Placed(job.path, job.mode, text or b"")


def _commit(merge: Merge, folded: Folded, merged: Mapping[str, Job], kept: Path) -> None:
    repo = merge.session.repo
    files = {path: (job.mode, write_blob(repo, _placed(job).text)) for path, job in merged.items()}
    parents = [merge.head, *(branch.oid for branch in merge.branches)]
    message = history.with_trailers(repo, merge.message, _trailers(merged.values()))
    commit = history.commit_tree(repo, folded, files, parents, message)
    merge.session.store.release()
    action = "theta merge " + " ".join(b.name for b in merge.branches)
    old = [repo.top / path for path in merged] if repo.top is not None else []
    with let_go_later(old):
        history.advance(repo, commit, action, kept)
    note(f"{commit[:10]}: {merge.message.splitlines()[0]}")


def _trailers(jobs: Any) -> list[str]:
    """A line for each merged file that names its recipe by content."""
    return [
        f"{TRAILER}: {job.outcome.manifest.recipe.digest} {printable(job.path)}"
        for job in jobs
        if job.outcome.manifest.recipe is not None
    ]
