"""A merge repeated: from the recipe that a commit keeps, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from git_theta.commands import history
from git_theta.commands.merging import Outcome, Side, merge_manifests
from git_theta.commands.reading import Source
from git_theta.commands.session import Session
from git_theta.commands.terminal import printable, say, say_json
from git_theta.commands.versions import Blob, side, tree
from git_theta.core import threeway
from git_theta.core.identity import identity
from git_theta.core.manifest import Manifest, is_manifest
from git_theta.core.recipe import Input, Instructions, Recipe, load
from git_theta.errors import MergeError, NotTrackedError, UsageError


@dataclass(frozen=True, kw_only=True)
class Merged:
    """A file of a merge commit with its recipe."""

    path: str
    manifest: Manifest
    recipe: Recipe


def recipes_of(session: Session, commit: str) -> list[Merged]:
    """The files that a commit merged: those whose recipe no parent has."""
    files = tree(session, commit)
    parents = session.repo.text("rev-list", "--parents", "-n1", commit).split()[1:]
    before = [tree(session, parent) for parent in parents]
    filters = session.repo.attributes(files, ["filter"])
    found = []
    for path, blob in sorted(files.items()):
        if filters.get(path, {}).get("filter") != "theta" or blob in (b.get(path) for b in before):
            continue
        recipe = _recipe(session, path, blob)
        if recipe is not None:
            found.append(recipe)
    return found


def _recipe(session: Session, path: str, blob: Blob) -> Merged | None:
    read = session.repo.objects.read(blob.oid)
    if read is None or not is_manifest(read[1]):
        return None
    manifest = side(session, path, blob.oid, path).manifest
    if manifest.recipe is None:
        return None
    source = Source(session, [manifest])
    source.fetch([manifest.recipe])
    return Merged(
        path=path, manifest=manifest, recipe=load(source.whole(manifest.recipe).tobytes())
    )


def instructions_of_commit(session: Session, rev: str) -> Instructions:
    """How a commit was merged, to merge others so.

    Raises:
        UsageError: it has no recipe, or several that differ.
    """
    found = {
        m.recipe.instructions.plain().__repr__(): m
        for m in recipes_of(session, _commit(session, rev))
    }
    if len(found) != 1:
        what = "no recipe" if not found else "recipes that differ"
        raise UsageError(f"{rev} has {what}", hint="git theta merge --recipe FILE")
    return next(iter(found.values())).recipe.instructions


def _commit(session: Session, rev: str) -> str:
    commit = session.repo.resolve(rev + "^{commit}")
    if commit is None:
        raise NotTrackedError(f"there is no commit {rev!r}", hint="git log --oneline")
    return commit


def verify_commit(session: Session, rev: str, *, as_json: bool) -> int:
    """Repeat the merges of a commit and compare; 0 where every tensor is the same.

    Nothing that a recipe says is run as a command: it names strategies and inputs.
    """
    commit = _commit(session, rev)
    found = recipes_of(session, commit)
    if not found:
        raise UsageError(f"{rev} has no merged file with a recipe")
    rows = [_verify(session, commit, merged) for merged in found]
    if as_json:
        say_json(rows)
    for row in [] if as_json else rows:
        if row["same"]:
            say(f"{printable(row['path'])}: the same, {row['tensors']:,} tensors")
        else:
            differing = ", ".join(map(printable, row["differing"][:10]))
            say(f"{printable(row['path'])}: differs: {differing or 'the skeleton'}")
    return 0 if all(row["same"] for row in rows) else 1


def _verify(session: Session, commit: str, merged: Merged) -> dict[str, Any]:
    recipe = merged.recipe
    parents = session.repo.text("rev-list", "--parents", "-n1", commit).split()[1:]
    models = [_input(session, model, parents, merged.path) for model in recipe.models]
    base = None
    if recipe.base is not None:
        ancestor = history.merge_base(session.repo, parents)
        commits = [*([ancestor] if ancestor else []), *parents]
        base = _input(session, recipe.base, commits, merged.path)
    outcome = merge_manifests(session, base, models, recipe.instructions)
    return _compared(merged, outcome)


def _compared(merged: Merged, outcome: Outcome) -> dict[str, Any]:
    if outcome.manifest is None:
        conflicts = ", ".join(step.unit.name for step in outcome.conflicts[:5])
        raise MergeError(f"{merged.path}: repeating the merge leaves conflicts: {conflicts}")
    one, other = merged.manifest.tensors, outcome.manifest.tensors
    differing = sorted(
        name
        for name in one.keys() | other.keys()
        if threeway.identity(one.get(name)) != threeway.identity(other.get(name))
    )
    same = identity(merged.manifest) == identity(outcome.manifest)
    return {
        "path": merged.path,
        "same": same,
        "tensors": len(one),
        "differing": differing,
        "recipe": merged.recipe.plain(),
    }


def _input(session: Session, wanted: Input, commits: list[str], path: str) -> Side:
    """The version with the content that the recipe names, in one of some commits.

    Raises:
        MergeError: none has it.
    """
    for commit in commits:
        files = tree(session, commit)
        places = [path, *(other for other in files if other != path)]
        for place in places:
            blob = files.get(place)
            read = session.repo.objects.read(blob.oid) if blob else None
            if blob is None or read is None or not is_manifest(read[1]):
                continue
            found = side(session, place, blob.oid, wanted.label, commit)
            if identity(found.manifest) == wanted.identity:
                return found
    raise MergeError(
        f"{wanted.label}: no parent has the model {wanted.identity[:16]} that the recipe names",
        hint="the commit was amended, or its parents were; --replay merges what is there now",
    )
