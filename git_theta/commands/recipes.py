"""Recipes from files: in our own schema, or as mergekit writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from git_theta.core.recipe import Instructions, instructions_from
from git_theta.errors import UsageError


def read_recipe(path: Path) -> Instructions:
    """Instructions from a file.

    Raises:
        UsageError: the file is not there, or is no recipe.
    """
    raw = read_file(path)
    try:
        return instructions_from(raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} is no recipe: {error!r}") from error


def read_file(path: Path) -> Any:
    """The values in a YAML or JSON file.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return json.loads(text)
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
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is no YAML: {error}") from error
