"""The diagonal of the Fisher information: how much each weight matters, from single examples.

It is the mean over examples of the *squared gradient of one example*. The square of the gradient
of a batch is something else, which depends on the size of the batch. "true" takes the expectation
over the classes as the model itself predicts them, exactly; "sampled" draws one class for each
position from those predictions; "empirical" takes the labels of the data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from git_theta.errors import UsageError
from git_theta.stats.batches import (
    MEMORY,
    Batch,
    Inputs,
    Passes,
    aliases,
    call,
    cut,
    grouped,
    resting,
    size_of,
)

Estimator = Literal["true", "sampled", "empirical"]
_IGNORED = -100
_MOST_CLASSES = 1000
_MOST_EXAMPLES = 256
_FEWEST = 8


@dataclass
class Fisher:
    """One computation; `parts` may be consumed once and counts `n_samples`.

    `memory` bounds the bytes of sums and gradients (not those of model and activations): the
    parameters are gone through in groups, each with a pass over the batches.
    """

    model: nn.Module
    batches: Iterable[Batch]
    estimator: Estimator = "true"
    seed: int = 0
    memory: int = MEMORY
    n_samples: int = 0

    def __post_init__(self) -> None:
        """Refuse an estimator that is none."""
        if self.estimator not in get_args(Estimator):
            raise UsageError(
                f"there is no estimator {self.estimator!r}",
                hint=f"one of {', '.join(get_args(Estimator))}",
            )

    def parts(self) -> Iterator[tuple[str, Tensor]]:
        """Name and values of each parameter, in float32."""
        names = aliases(self.model)
        parameters = dict(self.model.named_parameters())
        sizes = {name: parameters[name].numel() for name in names if _counts(parameters[name])}
        groups = grouped(sizes, self.memory // (8 * (1 + _FEWEST)))
        batches = Passes(self.batches, len(groups))
        with resting(self.model):
            for group in groups:
                sums = self._sums({name: parameters[name] for name in group}, batches)
                for name, total in sums.items():
                    mean = (total / max(1, self.n_samples)).to("cpu", torch.float32)
                    for alias in names[name]:
                        yield alias, mean

    def _sums(self, chosen: dict[str, Tensor], batches: Iterable[Batch]) -> dict[str, Tensor]:
        """Sums of squares over all examples, for some of the parameters."""
        sums = {n: torch.zeros_like(p, dtype=torch.float64) for n, p in chosen.items()}
        room = self.memory // (8 * max(1, sum(p.numel() for p in chosen.values()))) - 1
        step = min(_MOST_EXAMPLES, max(1, room))
        random = torch.Generator().manual_seed(self.seed)
        seen = 0
        for inputs, labels in batches:
            for start in range(0, size_of(inputs), step):
                some = cut(inputs, start, start + step)
                known = None if labels is None else labels[start : start + step]
                seen += size_of(some)
                for labelled, weights in self._targets(some, known, random):
                    self._add(sums, chosen, some, (labelled, weights))
        self.n_samples = seen
        return sums

    def _targets(
        self, inputs: Inputs, labels: Tensor | None, random: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Labels to differentiate for, each with a weight for every example."""
        if self.estimator == "empirical":
            if labels is None:
                raise UsageError(
                    "the empirical Fisher needs labels, and a batch has none",
                    hint="yield (inputs, labels), or --estimator true",
                )
            yield labels, torch.ones(len(labels), device=labels.device)
            return
        with torch.no_grad():
            chances = torch.softmax(call(self.model, inputs).float(), -1)
        if self.estimator == "sampled":
            rows = chances.reshape(-1, chances.shape[-1]).cpu()
            drawn = torch.multinomial(rows, 1, generator=random).reshape(chances.shape[:-1])
            yield drawn.to(chances.device), torch.ones(len(chances), device=chances.device)
            return
        if chances.ndim != 2 or chances.shape[-1] > _MOST_CLASSES:
            raise UsageError(
                f"logits of shape {list(chances.shape)} have no exact expectation within reach",
                hint="--estimator sampled, or empirical",
            )
        for label in range(chances.shape[-1]):
            yield torch.full_like(chances[:, 0], label, dtype=torch.long), chances[:, label]

    def _add(
        self,
        sums: dict[str, Tensor],
        chosen: dict[str, Tensor],
        inputs: Inputs,
        target: tuple[Tensor, Tensor],
    ) -> None:
        labels, weights = target

        def score(differentiated: dict[str, Tensor], one: Inputs, label: Tensor) -> Tensor:
            single = one[None] if isinstance(one, Tensor) else _single(one)
            return _log_likelihood(call(self.model, single, differentiated)[0], label)

        tensors = inputs if isinstance(inputs, Tensor) else _mapped(inputs)
        each = torch.func.vmap(
            torch.func.grad(score),
            in_dims=(None, _dims(tensors), 0),
            randomness="different",
        )
        frozen = {name: parameter.detach() for name, parameter in chosen.items()}
        for name, gradients in each(frozen, tensors, labels).items():
            squares = gradients.float().square_()
            sums[name] += torch.tensordot(weights.float(), squares, dims=1)


def fisher(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    estimator: Estimator = "true",
    seed: int = 0,
    memory: int = MEMORY,
) -> dict[str, Tensor]:
    """The diagonal Fisher information of every parameter, in float32.

    Raises:
        UsageError: estimator, batches or logits are not what is needed; the message says what is.
    """
    return dict(Fisher(model, batches, estimator, seed, memory).parts())


def _counts(parameter: Tensor) -> bool:
    return parameter.is_floating_point() and parameter.numel() > 0


def _single(inputs: Inputs) -> dict[str, object]:
    named = {} if isinstance(inputs, Tensor) else inputs
    return {k: v[None] if isinstance(v, Tensor) else v for k, v in named.items()}


def _mapped(inputs: object) -> dict[str, object]:
    return dict(inputs) if isinstance(inputs, dict) else {}


def _dims(inputs: object) -> object:
    """Which arguments vary from example to example: the tensors."""
    if isinstance(inputs, Tensor):
        return 0
    return {k: 0 if isinstance(v, Tensor) else None for k, v in _mapped(inputs).items()}


def _log_likelihood(logits: Tensor, label: Tensor) -> Tensor:
    """The log-likelihood of one example; positions labelled -100 do not count."""
    logs = torch.log_softmax(logits.float(), -1)
    counted = label != _IGNORED
    found = logs.gather(-1, torch.where(counted, label, 0).unsqueeze(-1)).squeeze(-1)
    return torch.where(counted, found, 0.0).sum()
