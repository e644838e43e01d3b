"""What is shipped is what is here."""

from __future__ import annotations

import configparser
import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def setup_cfg():
    """The packaging file."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_every_package_is_listed(setup_cfg):
    listed = set(setup_cfg["options"]["packages"].split())
    folders = [file.parent for file in (ROOT / "git_theta").rglob("__init__.py")]
    here = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert listed == here | {"git_theta.hooks"}


def test_types_are_shipped(setup_cfg):
    assert setup_cfg["options.package_data"]["git_theta"] == "py.typed"
    assert (ROOT / "git_theta" / "py.typed").exists()


@pytest.mark.parametrize("group", ["git_theta.formats", "git_theta.updates"])
def test_every_plugin_of_ours_can_be_loaded(setup_cfg, group):
    listed = re.findall(r"^(\S+) = ", setup_cfg["options.entry_points"][group].strip(), re.M)
    installed = {point.name: point for point in entry_points(group=group)}
    for name in listed:
        assert isinstance(installed[name].load(), type)


def test_the_environment_is_pinned(setup_cfg):
    """A dependency without a pin would make every fresh environment a different one."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)==", (ROOT / "constraints.txt").read_text(), re.M)
    pinned = {re.sub(r"[-_.]+", "-", name).lower() for name in pins}
    lists = [setup_cfg["options"]["install_requires"]]
    lists += setup_cfg["options.extras_require"].values()
    names = [re.split(r"[\[<>=;]", line)[0] for text in lists for line in text.split("\n")]
    wanted = {re.sub(r"[-_.]+", "-", n).lower() for n in names if n and not n.startswith("%")}
    assert wanted <= pinned
