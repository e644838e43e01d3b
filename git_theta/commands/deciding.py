"""What decides how a path is merged: environment, options, attribute, configuration, in order."""

from __future__ import annotations

from dataclasses import dataclass, replace

from git_theta.commands.session import Session
from git_theta.commands.strategies import parse_setting, split_values, strategy_class
from git_theta.core.recipe import Instructions, Rule
from git_theta.errors import UsageError
from git_theta.repo.caller import favoured_side
from git_theta.settings import merged_heads

CONFLICT = "conflict"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How to merge a path, and what said so. Without rules, conflicts stay conflicts."""

    instructions: Instructions
    said_by: str
    real: bool


def decide(session: Session, path: str) -> Decision:
    """What a merge driver does with a path.

    A strategy from an attribute or from the configuration is for merges alone: where a change is
    applied to a branch, by rebase, cherry-pick, revert or stash, an average would undo half of it.
    """
    real = bool(merged_heads())
    text, said_by = _said(session, path, real=real)
    return Decision(
        instructions=Instructions(rules=rules_from(text), device=session.settings.device),
        said_by=said_by,
        real=real,
    )


def configured(session: Session, given: Instructions, attribute: str) -> Decision:
    """What decides for a path in `git theta merge`: its options, then as in a merge of Git's."""
    if given.rules:
        return Decision(instructions=given, said_by="the command line", real=True)
    settings = session.settings
    for text, said_by in (
        (settings.merge_now, "GIT_THETA_MERGE"),
        (attribute, "the attribute theta-merge"),
        (settings.merge, "theta.merge"),
    ):
        if text:
            instructions = replace(given, rules=rules_from(text))
            return Decision(instructions=instructions, said_by=said_by, real=True)
    return Decision(instructions=given, said_by="", real=True)


def _said(session: Session, path: str, *, real: bool) -> tuple[str, str]:
    settings = session.settings
    side = favoured_side(_merge_options(session))
    if side:
        return side, f"-X {side}"
    if settings.merge_now:
        return settings.merge_now, "GIT_THETA_MERGE"
    if not real:
        return ("apply", "theta.pickMerge") if settings.pick == "apply" else ("", "")
    asked = session.repo.attributes([path], ["theta-merge"]).get(path, {}).get("theta-merge", "")
    if asked:
        return asked, "the attribute theta-merge"
    return (settings.merge, "theta.merge") if settings.merge else ("", "")


def _merge_options(session: Session) -> str:
    config = session.repo.config
    if not any(key.endswith(".mergeoptions") for key in config):
        return ""
    branch = session.repo.text("symbolic-ref", "-q", "--short", "HEAD", check=False)
    return config.get(f"branch.{branch}.mergeoptions", "")


def rules_from(text: str) -> tuple[Rule, ...]:
    """Rules from a word: `ties`, or `ties:density=0.2,scale=1`; `conflict` and "" mean none.

    Raises:
        UsageError: a parameter is not written so.
        NoPluginError: there is no such strategy.
    """
    name, _, rest = text.partition(":")
    if not name or name == CONFLICT:
        return ()
    strategy_class(name)
    parameters = dict(parse_setting(part) for part in split_values(rest))
    return (Rule(strategy=name, parameters=parameters),)


def refuse_nothing(instructions: Instructions) -> None:
    """Refuse instructions that name no strategy.

    Raises:
        UsageError: they do.
    """
    if not instructions.rules:
        raise UsageError("no strategy was named", hint="git theta merge --list")
