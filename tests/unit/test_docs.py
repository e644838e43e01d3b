"""What the documents show is tried as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from git_theta.commands.menu import COMMANDS, MENU

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# Verbs whose options are those of Git.
PASSED_ON = ("switch", "checkout", "restore")


def test_the_example_of_a_format_obeys_the_laws(tmp_path: Path):
    text = (ROOT / "docs" / "plugins.md").read_text()
    code = "\n\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    (tmp_path / "test_mine.py").write_text(code)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("--rootdir", tmp_path, "-W", "ignore", tmp_path / "test_mine.py"),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_a_page_names_exist(page: Path):
    named = set(re.findall(r"git theta ([a-z][a-z-]+)", page.read_text()))
    assert named - {"merge", "diff"} <= set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_that_a_page_names_exist(page: Path):
    for verb, words in re.findall(r"git theta ([a-z][a-z-]+)([^`\n|;&)]*)", page.read_text()):
        if verb not in PASSED_ON:
            plain = re.sub(r"'[^']*'|\"[^\"]*\"", "", words)
            named = set(re.findall(r"(?<=[ \[])--[a-z][a-z-]*", plain))
            assert named - {"--help"} <= options_of(verb), verb + words


def options_of(verb: str) -> set[str]:
    found = MENU.get_command(click.Context(MENU), verb)
    assert found is not None
    below = found.commands.values() if isinstance(found, click.Group) else ()
    parameters = [parameter for one in (found, *below) for parameter in one.params]
    return {name for one in parameters for name in (*one.opts, *one.secondary_opts)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_project_lead_somewhere(page: Path):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_messages_that_recovery_names_are_printed():
    text = (ROOT / "docs" / "recovery.md").read_text().partition("## All messages")[2]
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    messages = [message for row in rows for message in re.findall(r"`([^`]+)`", row)]
    assert len(messages) > 25
    source = "\n".join(path.read_text() for path in (ROOT / "git_theta").rglob("*.py"))
    assert [message for message in messages if message not in source] == []


def test_anchors_of_recovery_exist():
    text = (ROOT / "docs" / "recovery.md").read_text()
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
    linked = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert linked <= anchors
    assert anchors <= linked, "every section is in the table of contents"


def test_every_test_that_the_table_of_workflows_names_exists():
    table = (ROOT / "docs" / "workflows.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("| ") and "---" not in line]
    rows = [line for line in rows if not line.startswith("| workflow")]
    source = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row.split("|")[-2])
        assert named, row
        for name in named:
            assert f"def {name}(" in source, name
    of_ours = re.findall(r"^def (test_\w+)\(", _workflows(), re.MULTILINE)
    assert [name for name in of_ours if name not in table] == []


def _workflows() -> str:
    return "".join(p.read_text() for p in (ROOT / "tests" / "workflows").glob("test_*.py"))
