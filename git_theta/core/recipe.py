"""How to merge, as a user said it, and as it is written down beside the merged tensors.

A recipe is canonical JSON: the same merge always gives the same bytes. It names strategies with
their versions and parameters, and inputs by their content, so that the merge can be repeated. It is
never executed: if it names the command by which parameters were chosen, that is for people to read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from git_theta.core.merging import Mismatch
from git_theta.errors import CorruptError, UsageError

VERSION = 1
Scope = Literal["conflicts", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A strategy by name, its parameters, and the tensors it is for (a glob over their names)."""

    strategy: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    pattern: str = "*"

    def matches(self, name: str) -> bool:
        """Whether the rule is for a tensor."""
        return fnmatchcase(name, self.pattern)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instructions:
    """What decides a merge. The first rule that matches a tensor is the one for it.

    `scope` says whether strategies see only conflicts or all that any side changed; `mismatch`
    what is done where shapes differ; `device` where to compute.
    """

    rules: tuple[Rule, ...] = ()
    scope: Scope = "conflicts"
    mismatch: Mismatch = "rows"
    device: str = "auto"

    def __post_init__(self) -> None:
        """Refuse words that mean nothing."""
        for key, value, allowed in (
            ("scope", self.scope, get_args(Scope)),
            ("mismatch", self.mismatch, get_args(Mismatch)),
        ):
            if value not in allowed:
                raise UsageError(f"{key} is {value!r}", hint=f"one of {', '.join(allowed)}")

    def rule(self, name: str) -> Rule | None:
        """The rule for a tensor."""
        return next((rule for rule in self.rules if rule.matches(name)), None)

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "rules": [
                {"for": r.pattern, "strategy": r.strategy, "parameters": dict(r.parameters)}
                for r in self.rules
            ],
            "scope": self.scope,
            "mismatch": self.mismatch,
            "device": self.device,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One input of a merge by content: `identity` of the model, digests of its statistics."""

    label: str
    identity: str
    statistics: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decided a merged file. `versions` are those of the strategies used.

    `evaluation` says what was tried, and how a command of the user judged it.
    """

    instructions: Instructions
    versions: Mapping[str, int]
    base: Input | None
    models: Sequence[Input]
    made_with: Mapping[str, str] = field(default_factory=dict)
    evaluation: Mapping[str, Any] | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        raw = {
            "git-theta-recipe": VERSION,
            **self.instructions.plain(),
            "versions": dict(self.versions),
            "base": None if self.base is None else _input(self.base),
            "models": [_input(model) for model in self.models],
            "made_with": dict(self.made_with),
        }
        if self.evaluation is not None:
            raw["evaluation"] = dict(self.evaluation)
        return raw

    def dump(self) -> bytes:
        """As canonical JSON."""
        return json.dumps(self.plain(), indent=1, sort_keys=True).encode() + b"\n"


def _input(one: Input) -> dict[str, Any]:
    return {"label": one.label, "identity": one.identity, "statistics": dict(one.statistics)}


def load(data: bytes) -> Recipe:
    """Read a recipe.

    Raises:
        CorruptError: the bytes are none.
    """
    try:
        raw = json.loads(data)
        if raw["git-theta-recipe"] != VERSION:
            raise CorruptError("the recipe is of a newer version", hint="upgrade git-theta")
        return Recipe(
            instructions=instructions_from(raw),
            versions={str(name): int(number) for name, number in raw["versions"].items()},
            base=None if raw["base"] is None else _read_input(raw["base"]),
            models=tuple(map(_read_input, raw["models"])),
            made_with={str(k): str(v) for k, v in raw["made_with"].items()},
            evaluation=dict(raw["evaluation"]) if "evaluation" in raw else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CorruptError(f"a recipe is damaged: {error!r}") from error


def _read_input(raw: Mapping[str, Any]) -> Input:
    return Input(
        label=str(raw["label"]),
        identity=str(raw["identity"]),
        statistics={str(k): str(v) for k, v in raw["statistics"].items()},
    )


def instructions_from(raw: Mapping[str, Any]) -> Instructions:
    """Instructions from JSON (or YAML) values."""
    return Instructions(
        rules=tuple(
            Rule(
                strategy=str(rule["strategy"]),
                parameters=dict(rule.get("parameters") or {}),
                pattern=str(rule.get("for", "*")),
            )
            for rule in raw["rules"]
        ),
        scope=raw.get("scope", "conflicts"),
        mismatch=raw.get("mismatch", "rows"),
        device=str(raw.get("device", "auto")),
    )
