"""The house: imports run one way, one module reads the environment, starting stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import git_theta

ROOT = Path(git_theta.__file__).parent
LAYERS = {
    "errors": 0,
    "core": 1,
    "registry": 2,
    "settings": 2,
    "compute": 2,
    "formats": 3,
    "updates": 3,
    "merges": 3,
    "metrics": 3,
    "repo": 3,
    "stats": 3,
    "commands": 4,
    "cli": 5,
}
SIBLINGS = ("formats", "updates", "merges", "metrics", "repo", "stats")
HEAVY = ("click", "git", "json", "msgpack", "numpy", "rich", "sqlite3", "torch", "zstandard")


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names of what a module imports, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(name: str) -> str:
    """The part of the house that a full module name lies in; empty for the package itself."""
    parts = name.split(".")
    return parts[1] if parts[0] == "git_theta" and len(parts) > 1 else ""


def wrong_imports(path: Path, text: str) -> list[str]:
    here = path.relative_to(ROOT).with_suffix("").parts[0]
    found = []
    for name in imports(ast.parse(text)):
        there = room(name)
        if there not in LAYERS or here not in LAYERS or there == here:
            continue
        if LAYERS[there] > LAYERS[here] or (here in SIBLINGS and there in SIBLINGS):
            found.append(f"{here} imports {name}")
    return found


def test_every_module_has_a_place_in_the_house():
    rooms = {path.relative_to(ROOT).with_suffix("").parts[0] for path in modules()}
    assert rooms - {"__init__", "testing", "hooks"} <= set(LAYERS)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path):
    assert wrong_imports(path, path.read_text()) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("core/x.py", "from git_theta.repo import gitrepo"),
        ("repo/x.py", "def f():\n    import git_theta.formats.safetensors"),
        ("errors.py", "from git_theta.core.manifest import parse"),
        ("updates/x.py", "from git_theta import cli"),
    ],
)
def test_a_wrong_import_is_seen(path: str, text: str):
    assert wrong_imports(ROOT / path, text)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_only_settings_reads_the_environment(path: Path):
    reads = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv")
    ]
    assert not reads or path.name == "settings.py"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_can_unpickle(path: Path):
    names = set(imports(ast.parse(path.read_text())))
    assert not names & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve"}


def loaded_after(code: str, heavy: Iterable[str] = HEAVY) -> set[str]:
    """Which heavy packages a fresh Python has imported after running some code."""
    code += "\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()) & set(heavy)


def test_the_filter_starts_light():
    heavy = ("concurrent.futures.thread", "logging", "numpy", "torch")
    assert loaded_after("import git_theta.commands.filter", heavy) == set()


def test_a_status_needs_little():
    heavy = ("_hashlib", "dataclasses", "numpy", "sqlite3", "tempfile")
    assert loaded_after("from git_theta.commands import filter, session, touched", heavy) == set()


def test_the_door_is_light():
    assert loaded_after("import git_theta.cli") == set()
    assert loaded_after("from git_theta.cli import main; main(['--version'])") == set()


def test_help_needs_no_numbers():
    heavy = loaded_after("from git_theta.cli import main; main(['-h'])")
    assert not heavy & {"numpy", "torch", "rich", "git", "msgpack", "zstandard"}


def test_no_command_imports_torch_or_draws_tables():
    code = """
from git_theta.commands.menu import COMMANDS, MENU
import click
for name in COMMANDS:
    MENU.get_command(click.Context(MENU), name)
"""
    assert not loaded_after(code) & {"torch", "rich"}
