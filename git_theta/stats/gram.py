"""Gram matrices of what goes into linear layers and convolutions: X^T X, divided by the rows.

A convolution is a linear layer on its unfolded input, so its matrix has in x kernel columns, in
the order of its weight flattened to out x (in x kernel). Grouped convolutions have no such matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from git_theta.stats.batches import MEMORY, Batch, Passes, call, grouped, resting, size_of

Layer: TypeAlias = "nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d"
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BLOCK = 1 << 24


@dataclass
class Gram:
    """One computation; `parts` may be consumed once, counts `n_samples` and notes what it lacks.

    `memory` bounds the bytes of the matrices that are summed at a time; more layers than fit are
    left to another pass over the batches. With `outputs` there is for each layer NAME#out too:
    the Gram matrix of the gradients of the labels' log-likelihood with respect to its outputs.
    `unseen` are layers through which nothing went.
    """

    model: nn.Module
    batches: Iterable[Batch]
    outputs: bool = False
    memory: int = MEMORY
    n_samples: int = 0
    unseen: list[str] = field(default_factory=list)

    def parts(self) -> Iterator[tuple[str, Tensor]]:
        """Weight's name and matrix of each layer, in float32."""
        layers = _layers(self.model)
        sizes = {name: 8 * self._room(layer) for name, layer in layers.items()}
        groups = grouped(sizes, self.memory)
        batches = Passes(self.batches, len(groups))
        with resting(self.model):
            for group in groups:
                sums = {name: _Sum(layers[name], self.outputs) for name in group}
                self._run(list(sums.values()), batches)
                for name, total in sums.items():
                    if total.rows:
                        yield from total.means(_names(self.model, layers[name], name))
                    else:
                        self.unseen.append(name)

    def _room(self, layer: Layer) -> int:
        columns = layer.weight[0].numel()
        return columns**2 + (layer.weight.shape[0] ** 2 if self.outputs else 0)

    def _run(self, sums: list[_Sum], batches: Iterable[Batch]) -> None:
        """One pass over the batches, in which some layers are watched."""
        hooks = [total.layer.register_forward_hook(total.see) for total in sums]
        seen = 0
        try:
            for inputs, labels in batches:
                seen += size_of(inputs)
                if self.outputs:
                    _backward(call(self.model, inputs), labels)
                else:
                    with torch.no_grad():
                        call(self.model, inputs)
        finally:
            for hook in hooks:
                hook.remove()
            self.model.zero_grad(set_to_none=True)
        self.n_samples = seen


class _Sum:
    """The running sums of one layer."""

    def __init__(self, layer: Layer, outputs: bool) -> None:
        columns, height = layer.weight[0].numel(), layer.weight.shape[0]
        device = layer.weight.device
        self.layer = layer
        self.rows = 0
        self.total = torch.zeros(columns, columns, dtype=torch.float64, device=device)
        self.outer = (
            torch.zeros(height, height, dtype=torch.float64, device=device) if outputs else None
        )

    def see(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG002
        """Add what went in; and, once it is known, the gradient of what came out."""
        for rows in _rows(self.layer, inputs[0].detach()):
            self.total += rows.T @ rows
            self.rows += len(rows)
        if self.outer is not None and output.requires_grad:
            output.register_hook(self._see_gradient)

    def _see_gradient(self, gradient: Tensor) -> None:
        moved = gradient if isinstance(self.layer, nn.Linear) else gradient.movedim(1, -1)
        rows = moved.detach().reshape(-1, moved.shape[-1]).float()
        if self.outer is not None:
            self.outer += rows.T @ rows

    def means(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """The matrices, divided by the rows, under all names of the weight."""
        for name in names:
            yield name, (self.total / self.rows).to("cpu", torch.float32)
            if self.outer is not None:
                yield f"{name}#out", (self.outer / self.rows).to("cpu", torch.float32)


def gram(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    outputs: bool = False,
    memory: int = MEMORY,
) -> dict[str, Tensor]:
    """Gram matrices of the inputs of all linear layers and convolutions, by the weight's name.

    Raises:
        UsageError: the batches are not what is needed; the message says what is.
    """
    return dict(Gram(model, batches, outputs, memory).parts())


def _layers(model: nn.Module) -> dict[str, Layer]:
    return {
        f"{name}.weight" if name else "weight": module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        or (isinstance(module, _CONVOLUTIONS) and module.groups == 1 and not module.transposed)
    }


def _names(model: nn.Module, layer: Layer, name: str) -> list[str]:
    """All names of a layer's weight, unless another layer that shares it has a matrix too."""
    layers = _layers(model)
    named = model.named_parameters(remove_duplicate=False)
    others = [n for n, parameter in named if parameter is layer.weight and n not in layers]
    return [name, *others]


def _rows(layer: Layer, inputs: Tensor) -> Iterator[Tensor]:
    """The input as rows, a bounded number at a time."""
    if isinstance(layer, nn.Linear):
        flat = inputs.reshape(-1, inputs.shape[-1])
        for some in flat.split(max(1, _BLOCK // max(1, flat.shape[-1]))):
            yield some.float()
        return
    images = inputs if inputs.ndim == layer.weight.ndim else inputs[None]
    each = images[0].numel() * layer.weight[0, 0].numel()
    for some in images.split(max(1, _BLOCK // max(1, each))):
        yield _unfolded(layer, some.float())


def _unfolded(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, images: Tensor) -> Tensor:
    """One row for each place of the kernel, in the order of the flattened weight."""
    windows = functional.pad(images, _padding(layer), mode=_MODES[layer.padding_mode])
    places = images.ndim - 2
    steps = zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)
    for axis, (size, stride, dilation) in enumerate(steps, start=2):
        windows = windows.unfold(axis, (size - 1) * dilation + 1, stride)[..., ::dilation]
    # examples, channels, places..., kernel... -> examples, places..., channels, kernel...
    order = [0, *range(2, 2 + places), 1, *range(2 + places, 2 + 2 * places)]
    return windows.permute(order).reshape(-1, layer.weight[0].numel())


_MODES = {
    "zeros": "constant",
    "reflect": "reflect",
    "replicate": "replicate",
    "circular": "circular",
}


def _padding(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> list[int]:
    """Before and after each axis, the last axis first, as `pad` wants it."""
    found: list[int] = []
    axes = range(len(layer.kernel_size) - 1, -1, -1)
    for axis in axes:
        if layer.padding == "valid":
            found += [0, 0]
        elif layer.padding == "same":
            total = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
            found += [total // 2, total - total // 2]
        else:
            found += [int(layer.padding[axis])] * 2
    return found


def _backward(logits: Tensor, labels: Tensor | None) -> None:
    """Differentiate the log-likelihood of all examples, of the labels or of the best guess."""
    flat = logits.reshape(-1, logits.shape[-1])
    targets = flat.detach().argmax(-1) if labels is None else labels.reshape(-1)
    functional.cross_entropy(flat, targets, reduction="sum").backward()
