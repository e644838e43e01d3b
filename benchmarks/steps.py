"""Trains a small language model and writes every step of it. Run as a program; kept in .cache."""

from __future__ import annotations

import hashlib
import platform
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from benchmarks.bert import words
from benchmarks.sandbox import CACHE

VERSION = 1  # raise it to train anew
STEPS = 100
BEFORE = 200  # steps that are not written: what is committed is a model, not noise
LAYERS, HEADS, WIDTH, SYMBOLS = 4, 4, 128, 2048
BATCH, LENGTH = 16, 48
RATE = 1e-3
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

State = dict[str, Tensor]


def start() -> State:
    """The weights as they are drawn."""
    random = torch.Generator().manual_seed(7)

    def drawn(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=random) * 0.02

    found = {"wte.weight": drawn(SYMBOLS, WIDTH), "wpe.weight": drawn(LENGTH, WIDTH)}
    for layer in range(LAYERS):
        at = f"h.{layer}"
        found[f"{at}.attn.weight"] = drawn(3 * WIDTH, WIDTH)
        found[f"{at}.proj.weight"] = drawn(WIDTH, WIDTH)
        found[f"{at}.up.weight"] = drawn(4 * WIDTH, WIDTH)
        found[f"{at}.down.weight"] = drawn(WIDTH, 4 * WIDTH)
        found[f"{at}.ln_1.weight"] = torch.ones(WIDTH)
        found[f"{at}.ln_2.weight"] = torch.ones(WIDTH)
    return found | {"ln_f.weight": torch.ones(WIDTH)}


def loss(weights: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
    """How badly each token is foretold by the ones before it."""
    batch, length = tokens.shape
    x = F.embedding(tokens, weights["wte.weight"]) + weights["wpe.weight"][:length]
    for layer in range(LAYERS):
        at = f"h.{layer}"
        y = F.layer_norm(x, (WIDTH,), weights[f"{at}.ln_1.weight"])
        mixed = F.linear(y, weights[f"{at}.attn.weight"])
        q, k, v = mixed.view(batch, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        flat = heads.transpose(1, 2).reshape(batch, length, WIDTH)
        x = x + F.linear(flat, weights[f"{at}.proj.weight"])
        y = F.layer_norm(x, (WIDTH,), weights[f"{at}.ln_2.weight"])
        wide = F.gelu(F.linear(y, weights[f"{at}.up.weight"]))
        x = x + F.linear(wide, weights[f"{at}.down.weight"])
    scores = F.linear(F.layer_norm(x, (WIDTH,), weights["ln_f.weight"]), weights["wte.weight"])
    return F.cross_entropy(scores[:, :-1].reshape(-1, SYMBOLS), tokens[:, 1:].reshape(-1))


def text() -> Tensor:
    """The language reference as tokens: its most frequent words, the others as one."""
    found = [word.lower() for word in words()]
    counts: dict[str, int] = {}
    for word in found:
        counts[word] = counts.get(word, 0) + 1
    common = sorted(counts, key=lambda word: (-counts[word], word))[: SYMBOLS - 1]
    numbers = {word: number for number, word in enumerate(common, 1)}
    return torch.tensor([numbers.get(word, 0) for word in found])


def _write(folder: Path) -> None:
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # the same sums whatever the machine
    random = torch.Generator().manual_seed(11)
    tokens = text()
    weights = {name: value.requires_grad_() for name, value in start().items()}
    optimizer = torch.optim.AdamW(list(weights.values()), lr=RATE, weight_decay=0.01, fused=True)
    whole = BEFORE + STEPS
    for step in range(whole):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / whole)
        starts = torch.randint(len(tokens) - LENGTH, (BATCH, 1), generator=random)
        found = loss(weights, tokens[starts + torch.arange(LENGTH)])
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"  step {step}: loss {found.item():.3f}", file=sys.stderr)
        if step >= BEFORE:
            for dtype, kind in DTYPES.items():
                whole_file = {name: value.detach().to(kind) for name, value in weights.items()}
                save_file(whole_file, folder / f"{step - BEFORE:03}.{dtype}.safetensors")


def _key() -> str:
    facts = (VERSION, STEPS, BEFORE, LAYERS, HEADS, WIDTH, SYMBOLS, BATCH, LENGTH, RATE)
    text = f"{facts!r} {torch.__version__} {platform.python_version()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def prepared() -> Path:
    """The folder with all versions, trained at the first call."""
    target = CACHE / "steps" / _key()
    if not target.exists():
        shutil.rmtree(target.parent, ignore_errors=True)
        part = target.with_name(target.name + ".part")
        part.mkdir(parents=True)
        _write(part)
        part.rename(target)
    return target


if __name__ == "__main__":
    print(prepared())
