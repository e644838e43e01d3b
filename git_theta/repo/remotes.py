"""Which remotes may have what is missing here, in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from git_theta.errors import MissingError, ThetaError, TransferError
from git_theta.repo.gitrepo import Repo
from git_theta.repo.lfs import Fetched, Lfs
from git_theta.repo.neighbours import Neighbour
from git_theta.repo.objects import Store

_LINES = 10


def names(repo: Repo) -> list[str]:
    """The configured remotes."""
    return repo.lines("remote")


def preferred(repo: Repo) -> list[str]:
    """All remotes to ask: `theta.remote`, that of the branch, `origin`, then the others."""
    branch = repo.text("symbolic-ref", "-q", "--short", "HEAD", check=False)
    chosen = [repo.config.get("theta.remote"), repo.config.get(f"branch.{branch}.remote")]
    known = names(repo)
    order = [name for name in chosen if name and name != "."]
    order += [name for name in ("origin",) if name in known]
    return list(dict.fromkeys(order + known))


def default(repo: Repo) -> str:
    """The remote that is meant when none is named.

    Raises:
        TransferError: there is none.
    """
    found = preferred(repo)
    if not found:
        raise TransferError(
            "this repository has no remote", hint="git remote add origin URL, or name a URL"
        )
    return found[0]


def collect(
    repo: Repo, store: Store, wanted: Mapping[str, int], *, remote: str | None = None
) -> Fetched:
    """Fetch what is not here, from one remote or from each in turn until nothing is missing.

    What somebody pushed into this repository lies with Git LFS and is taken from there first.
    """
    lfs = Lfs(repo, store)
    missing = store.lacking(wanted)
    if missing:
        missing = Neighbour.at(repo.common_dir).lend(store, missing)
    problems: list[Fetched] = []
    for name in [remote] if remote is not None else preferred(repo):
        if not missing:
            break
        try:
            found = lfs.fetch(name, missing)
        except TransferError as error:
            found = Fetched(missing, str(error), unreachable=True, hint=error.hint)
        missing = found.missing
        if found.said:
            problems.append(replace(found, said=f"{name}: {found.said}"))
    if not missing:
        return Fetched()
    return Fetched(
        missing,
        said="\n".join(dict.fromkeys(problem.said for problem in problems)),
        unreachable=any(problem.unreachable for problem in problems),
        hint=next((problem.hint for problem in problems if problem.hint), ""),
    )


def failure(found: Fetched) -> ThetaError:
    """The error that says what could not be fetched, and why."""
    number = len(found.missing)
    what = "1 object is" if number == 1 else f"{number:,} objects are"
    lines = found.said.splitlines()
    told = "".join(f"\n  {line}" for line in lines[:_LINES] + ["..."] * (len(lines) > _LINES))
    if found.unreachable:
        return TransferError(
            f"{what} missing here, and could not be fetched{told}",
            hint=found.hint or "try again when the remote can be reached",
        )
    return MissingError(
        f"{what} missing here, and no remote has {'it' if number == 1 else 'them'}{told}",
        hint="ask who has them to run git theta push --all",
    )


def resolve_missing(repo: Repo, store: Store, missing: Mapping[str, int]) -> None:
    """Fetch objects, by sha256 and size, from whichever remotes have them.

    Raises:
        MissingError: no remote has all of them; what was found is here.
        TransferError: a remote could not be asked.
    """
    found = collect(repo, store, missing)
    if found.missing:
        raise failure(found)
