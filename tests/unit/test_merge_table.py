"""The table of strategies in the documents says what the code does."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from git_theta import registry

TEXT = (Path(__file__).parents[2] / "docs" / "merging.md").read_text()
PAGE = TEXT[TEXT.index("\n## Strategies") : TEXT.index("\n## Statistics")]
OURS = [
    name for name in registry.names("merges") if registry.provider("merges", name)[0] == "git-theta"
]
TAKES = ("ours", "theirs", "base")


def row(name: str) -> list[str]:
    """The cells of a strategy's row."""
    found = re.search(rf"^\| `{re.escape(name)}` \|.*$", PAGE, re.MULTILINE)
    assert found, f"{name} is not in the table"
    return [cell.strip() for cell in found[0].strip("|").split("|")]


@pytest.mark.parametrize("name", [name for name in OURS if name not in TAKES])
def test_parameters_and_defaults_are_those_of_the_code(name: str):
    kind = registry.find("merges", name).load()
    said = re.findall(r"`([^`]+)`", row(name)[2])
    wanted = []
    for field in fields(kind):
        default = field.default
        plain = default is MISSING or default == ()
        text = str(default).lower() if isinstance(default, bool) else str(default)
        wanted.append(field.name if plain else f"{field.name}={text}")
    assert said == wanted


@pytest.mark.parametrize("name", [name for name in OURS if name not in TAKES])
def test_needs_are_those_of_the_code(name: str):
    kind = registry.find("merges", name).load()
    sees = row(name)[3]
    if kind.needs.statistics:
        assert sees == ", ".join(kind.needs.statistics)
        return
    words = {"element": "entry", "tensor": "matrix" if kind.needs.double else "tensor"}
    wanted = words.get(kind.needs.scope, kind.needs.scope)
    assert sees == wanted + (", order" if kind.needs.ordered else "")


def test_nothing_else_is_in_the_table():
    named = set(re.findall(r"^\| `([a-z-]+)`[ ,|]", PAGE, re.MULTILINE))
    assert {name for name in named if "=" not in name} <= set(OURS)
