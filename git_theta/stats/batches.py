"""What a user's hook gives: a model and batches; and how to run the one on the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from git_theta.errors import UsageError

Inputs: TypeAlias = "Tensor | Mapping[str, Any]"
Batch: TypeAlias = "tuple[Inputs, Tensor | None]"
MEMORY = 1 << 30


@contextmanager
def resting(model: nn.Module) -> Iterator[None]:
    """The model without dropout and with fixed batch statistics; afterwards as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class Passes:
    """Batches that can be gone through several times: what does not fit is left to the next.

    Raises:
        UsageError: they are an iterator, which is empty after the first time.
    """

    def __init__(self, batches: Iterable[Batch], count: int) -> None:
        if count > 1 and iter(batches) is batches:
            raise UsageError(
                f"the statistics take {count} passes over the batches, which can be read once",
                hint="return a list or a DataLoader instead of a generator, or raise --memory",
            )
        self._batches = batches

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            # Whatever the annotation promises, it comes from a user's function.
            given: object = batch
            if not isinstance(given, tuple | list) or len(given) != 2:
                raise UsageError(
                    f"a batch is a {type(batch).__name__}, not a pair (inputs, labels)",
                    hint="yield (inputs, labels); labels may be None where none are needed",
                )
            yield batch[0], batch[1]


def size_of(inputs: Inputs) -> int:
    """The number of examples."""
    if isinstance(inputs, Tensor):
        return len(inputs)
    return next((len(value) for value in inputs.values() if isinstance(value, Tensor)), 0)


def cut(inputs: Inputs, start: int, stop: int) -> Inputs:
    """Some of the examples."""
    if isinstance(inputs, Tensor):
        return inputs[start:stop]
    return {k: v[start:stop] if isinstance(v, Tensor) else v for k, v in inputs.items()}


def call(model: nn.Module, inputs: Inputs, state: Mapping[str, Tensor] | None = None) -> Tensor:
    """The logits of a model, with its own or with other weights."""
    arguments: tuple[Any, ...] = (inputs,) if isinstance(inputs, Tensor) else ()
    named = {} if isinstance(inputs, Tensor) else dict(inputs)
    if state is None:
        found = model(*arguments, **named)
    else:
        found = torch.func.functional_call(model, dict(state), arguments, named)
    logits = getattr(found, "logits", found)
    if not isinstance(logits, Tensor):
        raise UsageError(f"the model returns a {type(found).__name__}, not logits")
    return logits


def grouped(sizes: Mapping[str, int], room: int) -> list[list[str]]:
    """Names in order, in groups that need no more than `room` together; at least one a group."""
    groups: list[list[str]] = []
    left = 0
    for name, size in sizes.items():
        if not groups or size > left:
            groups.append([])
            left = room
        groups[-1].append(name)
        left -= size
    return groups


def aliases(model: nn.Module) -> dict[str, list[str]]:
    """All names of each parameter, by the first: tied weights have several."""
    first: dict[int, str] = {}
    found: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(first.setdefault(id(parameter), name), []).append(name)
    return found
