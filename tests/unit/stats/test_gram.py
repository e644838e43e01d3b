"""Gram matrices: what a layer makes of its inputs follows from them, whatever kind it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from git_theta import stats
from git_theta.stats.gram import Layer

LAYERS = [
    (nn.Linear(6, 4, bias=False), (5, 6)),
    (nn.Linear(6, 4, bias=False), (5, 3, 6)),
    (nn.Conv1d(2, 4, 3, padding=1, bias=False), (5, 2, 9)),
    (nn.Conv2d(2, 4, (3, 2), stride=2, padding=(1, 0), bias=False), (5, 2, 8, 7)),
    (nn.Conv2d(2, 4, 3, dilation=2, padding="same", bias=False), (5, 2, 8, 7)),
    (nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular", bias=False), (5, 2, 8, 7)),
    (nn.Conv2d(2, 4, 3, padding="valid", bias=False), (5, 2, 8, 7)),
    (nn.Conv3d(2, 4, 2, bias=False), (5, 2, 4, 4, 4)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda value: str(value))
def test_weight_and_matrix_say_what_comes_out(layer: Layer, shape: tuple[int, ...]):
    """Y = X W^T, so the Gram matrix of what comes out is W G W^T."""
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = stats.gram(nn.Sequential(layer), [(inputs, None)])
    assert list(found) == ["0.weight"]
    out = layer(inputs).detach()
    rows = out if isinstance(layer, nn.Linear) else out.movedim(1, -1)
    rows = rows.reshape(-1, 4)
    flat = layer.weight.detach().reshape(4, -1)
    torch.testing.assert_close(flat @ found["0.weight"] @ flat.T, rows.T @ rows / len(rows))


def network() -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


def test_neither_batches_nor_memory_change_it():
    inputs = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    wanted = stats.gram(network(), [(inputs, None)])
    torch.testing.assert_close(wanted["0.weight"], inputs.T @ inputs / 20)
    batches = [(part, None) for part in inputs.split(7)]
    for memory in (1, 1 << 30):
        found = stats.gram(network(), batches, memory=memory)
        assert found.keys() == wanted.keys()
        for name, values in wanted.items():
            torch.testing.assert_close(found[name], values)


def test_gradients_of_outputs():
    model = network()
    inputs = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(20) % 3
    found = stats.gram(model, [(inputs, labels)], outputs=True)
    assert list(found) == ["0.weight", "0.weight#out", "2.weight", "2.weight#out"]
    given = torch.softmax(model(inputs), -1) - nn.functional.one_hot(labels, 3)
    torch.testing.assert_close(found["2.weight#out"], (given.T @ given / 20).detach())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_nothing_went_through_is_named():
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.used(x)
            return found

    work = stats.Gram(Half(), [(torch.ones(2, 3), None)])
    assert dict(work.parts()).keys() == {"used.weight"}
    assert work.unseen == ["unused.weight"]
    assert work.n_samples == 2


def test_grouped_convolutions_have_none():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))
    assert stats.gram(model, [(torch.ones(1, 4, 5, 5), None)]) == {}


def test_a_layer_that_is_used_twice_sums_both():
    layer = nn.Linear(3, 3, bias=False)
    model = nn.Sequential(layer, layer)
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    second = layer(inputs).detach()
    found = stats.gram(model, [(inputs, None)])
    wanted = (inputs.T @ inputs + second.T @ second) / 16
    torch.testing.assert_close(found["0.weight"], wanted)
