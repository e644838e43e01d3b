"""The experiments: each gives figures for one seed. All accuracies are of test images, in percent.

A `Lab` trains what several experiments share, once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from benchmarks.digits import (
    DOMAINS,
    Examples,
    Split,
    Weights,
    accuracy,
    base_of,
    digits,
    loaded,
    specialist,
    together,
    train,
)
from git_theta import stats
from tests.science.merging import merged

Figures = dict[str, float]
SCALES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0)


class Lab:
    """A base and its specialists for one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.split: Split = digits(seed)
        self.base: Weights = base_of(self.split, seed=seed)
        self._specialists: dict[str, Weights] = {}
        self._statistics: dict[tuple[str, str], dict[str, Tensor]] = {}

    def domains(self, count: int) -> list[str]:
        """The first few domains."""
        return list(DOMAINS)[:count]

    def specialist(self, domain: str) -> Weights:
        """The base trained further on a domain."""
        if domain not in self._specialists:
            self._specialists[domain] = specialist(self.base, self.split, domain, seed=self.seed)
        return self._specialists[domain]

    def specialists(self, count: int) -> list[Weights]:
        """One for each of the first few domains."""
        return [self.specialist(domain) for domain in self.domains(count)]

    def statistics(self, kind: str, count: int) -> dict[str, list[dict[str, Tensor]]]:
        """Statistics of specialists on the images that they learned from."""
        return {kind: [self._of(kind, domain) for domain in self.domains(count)]}

    def _of(self, kind: str, domain: str) -> dict[str, Tensor]:
        if (kind, domain) not in self._statistics:
            model = loaded(self.specialist(domain))
            seen = self.split.train.seen(domain)
            if kind == "fisher":
                found = stats.fisher(model, [(seen.images[:200], None)])
            else:
                found = stats.gram(model, [(seen.images, None)])
            self._statistics[kind, domain] = found
        return self._statistics[kind, domain]

    def score(self, weights: Weights, count: int, *, on: Examples | None = None) -> float:
        """Mean accuracy over the first few domains."""
        data = self.split.test if on is None else on
        return sum(accuracy(weights, data.seen(d)) for d in self.domains(count)) / count

    def best(self, make: Callable[[float], Weights], count: int) -> tuple[float, float]:
        """Accuracy with the scale that is best on the validation images, and that scale."""
        scores = {s: self.score(make(s), count, on=self.split.validation) for s in SCALES}
        scale = max(scores, key=lambda s: scores[s])
        return self.score(make(scale), count), scale


@cache
def lab(seed: int) -> Lab:
    """The lab of a seed; made once in a process."""
    return Lab(seed)


def weighted(seed: int, count: int) -> Figures:
    """R3 and R4: averages that know something of the models."""
    here = lab(seed)
    models = here.specialists(count)
    fishers, grams = here.statistics("fisher", count), here.statistics("gram", count)

    def score(name: str, statistics: dict[str, list[dict[str, Tensor]]], **how: Any) -> float:
        return here.score(merged(name, None, models, statistics=statistics, **how), count)

    own = [
        accuracy(m, here.split.test.seen(d))
        for m, d in zip(models, here.domains(count), strict=True)
    ]
    return {
        "base": here.score(here.base, count),
        "specialists": sum(own) / count,
        "average": score("average", {}),
        "fisher": score("fisher", fishers),
        "fisher, not normalised": score("fisher", fishers, normalize="none"),
        "regmean 0.9": score("regmean", grams, off_diagonal=0.9),
        "regmean 1": score("regmean", grams, off_diagonal=1.0),
        "regmean, diagonal": score("regmean", grams, off_diagonal=0.0),
    }


def mats(seed: int, count: int) -> Figures:
    """Beyond R4: the same equations by conjugate gradients, stopped early."""
    here = lab(seed)
    grams = here.statistics("gram", count)
    found = {}
    for rounds in (1, 3, 10, 30, 100):
        weights = merged("mats", None, here.specialists(count), statistics=grams, iterations=rounds)
        found[f"mats {rounds}"] = here.score(weights, count)
    return found


def dropped(seed: int) -> Figures:
    """R5: most of a difference can go, if the rest makes up for it."""
    here = lab(seed)
    found: dict[str, list[float]] = {}
    for domain in here.domains(2):
        model, test = here.specialist(domain), here.split.test.seen(domain)
        found.setdefault("specialist", []).append(accuracy(model, test))
        for rate in (0.5, 0.9):
            for rescale in (True, False):
                label = f"{rate} dropped, {'rescaled' if rescale else 'not rescaled'}"
                kept = merged(
                    "dare-linear",
                    here.base,
                    [model],
                    density=round(1 - rate, 3),
                    rescale=rescale,
                    seed=seed,
                )
                found.setdefault(label, []).append(accuracy(kept, test))
    return {label: sum(values) / len(values) for label, values in found.items()}


TARGET, CONTROL = [7, 8, 9], [0, 1, 2, 3, 4, 5, 6]


def forgotten(seed: int) -> Figures:
    """R6: taking a task vector away forgets the task and nothing else."""
    split = digits(seed)
    base = train(None, split.train, seed=seed, epochs=40, rate=1e-3)
    tuned = train(base, split.train.only(TARGET), seed=seed, epochs=20, rate=3e-4)
    random = torch.Generator().manual_seed(seed)
    noise = {}
    for name, values in base.items():
        drawn = torch.randn(values.shape, generator=random)
        noise[name] = values + drawn * (tuned[name] - values).norm() / drawn.norm()
    target, control = split.test.only(TARGET), split.test.only(CONTROL)
    found = {"target before": accuracy(base, target), "control before": accuracy(base, control)}
    for scale in (1.0, 2.0, 3.0):
        for label, vector in (("", tuned), ("random ", noise)):
            less = merged("task-arithmetic", base, [vector], weights=(-1.0,), scale=scale)
            found[f"{label}target {scale:g}"] = accuracy(less, target)
            found[f"{label}control {scale:g}"] = accuracy(less, control)
    return found


def _corrupted(images: Tensor, seed: int) -> list[Tensor]:
    """Five ways to spoil an image."""
    random = torch.Generator().manual_seed(1000 + seed)
    grid = images.reshape(-1, 8, 8)
    noise = torch.randn(images.shape, generator=random)
    holes = torch.rand(images.shape, generator=random) < 0.25
    padded = torch.nn.functional.pad(grid[:, None], (1, 1, 1, 1), mode="replicate")
    blurred = torch.nn.functional.avg_pool2d(padded, 3, stride=1)
    return [
        (images + 0.3 * noise).clamp(0, 1),
        images.masked_fill(holes, 0.0),
        torch.roll(grid, 1, -1).reshape(images.shape),
        blurred.reshape(images.shape),
        0.5 + 0.4 * (images - 0.5),
    ]


def robust(seed: int) -> Figures:
    """R7: between a robust base and a model tuned to clean images lies one that is both."""
    split = digits(seed)
    spoilt = _corrupted(split.train.images, seed)
    all_of_them = together([Examples(images, split.train.labels) for images in spoilt])
    base = train(None, all_of_them, seed=seed, epochs=20, rate=1e-3)
    tuned = train(base, split.train, seed=seed, epochs=60, rate=3e-3)
    away = _corrupted(split.test.images, seed + 500)
    found = {}
    for alpha in (0.0, 0.25, 0.5, 0.75, 1.0):
        model = merged("interpolate", base, [tuned], alpha=alpha)
        found[f"clean {alpha:g}"] = accuracy(model, split.test)
        each = [accuracy(model, Examples(images, split.test.labels)) for images in away]
        found[f"corrupted {alpha:g}"] = sum(each) / len(each)
    return found


def spectral(seed: int, count: int) -> Figures:
    """R10, and R11: task vectors summed as they are, by their singular vectors, by their signs."""
    here = lab(seed)
    models = here.specialists(count)
    found = {}
    ways: Sequence[tuple[str, str, dict[str, Any]]] = (
        ("task arithmetic", "task-arithmetic", {}),
        ("iso-c", "iso-c", {}),
        ("tsv-m", "tsvm", {}),
        ("ties", "ties", {"density": 0.2}),
    )
    for label, name, how in ways:

        def make(scale: float, name: str = name, how: dict[str, Any] = how) -> Weights:
            return merged(name, here.base, models, scale=scale, **how)

        found[label], found[f"{label} scale"] = here.best(make, count)
    return found
