"""Fine-tunes MiniLM in the ways whose storage is measured. Run as a program; kept in .cache.

Each way is a set of trained parameters and a rule that makes weights of them and of the base. The
gradients are real: passages of Python's language reference are to find the ones that follow them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.bert import batches, loss, matrices
from benchmarks.minilm import minilm
from benchmarks.sandbox import CACHE

VERSION = 1  # of all that is not among these numbers: raise it to train anew
BATCH = 8
RANK, ALPHA = 8, 16
DENSITY = 0.005
IA3 = ("attention.self.key", "attention.self.value", "output.dense")
FEEDFORWARD = "output.dense"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PREFIX = "base_model.model"

State = dict[str, Tensor]


class Way(Protocol):
    """What is trained, and what it makes of the base."""

    def parameters(self, base: State) -> State:
        """What is trained, as it begins."""
        ...

    def weights(self, base: State, trained: State) -> State:
        """The weights that differ from the base, in float32."""
        ...


@dataclass(frozen=True)
class Full:
    """Everything is trained."""

    def parameters(self, base: State) -> State:
        return {name: value.clone() for name, value in base.items() if value.is_floating_point()}

    def weights(self, base: State, trained: State) -> State:
        del base
        return trained


@dataclass(frozen=True)
class Sparse:
    """One entry in two hundred of every matrix of the encoder is trained."""

    def parameters(self, base: State) -> State:
        return {f"{name}.weight": base[f"{name}.weight"].clone() for name in matrices()}

    def weights(self, base: State, trained: State) -> State:
        random = torch.Generator().manual_seed(5)
        masks = {n: torch.rand(v.shape, generator=random) < DENSITY for n, v in trained.items()}
        return {name: torch.where(masks[name], trained[name], base[name]) for name in trained}


@dataclass(frozen=True)
class Lora:
    """Low-rank factors beside every matrix of the encoder."""

    def parameters(self, base: State) -> State:
        random = torch.Generator().manual_seed(3)
        found = {}
        for name in matrices():
            rows, columns = base[f"{name}.weight"].shape
            bound = columns**-0.5
            start = torch.rand(RANK, columns, generator=random) * 2 - 1
            found[f"{name}.lora_A.weight"] = start * bound
            found[f"{name}.lora_B.weight"] = torch.zeros(rows, RANK)
        return found

    def weights(self, base: State, trained: State) -> State:
        made = {}
        for name in matrices():
            a, b = trained[f"{name}.lora_A.weight"], trained[f"{name}.lora_B.weight"]
            made[f"{name}.weight"] = base[f"{name}.weight"].float() + (b @ a) * (ALPHA / RANK)
        return made


@dataclass(frozen=True)
class Ia3:
    """A scale for each output of keys and values, and for each input of the second feed-forward."""

    def parameters(self, base: State) -> State:
        found = {}
        for name in _scaled():
            rows, columns = base[f"{name}.weight"].shape
            shape = (1, columns) if _is_feedforward(name) else (rows, 1)
            found[f"{name}.ia3_l"] = torch.ones(shape)
        return found

    def weights(self, base: State, trained: State) -> State:
        return {
            f"{name}.weight": base[f"{name}.weight"].float() * trained[f"{name}.ia3_l"]
            for name in _scaled()
        }


def _is_feedforward(name: str) -> bool:
    return name.endswith(FEEDFORWARD) and "attention" not in name


def _scaled() -> list[str]:
    return [name for name in matrices() if name.endswith(IA3[:2]) or _is_feedforward(name)]


@dataclass(frozen=True)
class Plan:
    """One fine-tune."""

    way: Way
    rate: float
    steps: int
    decay: float = 0.0


PLANS = {
    "full-2e-5": Plan(Full(), 2e-5, 200, 0.01),
    "full-2e-4": Plan(Full(), 2e-4, 100, 0.01),
    "lora": Plan(Lora(), 3e-4, 160),
    "ia3": Plan(Ia3(), 3e-3, 100),
    "sparse": Plan(Sparse(), 1e-4, 100),
}
NATIVE = ("lora", "ia3")


def schedule(done: float) -> float:
    """The share of the rate: up for a tenth of the steps, then down to nothing, both linearly."""
    return min(10 * done, (1 - done) / 0.9)


def train(base: State, plan: Plan) -> State:
    """The trained parameters of a fine-tune."""
    torch.manual_seed(0)
    trained = {name: value.requires_grad_() for name, value in plan.way.parameters(base).items()}
    optimizer = torch.optim.AdamW(
        list(trained.values()), lr=plan.rate, weight_decay=plan.decay, fused=True
    )
    source = batches(BATCH, 1)
    losses = []
    for step in range(plan.steps):
        optimizer.param_groups[0]["lr"] = plan.rate * schedule(step / plan.steps)
        left, right = next(source)
        found = loss(base | plan.way.weights(base, trained), left, right)
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        losses.append(found.item())
    mean = [sum(part) / len(part) for part in (losses[:20], losses[-20:])]
    print(f"  loss {mean[0]:.3f} -> {mean[1]:.3f}", file=sys.stderr)
    return {name: value.detach() for name, value in trained.items()}


def _cast(state: State, dtype: torch.dtype) -> State:
    return {n: v.to(dtype) if v.is_floating_point() else v for n, v in state.items()}


def _save(state: Mapping[str, Tensor], path: Path) -> None:
    whole = {name: value.detach().contiguous() for name, value in state.items()}
    save_file(whole, path, {"format": "pt"})


def _save_adapter(name: str, trained: State, folder: Path) -> None:
    """As PEFT keeps one."""
    folder.mkdir()
    config: dict[str, object] = {
        "peft_type": name.upper(),
        "task_type": "FEATURE_EXTRACTION",
        "base_model_name_or_path": "all-MiniLM-L6-v2",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "inference_mode": True,
    }
    if name == "lora":
        config |= {"r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.0, "bias": "none"}
        config |= {"target_modules": [module.removeprefix("encoder.") for module in matrices()]}
        config |= {"rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False, "use_dora": False}
    else:
        config |= {"target_modules": _scaled()}
        config |= {"feedforward_modules": [n for n in _scaled() if _is_feedforward(n)]}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    _save({f"{PREFIX}.{n}": v for n, v in trained.items()}, folder / "adapter_model.safetensors")


def _write(folder: Path, say: Callable[[str], None]) -> None:
    base = load_file(minilm())
    for dtype, kind in DTYPES.items():
        _save(_cast(base, kind), folder / f"base.{dtype}.safetensors")
    for name, plan in PLANS.items():
        start = time.perf_counter()
        trained = train(base, plan)
        say(f"{name}: {plan.steps} steps in {time.perf_counter() - start:.1f} s")
        whole = base | plan.way.weights(base, trained)
        for dtype, kind in DTYPES.items():
            _save(_cast(whole, kind), folder / f"{name}.{dtype}.safetensors")
        if name in NATIVE:
            half = _cast(base, torch.bfloat16)
            merged = half | _cast(plan.way.weights(half, trained), torch.bfloat16)
            _save(merged, folder / f"{name}-native.bf16.safetensors")
            _save_adapter(name, trained, folder / name)


def _key() -> str:
    """Names everything that the weights depend on but the processor."""
    facts = (VERSION, PLANS, BATCH, RANK, ALPHA, DENSITY, torch.__version__)
    text = f"{facts!r} {platform.python_version()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def prepared() -> Path:
    """The folder with all versions, trained at the first call."""
    target = CACHE / "training" / _key()
    if target.exists():
        return target
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # the same sums whatever the machine
    _write(part, lambda line: print(f"  {line}", file=sys.stderr, flush=True))
    for old in target.parent.iterdir():
        if old != part:
            shutil.rmtree(old)
    part.rename(target)
    return target


def main() -> None:
    """Print where the trained versions lie."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(prepared())


if __name__ == "__main__":
    main()
