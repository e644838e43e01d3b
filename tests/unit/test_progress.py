"""Progress is drawn on terminals only, and only for long work."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

WORK = """
import sys, threading
from git_theta.commands import progress
progress.PATIENCE = {patience}
with progress.progress(1000, "adding [x]") as advance:
    threads = [threading.Thread(target=lambda: [advance(1) for _ in range(100)]) for _ in range(10)]
    [t.start() for t in threads]
    [t.join() for t in threads]
print("rich" in sys.modules)
"""


def on_a_terminal(patience: float) -> tuple[str, str]:
    """Run the work with a terminal as standard error: (its output, what was drawn)."""
    leader, follower = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", WORK.format(patience=patience)],
            stdout=subprocess.PIPE,
            stderr=follower,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
            text=True,
            check=True,
        )
        os.close(follower)
        drawn = b""
        try:
            while part := os.read(leader, 4096):
                drawn += part
        except OSError:
            pass  # Linux ends a terminal that nobody holds open with an error
    finally:
        os.close(leader)
    return done.stdout.strip(), drawn.decode()


def test_nothing_is_drawn_without_a_terminal():
    done = subprocess.run(
        [sys.executable, "-c", WORK.format(patience=-1)], capture_output=True, text=True, check=True
    )
    assert (done.stdout.strip(), done.stderr) == ("False", "")


def test_short_work_draws_nothing():
    assert on_a_terminal(60) == ("False", "")


def test_long_work_shows_bytes_and_label():
    output, drawn = on_a_terminal(-1)
    assert output == "True"
    assert "adding [x]" in drawn
    assert "kB" in drawn or "bytes" in drawn
