"""A format from another package, through real Git, with that package and without it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import site
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

from git_theta.core.manifest import is_manifest, parse
from tests.sandbox import Sandbox, model

pytestmark = pytest.mark.git

PLUGIN = "git_theta_json"


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has all that this one has, but for the plug-in."""
    home = tmp_path_factory.mktemp("bare") / "venv"
    venv.EnvBuilder(symlinks=True).create(home)
    python = home / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    said = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
    packages = Path(said.stdout.strip())
    for place in map(Path, site.getsitepackages()):
        for entry in place.iterdir() if place.is_dir() else ():
            if PLUGIN not in entry.name and not (packages / entry.name).exists():
                (packages / entry.name).symlink_to(entry)
    program = home / "bin" / "git-theta"
    program.write_text(f"#!{python}\nfrom git_theta.cli import main\nraise SystemExit(main())\n")
    program.chmod(0o755)
    return program.parent


@pytest.fixture
def numbers(sandbox: Sandbox) -> Sandbox:
    """A repository with a JSON model and one of a format that needs no plug-in."""
    importlib.metadata.distribution("git-theta-json")  # make setup installs it
    sandbox.init()
    sandbox.theta("track", "*.json", "-q")
    write(sandbox, 1)
    model(sandbox.work / "b.safetensors")
    sandbox.commit("models")
    return sandbox


def write(sandbox: Sandbox, seed: int, name: str = "a.json") -> bytes:
    """A JSON model; only its last layer depends on the seed."""
    rng, other = np.random.default_rng(0), np.random.default_rng(seed)
    layers = {
        "first": {"weight": rng.normal(size=(60, 50)).tolist(), "bias": [0.0] * 50},
        "last": {"weight": other.normal(size=(50, 4)).tolist(), "steps": list(range(100))},
    }
    data = json.dumps({"name": "tiny", "layers": layers}, indent=2).encode() + b"\n"
    (sandbox.work / name).write_bytes(data)
    return data


def staged(sandbox: Sandbox, path: str) -> bytes:
    return sandbox.git("show", f":{path}").encode()


def in_bare(sandbox: Sandbox, programs: Path) -> dict[str, str]:
    """The sandbox's environment where Git finds the git-theta without the plug-in."""
    own = str(Path(sys.executable).parent)
    rest = [part for part in sandbox.env["PATH"].split(os.pathsep) if part != own]
    return {"PATH": os.pathsep.join([str(programs), *rest])}


def test_the_bare_environment_is_one(sandbox: Sandbox, bare: Path):
    (sandbox.root / "work").mkdir()
    ask = (
        "from git_theta import registry; import importlib.metadata as m;"
        "print(registry.names('formats'), [d for d in m.packages_distributions() if 'json' in d])"
    )
    said = sandbox.run(bare / "python", "-c", ask).stdout
    assert "safetensors" in said
    assert "'json'" not in said
    assert PLUGIN not in said


def test_the_file_is_kept_exactly_and_by_tensors(numbers: Sandbox):
    data = (numbers.work / "a.json").read_bytes()
    text = staged(numbers, "a.json")
    manifest = parse(text)
    assert manifest.format == "json"
    assert manifest.plugins == {"git_theta.formats:json": f"git-theta-json {version()}"}
    assert manifest.tensors["layers.first.weight"].shape == (60, 50)
    assert set(manifest.tensors) == {
        "layers.first.weight", "layers.first.bias", "layers.last.weight", "layers.last.steps",
    }  # fmt: skip
    (numbers.work / "a.json").unlink()
    numbers.git("checkout", "--", "a.json")
    assert (numbers.work / "a.json").read_bytes() == data
    assert numbers.git("status", "--porcelain") == ""


def version() -> str:
    return importlib.metadata.version("git-theta-json")


def test_only_what_changed_changes(numbers: Sandbox):
    before = parse(staged(numbers, "a.json"))
    data = write(numbers, 2)
    numbers.commit("another last layer")
    after = parse(staged(numbers, "a.json"))
    different = {n for n, t in after.tensors.items() if t != before.tensors[n]}
    assert different == {"layers.last.weight"}
    assert after.skeleton == before.skeleton
    numbers.git("checkout", "-q", "HEAD~")
    numbers.git("checkout", "-q", "main")
    assert (numbers.work / "a.json").read_bytes() == data


@pytest.mark.parametrize(
    "data",
    [
        b'{"no": "lists"}',
        b'{"a": [1, 2], "half": ',
        b"[" * 300 + b"1" + b"]" * 300,
        b'{"a": [1], "b": "\xff"}',
        b"",
        b"\r\n",
        b'{"a": [1.50, 2], "b": [[1], [2, 3]]}',
    ],
)
def test_what_is_not_readable_is_kept_all_the_same(numbers: Sandbox, data: bytes):
    (numbers.work / "c.json").write_bytes(data)
    numbers.commit("odd")
    (numbers.work / "c.json").unlink()
    numbers.git("checkout", "--", "c.json")
    assert (numbers.work / "c.json").read_bytes() == data
    assert numbers.git("status", "--porcelain") == ""


def test_a_file_without_lists_is_said_to_be_opaque(numbers: Sandbox):
    (numbers.work / "c.json").write_bytes(b'{"weight_map": {"a": "b"}}')
    said = numbers.run("git", "add", "c.json").stderr
    assert "c.json: not readable as json, stored as opaque chunks" in said
    assert "no list of numbers" in said
    assert parse(staged(numbers, "c.json")).plugins == {}


def test_without_the_plugin_that_one_manifest_stays(numbers: Sandbox, bare: Path):
    data = {name: (numbers.work / name).read_bytes() for name in ("a.json", "b.safetensors")}
    text = staged(numbers, "a.json")
    env = in_bare(numbers, bare)
    for name in data:
        (numbers.work / name).unlink()

    said = numbers.run("git", "checkout", "--", ".", env=env).stderr
    assert "a.json: left as a manifest: a plug-in is missing: git-theta-json" in said
    assert "pip install git-theta-json" in said
    assert (numbers.work / "a.json").read_bytes() == text
    assert is_manifest(text)
    assert (numbers.work / "b.safetensors").read_bytes() == data["b.safetensors"]
    assert numbers.git("status", "--porcelain", env=env) == ""
    (numbers.work / "a.json").touch()
    assert numbers.git("status", "--porcelain", env=env) == ""
    assert numbers.git("diff", "--stat", env=env) == ""

    failed = numbers.theta("pull", env=env, code=4).stderr
    assert "pip install git-theta-json" in failed
    assert (numbers.work / "a.json").read_bytes() == text

    numbers.theta("pull")  # now with the plug-in
    assert (numbers.work / "a.json").read_bytes() == data["a.json"]
    assert numbers.git("status", "--porcelain") == ""


def test_a_plain_checkout_restores_it_too(numbers: Sandbox, bare: Path):
    data = (numbers.work / "a.json").read_bytes()
    (numbers.work / "a.json").unlink()
    numbers.git("checkout", "--", ".", env=in_bare(numbers, bare))
    (numbers.work / "a.json").unlink()
    numbers.git("checkout", "--", ".")
    assert (numbers.work / "a.json").read_bytes() == data


def test_a_clone_without_the_plugin_can_go_on(numbers: Sandbox, bare: Path):
    """Commits made there leave the manifest as it is, and nobody loses the model."""
    data = (numbers.work / "a.json").read_bytes()
    text = staged(numbers, "a.json")
    env = in_bare(numbers, bare)
    (numbers.work / "a.json").unlink()
    numbers.git("checkout", "--", ".", env=env)
    model(numbers.work / "b.safetensors", {"layer.0.weight": np.ones((40, 50), "<f4")})
    numbers.git("add", "-A", env=env)
    numbers.git("commit", "-q", "-m", "from there", env=env)
    assert numbers.git("diff", "--name-only", "HEAD~").split() == ["b.safetensors"]
    assert staged(numbers, "a.json") == text
    (numbers.work / "a.json").unlink()
    numbers.git("checkout", "--", ".")
    assert (numbers.work / "a.json").read_bytes() == data


def test_without_the_plugin_new_json_is_opaque(numbers: Sandbox, bare: Path):
    env = in_bare(numbers, bare)
    data = write(numbers, 3, "new.json")
    numbers.git("add", "new.json", env=env)
    assert parse(staged(numbers, "new.json")).format == "opaque"
    (numbers.work / "new.json").unlink()
    numbers.git("checkout", "--", "new.json", env=env)
    assert (numbers.work / "new.json").read_bytes() == data
    (numbers.work / "new.json").touch()
    assert numbers.git("diff", "--stat") == ""  # the plug-in does not make a clean tree dirty
