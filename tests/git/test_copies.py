"""Files restored by copies of the process: the same bytes, whatever becomes of the copies."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints import weights
from tests.sandbox import Sandbox, model

pytestmark = [
    pytest.mark.git,
    pytest.mark.skipif(sys.platform != "linux", reason="copies are made on Linux alone"),
]

NAME = "m.safetensors"
PATIENCE = 60

# Fills memory, and writes down who filled what.
FILLING = """
import os, signal, sys, time
from git_theta.core import copies
first = os.getpid()

def fill(number, view):
    with open("done", "a") as file:
        file.write(f"{number} {os.getpid()}\\n")
    if os.getpid() != first:
        DURING
    view[:] = bytes([number]) * len(view)

sizes = [1000 * (n + 1) for n in range(12)]
BEFORE
got = copies.filled(sizes, 2, fill)
for number, view in enumerate(got):
    assert view == bytes([number]) * sizes[number], number
    AFTER
try:
    os.waitpid(-1, 0)
except ChildProcessError:  # nobody is left
    print(first)
"""


def filling(during: str = "pass", before: str = "pass", after: str = "pass") -> list[str]:
    code = FILLING.replace("DURING", during).replace("BEFORE", before).replace("AFTER", after)
    return [sys.executable, "-c", code]


def who(folder: Path, words: list[str]) -> tuple[list[int], bool]:
    """Which items this process did in the end, and whether others tried any."""
    told = folder / "done"
    told.unlink(missing_ok=True)
    first = subprocess.run(words, cwd=folder, check=True, text=True, capture_output=True).stdout
    lines = [line.split() for line in told.read_text().splitlines()]
    return [int(n) for n, by in lines if by == first.strip()], len({by for _, by in lines}) > 1


def test_all_is_done_by_copies(tmp_path: Path):
    here, others = who(tmp_path, filling())
    assert here == []
    assert others


@pytest.mark.parametrize(
    "during",
    [
        "if number == 3: os.kill(os.getpid(), signal.SIGKILL)",
        "if number == 3: os._exit(1)",
        "if number == 3: raise MemoryError",
        "os._exit(1)",
        "raise OSError",
    ],
)
def test_what_a_copy_cannot_do_is_done_here(tmp_path: Path, during: str):
    here, others = who(tmp_path, filling(during))
    assert 3 in here
    assert others
    assert (here == [*range(12)]) is not during.startswith("if")


def test_without_copies_all_is_done_here(tmp_path: Path):
    no_more = (
        "import errno\ndef fork(): raise BlockingIOError(errno.EAGAIN, 'no')\ncopies.fork = fork"
    )
    assert who(tmp_path, filling(before=no_more)) == ([*range(12)], False)


def test_an_error_is_told_here(tmp_path: Path):
    words = filling("raise OSError(number)", before="first = 0")
    done = subprocess.run(words, cwd=tmp_path, check=False, text=True, capture_output=True)
    assert done.returncode == 1
    assert done.stderr.endswith("OSError: 0\n")


def test_whoever_stops_early_leaves_nobody(tmp_path: Path):
    here, others = who(tmp_path, filling(after="got.close() if number == 4 else None"))
    assert (here, others) == ([], True)


def test_copies_end_with_the_process(tmp_path: Path):
    process = subprocess.Popen(filling(after="time.sleep(60)"), cwd=tmp_path)
    told = tmp_path / "done"
    until = time.monotonic() + PATIENCE
    while not told.exists() or not told.read_text():
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for copy in set(told.read_text().split()[1::2]):
        while Path(f"/proc/{copy}").exists() and not _is_dead(copy):
            assert time.monotonic() < until
            time.sleep(0.01)


def _is_dead(process: str) -> bool:
    """Whether it only waits for whoever adopted it to see that."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


# The filter, making copies for the smallest file, and writing down that it did.
FILTER = """
import os, sys
from git_theta.cli import main
from git_theta.core import checkpoint, copies
fork = copies.fork
def told():
    process = fork()
    with open(os.environ["TOLD"], "a") as file:
        file.write("first\\n" if process else "copy\\n")
    DURING
    return process
copies.fork, checkpoint._WORTH_COPIES = told, 1
sys.exit(main(["filter-process"]))
"""


@pytest.mark.parametrize("during", ["pass", "os._exit(1) if not process else None"])
def test_a_chain_is_checked_out(sandbox: Sandbox, tmp_path: Path, during: str):
    sandbox.init()
    arrays = {f"layer.{n}.weight": weights(300, 200, seed=n) for n in range(4)}
    model(sandbox.work / NAME, arrays)
    sandbox.commit("version 0")
    for version in range(3):
        for values in arrays.values():
            values[version::97] += np.float32(0.001)
        model(sandbox.work / NAME, arrays)
        sandbox.commit(f"version {version + 1}")
    wanted = (sandbox.work / NAME).read_bytes()
    (script := tmp_path / "filter.py").write_text(FILTER.replace("DURING", during))
    sandbox.env["TOLD"] = str(tmp_path / "told")
    sandbox.git("config", "theta.threads", "2")
    sandbox.git("config", "filter.theta.process", f"{sys.executable} {script}")
    (sandbox.work / NAME).unlink()
    sandbox.git("checkout", "-q", "--", NAME)
    assert (sandbox.work / NAME).read_bytes() == wanted
    assert sorted((tmp_path / "told").read_text().split()) == ["copy"] * 2 + ["first"] * 2
    assert sandbox.git("status", "--porcelain") == ""
    assert list((sandbox.work / ".git" / "theta" / "tmp").iterdir()) == []
