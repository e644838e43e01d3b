"""Recipes from files: in our own schema, or as mergekit writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from git_theta.commands.mergekit import Explicit, from_mergekit, is_mergekit
from git_theta.commands.strategies import parameters_of
from git_theta.core.recipe import Instructions, instructions_from
from git_theta.errors import UsageError

# YAML is read slowly, and nobody writes as much by hand.
MAX_SIZE = 128 << 10


def read_recipe(path: Path) -> Instructions | Explicit:
    """Instructions from a file; those of mergekit name their models.

    Raises:
        UsageError: the file is not there, or is no recipe.
    """
    raw = read_file(path)
    try:
        if is_mergekit(raw):
            return from_mergekit(raw, parameters_of)
        return instructions_from(_spelled_out(raw))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path} is no recipe: {error!r}") from error


def _spelled_out(raw: Any) -> Any:
    """The short form, one strategy and exceptions by name, as rules."""
    if "rules" in raw:
        return raw
    exceptions = raw.get("for") or {}
    rules = [
        {"for": pattern, **({"strategy": rule} if isinstance(rule, str) else rule)}
        for pattern, rule in exceptions.items()
    ]
    if "strategy" in raw:
        rules.append({"strategy": raw["strategy"], "parameters": raw.get("parameters")})
    unknown = raw.keys() - {"strategy", "parameters", "for", "scope", "mismatch", "device"}
    if unknown or not rules:
        raise UsageError(f"a recipe says nothing of {', '.join(sorted(unknown)) or 'a strategy'}")
    return {key: value for key, value in raw.items() if key not in ("for", "parameters")} | {
        "rules": rules
    }


def read_file(path: Path) -> Any:
    """The values in a YAML or JSON file.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        if path.stat().st_size > MAX_SIZE:
            raise UsageError(f"{path} has more than {MAX_SIZE} bytes: this is no recipe")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is no text in UTF-8") from error
    try:
        return json.loads(text)
    except RecursionError as error:
        raise UsageError(f"{path} is nested too deep") from error
    except ValueError:
        return _yaml(path, text)


def _yaml(path: Path, text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise UsageError(
            f"{path} is YAML, which needs another package", hint="pip install git-theta[recipes]"
        ) from error
    try:
        return yaml.safe_load(text)
    except RecursionError as error:
        raise UsageError(f"{path} is nested too deep") from error
    except (yaml.YAMLError, ValueError) as error:  # a date that is none is a ValueError
        raise UsageError(f"{path} is no YAML: {error}") from error
