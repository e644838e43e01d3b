"""Options that `git theta merge` and `git theta resolve` share, and the instructions they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from git_theta.commands.deciding import rules_from
from git_theta.commands.mergekit import Explicit
from git_theta.commands.recipes import read_recipe
from git_theta.commands.strategies import make, parse_setting, strategy_class
from git_theta.core.merging import Mismatch
from git_theta.core.recipe import Instructions, Rule, Scope
from git_theta.errors import UsageError

Function = TypeVar("Function", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--strategy", "-s", metavar="NAME", help="How to merge; --list names all."),
    click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE", help="A parameter of it."
    ),
    click.option(
        "--for", "overrides", multiple=True, nargs=2, metavar="GLOB NAME",
        help="Another strategy for some tensors, as NAME or NAME:key=value,... The first "
        "that matches counts.",
    ),
    click.option(
        "--scope", type=click.Choice(get_args(Scope)), help="What strategies see (conflicts)."
    ),
    click.option(
        "--mismatch", type=click.Choice(get_args(Mismatch)),
        help="What is done where shapes differ (rows: merge those that all have).",
    ),
    click.option("--device", metavar="NAME", help="Where to compute: auto, cpu, cuda, mps."),
    click.option("--recipe", type=Path, metavar="FILE", help="All of this from a file."),
)  # fmt: skip


def strategy_options(function: Function) -> Function:
    """Add the options."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def instructions_of(
    options: Mapping[str, Any], device: str, given: Instructions | None = None
) -> Instructions:
    """Instructions from options, on top of those of a recipe; `device` where none is named.

    Raises:
        UsageError: they contradict each other, or a parameter is not one.
        NoPluginError: there is no such strategy.
    """
    if given is None:
        given = _from_file(options["recipe"])
    rules = [*_overrides(options["overrides"]), *given.rules]
    parameters = dict(parse_setting(text) for text in options["settings"])
    strategy = options["strategy"]
    if strategy is not None:
        named = rules_from(strategy)
        if not named:
            raise UsageError(f"{strategy!r} is no strategy", hint="git theta merge --list")
        rules = [rule for rule in rules if rule.pattern != "*"]
        rules.append(replace(named[0], parameters={**named[0].parameters, **parameters}))
    elif parameters:
        raise UsageError("--set needs --strategy", hint="name the strategy that it is for")
    for rule in rules:
        check(rule)
    return Instructions(
        rules=tuple(rules),
        scope=options["scope"] or given.scope,
        mismatch=options["mismatch"] or given.mismatch,
        device=options["device"] or device,
    )


def _from_file(path: Path | None) -> Instructions:
    found = read_recipe(path) if path else Instructions()
    return found.instructions if isinstance(found, Explicit) else found


def _overrides(overrides: Sequence[tuple[str, str]]) -> list[Rule]:
    return [
        replace(rule, pattern=pattern) for pattern, text in overrides for rule in rules_from(text)
    ]


def check(rule: Rule) -> None:
    """Refuse a rule whose parameters its strategy does not take, as far as that can be told.

    Lists over layers are checked where they are evaluated.
    """
    if not any(isinstance(value, list) for value in rule.parameters.values()):
        make(rule.strategy, rule.parameters)
    else:
        strategy_class(rule.strategy)
