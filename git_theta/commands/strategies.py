"""Strategies made from rules: plug-ins with parameters checked, and gradients over layers."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from git_theta import registry
from git_theta.core.merging import Chosen
from git_theta.core.recipe import Instructions, Rule
from git_theta.core.strategy import Needs
from git_theta.errors import UsageError

_COMMA = re.compile(r",(?![^\[\]{}]*[\]}])")
_NUMBER = re.compile(r"(?:^|[._/])(\d+)(?=[._/])")


class Chooser:
    """Names the strategy for each tensor, made once for each set of parameters."""

    def __init__(self, instructions: Instructions, names: Iterable[str]) -> None:
        self._instructions = instructions
        self._places = layers(names)
        self._made: dict[str, Any] = {}

    def __call__(self, name: str) -> Chosen | None:
        """The strategy for a tensor, or None where no rule is for it."""
        rule = self._instructions.rule(name)
        if rule is None:
            return None
        found = strategy_class(rule.strategy)
        if rule.pattern == "*" and self._is_running(name) and not hasattr(found, "takes"):
            return self._running(rule)
        place = self._places.get(name, 0.0)
        parameters = {
            key: _at(found, key, value, place, name) for key, value in rule.parameters.items()
        }
        key = json.dumps([rule.strategy, parameters], sort_keys=True)
        if key not in self._made:
            self._made[key] = make(rule.strategy, parameters)
        return Chosen(strategy=self._made[key], parameters=parameters)

    def _is_running(self, name: str) -> bool:
        """Whether a tensor is what a BatchNorm has seen on average, not what it has learnt."""
        stem, _, last = name.rpartition("running_")
        return last in ("mean", "var") and f"{stem}num_batches_tracked" in self._places

    def _running(self, rule: Rule) -> Chosen:
        """Averages of data are averaged, whatever is done with weights: a variance stays one."""
        weights = rule.parameters.get("weights", ())
        plain = isinstance(weights, list) and all(isinstance(w, (int, float)) for w in weights)
        parameters = {"weights": weights} if plain and sum(weights) > 0 else {}
        note = "a running statistic of BatchNorm was averaged: estimate it anew on some data"
        return Chosen(strategy=make("average", parameters), parameters=parameters, note=note)


def strategy_class(name: str) -> Any:
    """The class of a strategy.

    Raises:
        NoPluginError: no installed package offers it.
    """
    return registry.load_class("merges", name)


def parameters_of(name: str) -> set[str]:
    """The names of a strategy's parameters."""
    return {field.name for field in dataclasses.fields(strategy_class(name))}


def strategy_needs(rule: Rule) -> Needs:
    """What the strategy of a rule needs."""
    found: Needs = strategy_class(rule.strategy).needs
    return found


def make(name: str, parameters: Mapping[str, Any]) -> Any:
    """A strategy with its parameters.

    Raises:
        UsageError: it has no such parameter, one is missing, or one is not of its kind.
    """
    found = strategy_class(name)
    fields = {field.name: field for field in dataclasses.fields(found)}
    for key in parameters:
        if key not in fields:
            known = ", ".join(fields) or "none"
            raise UsageError(f"{name} has no parameter {key!r}", hint=f"its parameters: {known}")
    missing = [
        key
        for key, field in fields.items()
        if key not in parameters
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UsageError(
            f"{name} needs {', '.join(missing)}", hint=f"for example --set {missing[0]}=0.5"
        )
    values = {key: _typed(name, fields[key], value) for key, value in parameters.items()}
    try:
        return found(**values)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}: {error}") from error


def _typed(strategy: str, field: dataclasses.Field[Any], value: Any) -> Any:
    """A JSON value as the field's annotation wants it."""
    kind = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", "")
    if isinstance(value, list):
        return tuple(tuple(v) if isinstance(v, list) else v for v in value)
    fits = {"float": (int, float), "int": (int,), "bool": (bool,), "str": (str,)}
    wanted = fits.get(kind)
    wrong = wanted is not None and not isinstance(value, wanted)
    if wrong or (isinstance(value, bool) and kind in ("float", "int")):
        raise UsageError(f"{strategy}: {field.name} is {value!r}, and must be of type {kind}")
    return float(value) if kind == "float" else value


# --- gradients -----------------------------------------------------------------------------------


def layers(names: Iterable[str]) -> dict[str, float]:
    """Where each tensor lies between the first layer (0) and the last (1).

    The layer is the first number in a name. Tensors without one are before the layers if their
    names say that they embed, else behind.
    """
    found = {name: _NUMBER.search(name) for name in names}
    numbers = {name: int(match[1]) for name, match in found.items() if match}
    last = max(numbers.values(), default=0)
    return {
        name: (numbers[name] / last if last else 0.0)
        if name in numbers
        else (0.0 if "embed" in name or "wte" in name or "wpe" in name else 1.0)
        for name in found
    }


def _at(found: Any, key: str, value: Any, place: float, name: str) -> Any:
    """The value of a parameter for one tensor: itself, or what a gradient or filters say there."""
    if not isinstance(value, list) or not value:
        return value
    if all(isinstance(item, Mapping) and "value" in item for item in value):
        matching = (item["value"] for item in value if _is_for(item.get("filter"), name))
        chosen = next(matching, None)
        if chosen is None:
            raise UsageError(f"{key} says nothing for {name}", hint="add a last one without filter")
        return _at(found, key, chosen, place, name)
    kinds = {field.name: str(field.type) for field in dataclasses.fields(found)}
    if "tuple" not in kinds.get(key, ""):
        return _gradient(value, place)
    each = [_of_model(item, place, name) for item in value]
    one_for_all = len(each) == 1 and isinstance(value[0], list) and "|" in kinds[key]
    return each[0] if one_for_all else each


def _is_for(pattern: str | None, name: str) -> bool:
    """Whether a filter is for a tensor: a part of its name, or anything."""
    return pattern is None or pattern == "*" or pattern in name


def _of_model(item: Any, place: float, name: str) -> Any:
    """One model's value of a parameter at one tensor."""
    if not isinstance(item, list):
        return item
    if all(isinstance(part, Mapping) for part in item):
        found = (part["value"] for part in item if _is_for(part.get("filter"), name))
        return _of_model(next(found, 0.0), place, name)
    return _gradient(item, place)


def _gradient(values: Sequence[Any], place: float) -> float:
    """Piecewise linear between values spread evenly over the layers."""
    try:
        points = [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise UsageError(f"{list(values)!r} is no list of numbers over the layers") from error
    at = place * (len(points) - 1)
    low = min(int(at), len(points) - 1)
    high = min(low + 1, len(points) - 1)
    return points[low] + (points[high] - points[low]) * (at - low)


def parse_setting(text: str) -> tuple[str, Any]:
    """`key=value` with the value as JSON, or as it is where it is none.

    Raises:
        UsageError: there is no "=".
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"{text!r} is no setting", hint="write --set density=0.2")
    return key, parse_value(value)


def parse_value(text: str) -> Any:
    """A value as JSON, or the text as it is where it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def split_values(text: str) -> list[str]:
    """What commas separate, but those in lists and objects."""
    return [part for part in _COMMA.split(text) if part]


def rule(strategy: str, settings: Mapping[str, Any], pattern: str = "*") -> Rule:
    """A rule, checked against the plug-in."""
    strategy_class(strategy)
    return Rule(strategy=strategy, parameters=dict(settings), pattern=pattern)
