"""Merges small tensors with mergekit, and keeps inputs and outputs for tests to compare with.

    python -m tests.oracles.run_mergekit [DIRECTORY]

Makes a virtual environment of its own in DIRECTORY (about 1.6 GB with a CPU torch, kept for the
next time), runs the command `mergekit-pytorch` there for each case of `tests/oracles/cases.py`, in
one process because starting it takes seconds, and writes tests/data/merging/mergekit.safetensors.
mergekit is a program of its own here: nothing of it is imported or copied.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import load_file, save_file

from tests.oracles.cases import CASES, EXPLICIT, MODELS, Case

VERSION = "mergekit==0.1.5"
GOLDEN = Path(__file__).parents[1] / "data" / "merging" / "mergekit.safetensors"
SHAPES = {"matrix": (12, 20), "vector": (30,), "block": (3, 4, 5), "small": (5,)}


def inputs() -> dict[str, dict[str, Any]]:
    """Three models near their ancestor, in float32; some entries are untouched by some models."""
    generator = np.random.default_rng(20261121)
    base = {name: generator.standard_normal(shape) for name, shape in SHAPES.items()}
    common = {name: generator.standard_normal(shape) for name, shape in SHAPES.items()}
    models: dict[str, dict[str, Any]] = {"base": base}
    for model in MODELS[1:]:
        models[model] = {
            name: base[name]
            + 0.3
            * (common[name] + generator.standard_normal(shape))
            * generator.choice([0.0, 1.0], shape, p=[0.2, 0.8])
            for name, shape in SHAPES.items()
        }
    return {
        model: {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}
        for model, tensors in models.items()
    }


def configuration(case: Case) -> dict[str, Any]:
    """The case as mergekit's YAML has it."""
    models = []
    explicit = EXPLICIT.get(case.method, {})
    shared = {key: value for key, value in case.whole.items() if key in explicit}
    for index, model in enumerate(case.models):
        own = explicit | shared | {key: values[index] for key, values in case.each.items()}
        models.append({"model": f"{model}.safetensors"} | ({"parameters": own} if own else {}))
    found: dict[str, Any] = {"merge_method": case.method, "models": models, "dtype": "float32"}
    if case.base:
        found["base_model"] = f"{case.base}.safetensors"
    whole = explicit | case.whole
    if whole:
        found["parameters"] = whole
    return found


def environment(directory: Path) -> Path:
    """The Python of an environment with mergekit, which is made if need be."""
    python = directory / "venv" / "bin" / "python"
    if not (directory / "venv" / "bin" / "mergekit-pytorch").exists():
        venv.create(directory / "venv", with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", VERSION, "torch==2.13.0"], check=True)
    return python


COMMANDS = """
import sys
from mergekit.scripts.merge_raw_pytorch import main
for name in sys.argv[1:]:
    words = [f"{name}.yaml", f"out/{name}", "--tensor-union", "--quiet", "--random-seed", "1"]
    main.main(words, standalone_mode=False)
"""
"""What stands in for a shell that calls `mergekit-pytorch` for each case."""


def run(python: Path, directory: Path) -> dict[str, dict[str, Any]]:
    """What mergekit makes of each case."""
    for case in CASES:
        (directory / f"{case.name}.yaml").write_text(yaml.safe_dump(configuration(case)))
    names = [case.name for case in CASES]
    subprocess.run([python, "-c", COMMANDS, *names], check=True, cwd=directory)
    merged: dict[str, dict[str, Any]] = {}
    for name in names:
        merged[name] = {}
        for part in sorted((directory / "out" / name).glob("*.safetensors")):
            merged[name] |= load_file(part)
    return merged


def main(directory: Path) -> None:
    """Run all cases."""
    directory.mkdir(parents=True, exist_ok=True)
    python = environment(directory)
    golden: dict[str, Any] = {}
    for model, tensors in inputs().items():
        save_file(tensors, directory / f"{model}.safetensors")
        golden |= {f"inputs/{model}/{name}": tensor for name, tensor in tensors.items()}
    for case, tensors in run(python, directory).items():
        golden |= {f"{case}/{name}": tensor for name, tensor in tensors.items()}
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    save_file(golden, GOLDEN, metadata={"made by": VERSION})


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".cache/mergekit").resolve())
