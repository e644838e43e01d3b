"""Small models that learn in a second: handwritten digits, seen in several ways.

A domain is the same digits turned, mirrored or inverted. A base knows a little of all domains, a
specialist is the base trained further on one. The demo and the experiments merge specialists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

DATA = Path(__file__).resolve().parent.parent / "tests" / "data" / "digits" / "digits.npz"
TRAIN, VALIDATION = 1100, 300

Weights = dict[str, Tensor]
View = Callable[[Tensor], Tensor]

DOMAINS: Mapping[str, View] = {
    "upright": lambda x: x,
    "quarter": lambda x: torch.rot90(x, 1, (-2, -1)),
    "half": lambda x: torch.rot90(x, 2, (-2, -1)),
    "three-quarter": lambda x: torch.rot90(x, 3, (-2, -1)),
    "mirrored": lambda x: torch.flip(x, (-1,)),
    "upside-down": lambda x: torch.flip(x, (-2,)),
    "inverted": lambda x: 1 - x,
    "transposed": lambda x: x.transpose(-2, -1),
}


@dataclass(frozen=True)
class Examples:
    """Images, one row each, and the digits they show."""

    images: Tensor
    labels: Tensor

    def seen(self, domain: str) -> Examples:
        """The same digits as a domain shows them."""
        turned = DOMAINS[domain](self.images.reshape(-1, 8, 8))
        return Examples(turned.reshape(-1, 64).contiguous(), self.labels)

    def first(self, count: int) -> Examples:
        """The first few."""
        return Examples(self.images[:count], self.labels[:count])

    def only(self, digits: list[int]) -> Examples:
        """Those that show one of some digits."""
        kept = torch.isin(self.labels, torch.tensor(digits))
        return Examples(self.images[kept], self.labels[kept])


def together(parts: list[Examples]) -> Examples:
    """Several sets as one."""
    return Examples(torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts]))


@dataclass(frozen=True)
class Split:
    """Disjoint sets: to learn from, to choose by, to report."""

    train: Examples
    validation: Examples
    test: Examples


def digits(seed: int) -> Split:
    """The digits in an order that a seed decides, cut in three."""
    with np.load(DATA, allow_pickle=False) as stored:
        images = torch.from_numpy(stored["images"].astype(np.float32) / 16)
        labels = torch.from_numpy(stored["labels"].astype(np.int64))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    images, labels = images[order], labels[order]
    ends = (0, TRAIN, TRAIN + VALIDATION, len(labels))
    parts = [Examples(images[a:b], labels[a:b]) for a, b in pairwise(ends)]
    return Split(*parts)


def network() -> nn.Sequential:
    """64-256-256-10, without weights worth anything."""
    return nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )


def loaded(weights: Weights) -> nn.Sequential:
    """The network with these weights."""
    model = network()
    model.load_state_dict(weights)
    return model


def train(
    weights: Weights | None, data: Examples, *, seed: int, epochs: int, rate: float
) -> Weights:
    """Train with AdamW, from given weights or from none.

    It runs on one thread, so that the same seed gives the same weights whatever else is going on.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _train(weights, data, seed=seed, epochs=epochs, rate=rate)
    finally:
        torch.set_num_threads(threads)


def _train(
    weights: Weights | None, data: Examples, *, seed: int, epochs: int, rate: float
) -> Weights:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network()
    if weights is not None:
        model.load_state_dict(weights)
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, foreach=True)
    for _ in range(epochs):
        for batch in torch.randperm(len(data.labels), generator=order).split(64):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(data.images[batch]), data.labels[batch])
            loss.backward()
            optimizer.step()
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def base_of(split: Split, *, seed: int, images: int = 60) -> Weights:
    """A model that has seen a few digits in every domain: right in about three cases of four."""
    few = split.train.first(images)
    return train(
        None, together([few.seen(name) for name in DOMAINS]), seed=seed, epochs=20, rate=1e-3
    )


def specialist(base: Weights, split: Split, domain: str, *, seed: int) -> Weights:
    """The base, trained further on one domain."""
    return train(base, split.train.seen(domain), seed=seed, epochs=20, rate=3e-4)


def accuracy(weights: Weights, data: Examples) -> float:
    """How many of a hundred a model gets right."""
    with torch.inference_mode():
        found = loaded(weights)(data.images).argmax(-1)
    return 100 * float((found == data.labels).double().mean())
