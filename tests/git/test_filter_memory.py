"""Peak memory is set by the working block, never by the model or its largest tensor."""

from __future__ import annotations

import json
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


@pytest.mark.parametrize("opaque", [False, True])
def test_the_filter_needs_little_memory(repo: Sandbox, opaque: bool):
    repo.git("config", "theta.threads", "2")  # each one more takes its share of memory
    path = repo.work / "m.safetensors"
    write_large(path, opaque=opaque)
    assert repo.peak("git", "add", path.name)[0] < LIMIT
    # Git itself would hold all of the restored file; our side is measured alone.
    text = repo.work / "manifest"
    text.write_text(repo.git("cat-file", "blob", f":0:{path.name}"))
    out = repo.work / "restored"
    words = ["sh", "-c", f"git-theta smudge -- {path.name} >{out}"]
    assert repo.peak(*words, stdin=text)[0] < LIMIT
    repo.run("cmp", path, out)
    for large in (path, out):
        large.unlink()
