"""`git theta stats`: statistics of a model that merges need, in a file beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from git_theta.commands.hook import check_weights, load_hook, open_hook
from git_theta.commands.options import path_from_top
from git_theta.commands.session import Session
from git_theta.commands.snapshots import Snapshot, moments_of, snapshots
from git_theta.commands.terminal import count, note, printable, size_text
from git_theta.core.manifest import Manifest
from git_theta.core.sidecar import CONVENTIONS, Facts, sidecar_path, weights_digest
from git_theta.errors import NotTrackedError, UsageError
from git_theta.repo.tracked import find_blob, is_left_as_manifest, parse_at
from git_theta.settings import parse_size

if TYPE_CHECKING:
    from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])
RANK = 20


@click.group(no_args_is_help=True)
def command() -> None:
    """Compute statistics of a model that some merges need.

    They go into a file beside the model (model.fisher.safetensors and so on), to be added and
    committed with it. It names the weights it was computed from: with others it is refused.
    """


def _hook_options(function: Function) -> Function:
    """What fisher and gram have in common."""
    for option in (
        click.option(
            "-o", "--output", metavar="FILE", help="Where to write; else beside the model."
        ),
        click.option(
            "--memory",
            default="1g",
            metavar="SIZE",
            show_default=True,
            help="What sums and gradients may use; less memory means more passes.",
        ),
        click.option(
            "--with",
            "hook",
            required=True,
            metavar="MODULE:FUNCTION",
            help="Your Python function, which is RUN; given the path, it returns model, batches.",
        ),
    ):
        function = option(function)
    return click.argument("paths", metavar="PATH...", nargs=-1, required=True)(function)


@command.command()
@_hook_options
@click.option(
    "--estimator",
    type=click.Choice(["true", "sampled", "empirical"]),
    default="true",
    show_default=True,
    help="Whose labels: expected over the model's own, drawn from them, or the data's.",
)
@click.option("--seed", default=0, show_default=True, help="For --estimator sampled.")
def fisher(
    paths: tuple[str, ...], hook: str, estimator: Any, seed: int, memory: str, output: str
) -> None:
    """Diagonal Fisher information, from the gradients of single examples.

    \b
        git theta stats fisher model.safetensors --with evaluate:model_and_batches

    This RUNS the function `model_and_batches` of evaluate.py in your directory, with the path of
    the model. It returns (torch model, batches), or yields the model first and then each batch:
    a pair (inputs, labels). Nothing else in git-theta runs code that is not installed.
    """
    from git_theta.stats import Fisher

    def compute(model: Any, batches: Any) -> Fisher:
        return Fisher(model, batches, estimator, seed, parse_size(memory, "--memory"))

    told = {"estimator": estimator, "seed": seed}
    _run("fisher", paths, (hook, output), compute, told)


@command.command()
@_hook_options
@click.option("--outputs", is_flag=True, help="Gradients of the outputs too, which mats can use.")
def gram(paths: tuple[str, ...], hook: str, outputs: bool, memory: str, output: str) -> None:
    """Gram matrices of what goes into linear layers and convolutions, for regmean and mats.

    \b
        git theta stats gram model.safetensors --with evaluate:model_and_batches

    This RUNS the function `model_and_batches` of evaluate.py in your directory, with the path of
    the model. It returns (torch model, batches), or yields the model first and then each batch:
    a pair (inputs, labels). Nothing else in git-theta runs code that is not installed.
    """
    from git_theta.stats import Gram

    def compute(model: Any, batches: Any) -> Gram:
        return Gram(model, batches, outputs, parse_size(memory, "--memory"))

    for found in _run("gram", paths, (hook, output), compute, {}):
        if found.unseen:
            shown = ", ".join(map(printable, found.unseen[:3]))
            note(f"no input was seen of {count(len(found.unseen), 'layer')}: {shown}")


@command.command()
@click.argument("path")
@click.argument("commits", metavar="A..B")
@click.option(
    "--rank", default=RANK, show_default=True, help="How many of the last deviations to keep."
)
@click.option("-o", "--output", metavar="FILE", help="Where to write; else beside the model.")
def moments(path: str, commits: str, rank: int, output: str) -> None:
    """Mean, mean square and deviations of the weights over the versions in a range of commits.

    \b
        git theta stats moments model.safetensors main~10..main

    They describe the last version in the range, and are computed from what is stored: nothing
    is run.
    """
    with closing(Session()) as session:
        name = path_from_top(session.repo, path)
        versions = snapshots(session, commits, name)
        target = _target(session, "moments", name, output)
        write_moments(session, target, versions[-1].manifest, versions, rank)


def write_moments(
    session: Session, target: Path, model: Manifest, versions: Sequence[Snapshot], rank: int
) -> None:
    """Compute moments over versions, and write them as those of a model."""
    told = {"commits": " ".join(version.commit for version in versions)}
    parts = moments_of(session, [version.manifest for version in versions], rank)
    facts = _facts("moments", model, len(versions), told)
    _write(target, parts, lambda: facts)


def _run(
    kind: str,
    paths: Sequence[str],
    how: tuple[str, str | None],
    compute: Callable[[Any, Any], Any],
    told: dict[str, Any],
) -> list[Any]:
    """Run the user's function for each model, compute, write the side-cars."""
    hook, output = how
    if output is not None and len(paths) > 1:
        raise UsageError("-o names one file, and there are several models")
    done = []
    with closing(Session()) as session:
        function = load_hook(hook, note)
        for path in paths:
            name = path_from_top(session.repo, path)
            model = _staged(session, name)
            network, batches = open_hook(function, hook, session.path(name))
            check_weights(network, model, name)
            computation = compute(network, batches)
            parts = ((n, values) for n, values in computation.parts() if _belongs(n, model))
            facts = partial(_counted, kind, model, computation, told)
            _write(_target(session, kind, name, output), parts, facts)
            done.append(computation)
    return done


def _staged(session: Session, name: str) -> Manifest:
    """The manifest of a model whose file can be read."""
    model = parse_at(name, find_blob(session.repo, None, name)[1])
    file = session.path(name)
    if not file.exists() or is_left_as_manifest(file):
        raise NotTrackedError(f"{name} is not in the work tree", hint="git theta pull")
    return model


def _counted(kind: str, model: Manifest, computation: Any, told: dict[str, Any]) -> Facts:
    """The facts of a computation, once it is done."""
    return _facts(kind, model, computation.n_samples, told)


def _belongs(name: str, model: Manifest) -> bool:
    return name.partition("#")[0] in model.tensors


def _target(session: Session, kind: str, name: str, output: str | None) -> Path:
    return Path(output) if output else session.path(sidecar_path(name, kind))


def _facts(kind: str, model: Manifest, n_samples: int, told: dict[str, Any]) -> Facts:
    from git_theta.stats import code_version

    return Facts(
        kind=kind,
        model_digest=weights_digest(model),
        n_samples=n_samples,
        code=code_version(),
        convention=CONVENTIONS[kind],
        **told,
    )


def _write(target: Path, parts: Iterable[tuple[str, Tensor]], facts: Callable[[], Facts]) -> None:
    from git_theta.stats import SidecarWriter

    with closing(SidecarWriter(target)) as writer:
        tensors = 0
        for name, values in parts:
            writer.add(name, values)
            tensors += 1
        said = facts()
        size = writer.finish(said)
    of = "version" if said.kind == "moments" else "example"
    note(
        f"{printable(str(target))}: {count(tensors, 'tensor')} from "
        f"{count(said.n_samples, of)}, {size_text(size)}; git add it with the model"
    )
