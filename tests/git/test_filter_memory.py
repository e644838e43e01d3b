"""Peak memory is set by the working block, never by the model or its largest tensor."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from git_theta.core.manifest import CHUNK
from tests.checkpoints import noise
from tests.sandbox import Sandbox
from tests.unit.formats.headers import entry

pytestmark = pytest.mark.git

SIZE = 600 << 20
LIMIT = 400 << 20


def write_large(path: Path, *, opaque: bool) -> None:
    """A file of one tensor; mostly zeros, so that it costs little, but no block like another."""
    header = json.dumps({"t": entry("F32", [SIZE // 4], 0, SIZE)}).encode()
    with path.open("wb") as file:
        if not opaque:
            file.write(len(header).to_bytes(8, "little") + header)
        start = file.tell()
        for number, offset in enumerate(range(0, SIZE, CHUNK)):
            file.seek(start + offset)
            file.write(noise(1 << 20, seed=number))
        file.truncate(start + SIZE)


def peak(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process; the peak memory of it and of what it ran, in bytes."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


@pytest.mark.parametrize("opaque", [False, True])
def test_the_filter_needs_little_memory(repo: Sandbox, opaque: bool):
    path = repo.work / "m.safetensors"
    write_large(path, opaque=opaque)
    adding = subprocess.Popen(["git", "add", path.name], cwd=repo.work, env=repo.env)
    assert peak(adding) < LIMIT
    text = repo.git("cat-file", "blob", f":0:{path.name}").encode()
    # Git itself would hold all of it; our side is measured alone.
    out = repo.work / "restored"
    (repo.work / "manifest").write_bytes(text)
    with (repo.work / "manifest").open("rb") as stdin, out.open("wb") as stdout:
        words = ["git-theta", "smudge", "--", path.name]
        restoring = subprocess.Popen(words, cwd=repo.work, env=repo.env, stdin=stdin, stdout=stdout)
        assert peak(restoring) < LIMIT
    repo.run("cmp", path, out)
    for large in (path, out):
        large.unlink()
