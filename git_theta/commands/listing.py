"""The list of strategies: what each does, takes and needs."""

from __future__ import annotations

import dataclasses
from typing import Any

from git_theta import registry
from git_theta.commands.strategies import strategy_class
from git_theta.commands.terminal import complain, printable, say_json, say_table
from git_theta.errors import PluginError


def list_strategies(*, as_json: bool) -> None:
    """Print all strategies; one that cannot be loaded is named on standard error."""
    found = {name: _load(name) for name in registry.names("merges")}
    rows = [_describe(name, strategy) for name, strategy in found.items() if strategy]
    if as_json:
        say_json(rows)
        return
    heads = ("STRATEGY", "WHAT", "PARAMETERS", "NEEDS")
    say_table(heads, [(r["name"], r["about"], _shown(r["parameters"]), r["text"]) for r in rows])


def _load(name: str) -> Any:
    try:
        return strategy_class(name)
    except PluginError as error:
        complain(f"git theta: {printable(name)}: {printable(str(error))}")
    return None


def _describe(name: str, found: Any) -> dict[str, Any]:
    needs = found.needs
    return {
        "name": name,
        "version": found.version,
        "about": (found.__doc__ or "").strip().splitlines()[0],
        "parameters": [
            {"name": f.name, "required": f.default is dataclasses.MISSING, "default": _default(f)}
            for f in dataclasses.fields(found)
        ],
        "base": needs.base,
        "models": list(needs.models),
        "scope": needs.scope,
        "statistics": list(needs.statistics),
        "ordered": needs.ordered,
        "seeded": needs.seeded,
        "every": needs.every or needs.scope == "model",
        "text": _needs(needs),
    }


def _default(field: Any) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if callable(field.default_factory) else None


def _shown(parameters: list[dict[str, Any]]) -> str:
    return ", ".join(
        p["name"] if p["required"] else f"{p['name']}={_value(p['default'])}" for p in parameters
    )


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _needs(needs: Any) -> str:
    said = []
    least, most = needs.models
    if most == least:
        said.append(f"{least} models")
    if needs.base == "required":
        said.append("an ancestor")
    said.extend(f"{kind} statistics" for kind in needs.statistics)
    if needs.scope == "model" or needs.every:
        said.append("sees all tensors")
    return ", ".join(said)
