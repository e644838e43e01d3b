"""The encoder of MiniLM in plain torch: a function of its weights, so that any may be replaced."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from pydoc_data import topics

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Weights = Mapping[str, Tensor]
LAYERS, HEADS, WIDTH, FEED = 6, 12, 384, 1536
WORDS = 14  # of a passage
FIRST, LAST = 101, 102  # the tokens around one
TEMPERATURE = 0.05
PARTS = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)


def matrices() -> list[str]:
    """The modules of the encoder whose weights are matrices."""
    return [f"encoder.layer.{layer}.{part}" for layer in range(LAYERS) for part in PARTS]


def _linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, (WIDTH,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-12)


def _attention(weights: Weights, at: str, x: Tensor) -> Tensor:
    batch, length, _ = x.shape

    def heads(part: str) -> Tensor:
        found = _linear(weights, f"{at}.self.{part}", x)
        return found.view(batch, length, HEADS, -1).transpose(1, 2)

    mixed = F.scaled_dot_product_attention(heads("query"), heads("key"), heads("value"))
    flat = mixed.transpose(1, 2).reshape(batch, length, WIDTH)
    return _norm(
        weights, f"{at}.output.LayerNorm", x + _linear(weights, f"{at}.output.dense", flat)
    )


def embed(weights: Weights, tokens: Tensor) -> Tensor:
    """Unit vectors of passages, all of one length."""
    at = "embeddings"
    x = F.embedding(tokens, weights[f"{at}.word_embeddings.weight"])
    x = x + weights[f"{at}.position_embeddings.weight"][: tokens.shape[1]]
    x = _norm(weights, f"{at}.LayerNorm", x + weights[f"{at}.token_type_embeddings.weight"][0])
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        x = _attention(weights, f"{at}.attention", x)
        wide = F.gelu(_linear(weights, f"{at}.intermediate.dense", x))
        x = _norm(
            weights, f"{at}.output.LayerNorm", x + _linear(weights, f"{at}.output.dense", wide)
        )
    return F.normalize(x.mean(1), dim=1)


def loss(weights: Weights, left: Tensor, right: Tensor) -> Tensor:
    """How badly passages find the ones that follow them: what the model was made with."""
    scores = embed(weights, left) @ embed(weights, right).T / TEMPERATURE
    wanted = torch.arange(len(left))
    return (F.cross_entropy(scores, wanted) + F.cross_entropy(scores.T, wanted)) / 2


def words() -> list[str]:
    """Prose that comes with Python: the language reference."""
    return [
        word for name in sorted(topics.topics) for word in re.findall(r"\w+", topics.topics[name])
    ]


def passages() -> Tensor:
    """The language reference as passages of tokens; a word's token is drawn from its hash."""
    tokens = [1996 + zlib.crc32(word.lower().encode()) % 28000 for word in words()]
    rows = torch.tensor(tokens[: len(tokens) // WORDS * WORDS]).view(-1, WORDS)
    ends = torch.ones(len(rows), 1, dtype=torch.long)
    return torch.cat((FIRST * ends, rows, LAST * ends), 1)


def batches(size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Passages and the ones that follow them, for ever."""
    rows = passages()
    random = torch.Generator().manual_seed(seed)
    while True:
        chosen = torch.randint(len(rows) - 1, (size,), generator=random)
        yield rows[chosen], rows[chosen + 1]
