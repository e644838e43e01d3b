"""What a file may ask for is bounded, and the message of a refusal names the key of the bound."""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from git_theta.core import limits
from git_theta.core.limits import KEYS, Limits
from git_theta.core.manifest import parse
from git_theta.errors import FormatError, ManifestError
from git_theta.formats.safetensors import SafetensorsFormat
from git_theta.formats.torch_zip import TorchZipFormat
from git_theta.settings import Settings
from git_theta.testing import BytesReader
from tests.checkpoints import torch_zip, weights
from tests.sandbox import Sandbox, encode, model

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    limits.enforce(Limits)


def hold(**given: int) -> None:
    limits.enforce(lambda: Limits(**given))


def deflated(program: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", program)
        archive.writestr("m/version", b"3\n")
    return out.getvalue()


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else {}


TENSORS = encode({f"t{number}": weights(2) for number in range(5)})
ARCHIVE = torch_zip({f"t{number}": weights(2) for number in range(9)})


@pytest.mark.parametrize(
    ("given", "plugin", "data"),
    [
        ({"tensors": 4}, SafetensorsFormat(), TENSORS),
        ({"header": 99}, SafetensorsFormat(), TENSORS),
        ({"tensors": 4}, TorchZipFormat(), ARCHIVE),
        ({"header": 200}, TorchZipFormat(), ARCHIVE),
        ({"header": 1000}, TorchZipFormat(), deflated(pickle.dumps("x" * 2000))),
        ({"ratio": 100}, TorchZipFormat(), deflated(pickle.dumps("x" * (2 << 20)))),
    ],
)
def test_a_format_refuses_what_is_too_much(given: dict[str, int], plugin: Any, data: bytes):
    hold(**given)
    (name,) = given
    with pytest.raises(FormatError, match=re.escape(f"({KEYS[name]})")):
        plugin.locate(BytesReader(data))


def test_what_is_nested_too_deep_has_no_names():
    data = (ROOT / "tests" / "data" / "torch" / "nested.pt").read_bytes()
    assert TorchZipFormat().locate(BytesReader(data)).tensors
    hold(nesting=1)
    assert not TorchZipFormat().locate(BytesReader(data)).tensors


@pytest.mark.parametrize("given", [{"size": 99}, {"tensors": 2}, {"skeleton": 9}])
def test_a_manifest_that_asks_for_too_much(given: dict[str, int]):
    text = (ROOT / "tests" / "data" / "v1" / "model.safetensors.manifest").read_bytes()
    parse(text)
    hold(**given)
    (name,) = given
    with pytest.raises(ManifestError, match=re.escape(f"({KEYS[name]})")) as caught:
        parse(text)
    assert f"git config {KEYS[name]}" in caught.value.hint


def test_the_keys_are_read_and_written_down():
    told = (ROOT / "docs" / "commands.md").read_text()
    assert KEYS.keys() == set(Limits._fields)
    for name, key in KEYS.items():
        assert getattr(Settings.read({key.lower(): "3k"}).limits, name) == 3072
        assert f"| `{key}` |" in told


@pytest.mark.parametrize("experts", [100_000])
def test_the_largest_models_fit(experts: int):
    shape = (1 << 15, 1 << 9)  # 1.6 trillion parameters in all
    names = [f"decoder.block.{n % 64}.mlp.experts.expert_{n}.wi.weight" for n in range(experts)]
    size = int(np.prod(shape)) * 4
    header = {
        name: {"dtype": "F32", "shape": shape, "data_offsets": [n * size, (n + 1) * size]}
        for n, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    head = len(text).to_bytes(8, "little") + text
    layout = SafetensorsFormat().locate(BytesReader(head, whole=False))
    assert len(layout.tensors) == experts
    assert layout.end > 6 << 40
    assert layout.end < Limits().size


@pytest.mark.git
def test_git_says_which_limit_it_was(tmp_path: Path):
    repo = Sandbox(tmp_path)
    repo.init()
    data = model(repo.work / "m.safetensors")
    repo.git("config", "theta.maxTensors", "3")
    said = repo.run("git", "add", "-A").stderr
    assert "theta.maxTensors" in said
    assert repo.json("ls-files")
    repo.git("commit", "-qm", "as chunks")
    repo.git("config", "--unset", "theta.maxTensors")
    repo.git("rm", "-q", "--cached", "m.safetensors")
    (repo.work / "m.safetensors").write_bytes(data[:-4] + b"abcd")
    repo.commit("as tensors")
    repo.git("config", "theta.maxSize", "1k")
    (repo.work / "m.safetensors").unlink()
    done = repo.run("git", "checkout", "--", "m.safetensors", code=None)
    assert "theta.maxSize" in done.stderr
    repo.git("config", "--unset", "theta.maxSize")
    repo.git("checkout", "--", "m.safetensors")
    assert (repo.work / "m.safetensors").read_bytes() == data[:-4] + b"abcd"
