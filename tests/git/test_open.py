"""`git_theta.open`: tensors out of any version, and no more is fetched than what they lie in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

import git_theta
from git_theta.core.manifest import CHUNK
from git_theta.errors import FormatError, NotTrackedError, UsageError
from tests.sandbox import Sandbox

pytestmark = pytest.mark.git
NAME = "m.safetensors"
ROWS = 3 * CHUNK // 4096


@pytest.fixture
def here(repo: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """A repository that this process works with as a user's would."""
    for name in ("HOME", "GIT_CONFIG_GLOBAL", "PATH"):
        monkeypatch.setenv(name, repo.env[name])
    return repo


def assert_same(found: Any, expected: torch.Tensor) -> None:
    assert isinstance(found, torch.Tensor)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    bits = [one.reshape(-1).view(torch.uint8) for one in (found, expected)]
    assert bits[0].equal(bits[1])


DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.int64, torch.int8, torch.uint8, torch.bool, torch.complex64,
]  # fmt: skip


def test_it_reads_what_safe_open_reads(here: Sandbox):
    tensors = {str(dtype): torch.arange(1, 25).reshape(2, 3, 4).to(dtype) for dtype in DTYPES}
    tensors |= {"scalar": torch.tensor(3.5), "empty": torch.empty(0, 4)}
    path = here.work / NAME
    save_file(tensors, path, metadata={"trained by": "x" * 1000})
    here.commit()
    with safe_open(path, "pt") as theirs, git_theta.open(NAME, repo=here.work) as ours:
        assert ours.keys() == sorted(theirs.keys())
        assert ours.metadata() == theirs.metadata()
        for name in ours.keys():  # noqa: SIM118
            assert_same(ours.get_tensor(name), theirs.get_tensor(name))
            part = ours.get_slice(name)
            assert part.get_shape() == theirs.get_slice(name).get_shape()
            assert part.get_dtype() == theirs.get_slice(name).get_dtype()
            if name != "scalar":
                assert_same(part[:1], theirs.get_slice(name)[:1])
    with git_theta.open(NAME, repo=here.work, framework="np") as model:
        assert model.get_tensor("torch.bfloat16").dtype == ml_dtypes.bfloat16
        assert model.get_slice("torch.float32")[1, ..., ::-2].tolist() == [
            [16.0, 14.0], [20.0, 18.0], [24.0, 22.0]
        ]  # fmt: skip


def test_a_version_by_any_name(here: Sandbox):
    path = here.work / "deep" / "m.pt"
    path.parent.mkdir()
    here.theta("track", "*.pt")
    old, new = torch.ones(3, 4).t(), torch.zeros(4, 3)
    for value in (old, new):
        torch.save({"layer.w": value}, path)
        here.commit()
    for rev, value in (("HEAD~1", old), ("HEAD", new), (None, new)):
        with git_theta.open("deep/m.pt", rev, here.work) as model:
            assert_same(model.get_tensor("layer.w"), value)
            assert_same(model.get_slice("layer.w")[1:3], value[1:3])
            assert model.metadata() is None


def test_what_is_not_there_is_said(here: Sandbox):
    save_file({"w": torch.ones(3, 2)}, here.work / NAME)
    here.commit()
    for path, rev in (("other", "HEAD"), (NAME, "no-such-branch"), (".gitattributes", None)):
        with pytest.raises(NotTrackedError):
            git_theta.open(path, rev, here.work)
    with pytest.raises(UsageError, match="framework"):
        git_theta.open(NAME, repo=here.work, framework="jax")  # type: ignore[arg-type]
    with git_theta.open(NAME, repo=here.work) as model:
        with pytest.raises(NotTrackedError, match="'v'"):
            model.get_tensor("v")
        for wrong in (3, (0, 0, 0), (slice(None), 2)):
            with pytest.raises(IndexError):
                model.get_slice("w")[wrong]


def test_a_dtype_that_no_array_has(here: Sandbox):
    header = b'{"w":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}'
    (here.work / NAME).write_bytes(len(header).to_bytes(8, "little") + header + b"ab")
    here.commit()
    with git_theta.open(NAME, repo=here.work) as model, pytest.raises(FormatError, match="F4"):
        model.get_tensor("w")


@pytest.fixture(scope="module")
def opened(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[git_theta.OpenModel, npt.NDArray[Any]]]:
    root = tmp_path_factory.mktemp("opened")
    repo = Sandbox(root)
    repo.init()
    values = torch.arange(5 * 3 * 2, dtype=torch.int32).reshape(5, 3, 2)
    save_file({"w": values}, repo.work / NAME)
    repo.commit()
    with git_theta.open(NAME, repo=repo.work, framework="np") as model:
        yield model, values.numpy()


ends = st.integers(-7, 7) | st.none()
keys = st.integers(-5, 4) | st.builds(
    slice, ends, ends, st.integers(-3, 3).filter(bool) | st.none()
)


@given(st.lists(keys, max_size=3), st.booleans())
def test_a_slice_is_what_numpy_makes_of_it(opened, words, dots):
    model, values = opened
    key = (*words[:1], *([...] if dots else []), *words[1:])
    try:
        expected = values[key]
    except IndexError:
        with pytest.raises(IndexError):
            model.get_slice("w")[key]
        return
    assert np.array_equal(model.get_slice("w")[key], expected)


def test_no_more_is_fetched_than_is_asked_for(here: Sandbox, tmp_path: Path):
    """One tensor, and then some rows of a tensor of three chunks, of a model that is not here."""
    rng = np.random.default_rng(1)
    big = torch.from_numpy(rng.normal(size=(ROWS, 1024)).astype("<f4"))
    other, small = (torch.from_numpy(rng.normal(size=(1024, 1024)).astype("<f4")) for _ in "12")
    for number, tensors in enumerate(({"other": other, "small": small}, {"big": big})):
        save_file(tensors, here.work / f"{number}.safetensors")
        here.commit()
    host = tmp_path / "host.git"
    here.git("init", "-q", "--bare", host)
    here.git("push", "-q", host, "HEAD:main")
    whole = stored(here)
    shutil.rmtree(here.work)
    here.git("clone", "-q", host, here.work, cwd=here.root, env={"GIT_THETA_SKIP_SMUDGE": "1"})
    assert here.objects() == []
    with git_theta.open("0.safetensors", repo=here.work) as model:
        assert_same(model.get_tensor("small"), small)
    first = stored(here)
    assert first < 1.1 * (small.nbytes + other.nbytes)
    with git_theta.open("1.safetensors", repo=here.work) as model:
        assert_same(model.get_slice("big")[:3], big[:3])
        second = stored(here)
        assert 0 < second - first < 0.7 * whole  # one object holds two of the three chunks
        assert_same(model.get_slice("big")[-100], big[-100])
        assert_same(model.get_slice("big")[5:1], big[5:1])


def stored(repo: Sandbox) -> int:
    return sum(path.stat().st_size for path in repo.objects())


def test_without_torch_it_says_what_to_do(here: Sandbox):
    code = f"import sys; sys.modules['torch'] = None\nimport git_theta\ngit_theta.open({NAME!r})"
    save_file({"w": torch.ones(3)}, here.work / NAME)
    here.commit()
    done = here.run("python", "-c", code, code=1)
    assert done.stderr.splitlines()[-1] == "git_theta.errors.UsageError: torch is not installed"
