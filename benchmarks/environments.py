"""Virtual environments under .cache: one for each peer, and one as a user of this tool has it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.sandbox import CACHE, ROOT, RunError

# What imports torch gets the one that this project is measured with.
TORCH = "torch==2.13.0"
PACKAGES = {
    "git-theta": ("git-theta==0.2.0", "safetensors==0.8.0", TORCH),
    "zipnn": ("zipnn==0.5.4", TORCH),
    "mergekit": ("mergekit==0.1.4", TORCH),
}


def programs(peer: str) -> Path:
    """The folder of a peer's programs, installed at the first call.

    Raises:
        RunError: it cannot be installed; says why.
    """
    wanted = PACKAGES[peer]
    folder = CACHE / "peers" / wanted[0].replace("==", "-")
    done = folder / "installed"
    if done.exists() and done.read_text() == "\n".join(wanted):
        return folder / "bin"
    _install(folder, *wanted)
    done.write_text("\n".join(wanted))
    return folder / "bin"


def ours() -> Path:
    """The folder of this project's programs, as `pip install .` makes them, installed anew.

    In .venv each start takes longer: it looks for what can be edited, and for what tests bring.

    Raises:
        RunError: it cannot be installed; says why.
    """
    folder = CACHE / "ours"
    with tempfile.TemporaryDirectory(dir=CACHE) as place:
        copy = Path(place) / "git-theta"
        # pip would leave what it builds in the sources.
        hidden = shutil.ignore_patterns(".*", "build", "*.egg-info", "*.so", "__pycache__")
        shutil.copytree(ROOT, copy, ignore=hidden)
        _install(folder, str(copy), "-c", str(ROOT / "constraints.txt"))
    return folder / "bin"


def _install(folder: Path, *wanted: str) -> None:
    """Make a virtual environment with some packages in it."""
    print(f"  installing {wanted[0]} into {folder}", file=sys.stderr, flush=True)
    steps = (
        (sys.executable, "-m", "venv", "--clear", str(folder)),
        (str(folder / "bin" / "python"), "-m", "pip", "install", "-q", *wanted),
    )
    for argv in steps:
        found = subprocess.run(argv, check=False, capture_output=True, text=True)
        if found.returncode:
            lines = found.stderr.strip().splitlines() or ["no reason given"]
            raise RunError(f"{wanted[0]} cannot be installed: {lines[-1]}")
