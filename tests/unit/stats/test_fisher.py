"""The Fisher information against its definition, one example and one class at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from git_theta import stats
from git_theta.errors import UsageError
from git_theta.stats.fisher import Estimator


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Dropout(0.5), nn.Linear(7, 3))


def examples(count: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(2)
    return (
        torch.randn(count, 5, generator=random),
        torch.randint(3, (count,), generator=random),
    )


def by_loops(model: nn.Module, estimator: Estimator) -> dict[str, torch.Tensor]:
    """What is meant, written down as slowly as it can be."""
    images, labels = examples()
    model.eval()
    sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in model.named_parameters()}
    for image, label in zip(images, labels, strict=True):
        chances = torch.softmax(model(image), -1).detach()
        for klass in range(3):
            weight = chances[klass] if estimator == "true" else float(klass == label)
            model.zero_grad()
            torch.log_softmax(model(image), -1)[klass].backward()
            for name, parameter in model.named_parameters():
                assert parameter.grad is not None
                sums[name] += weight * parameter.grad.double() ** 2
    model.zero_grad()
    return {name: (total / len(images)).float() for name, total in sums.items()}


def close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], values, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("estimator", ["true", "empirical"])
def test_it_is_the_mean_of_squared_gradients_of_single_examples(estimator: Estimator):
    model = network()
    found = stats.fisher(model, [examples()], estimator=estimator)
    close(found, by_loops(model, estimator))


def test_neither_batches_nor_memory_change_it():
    model = network()
    images, labels = examples()
    wanted = stats.fisher(model, [(images, labels)], estimator="empirical")
    cut = [(images[i : i + 2], labels[i : i + 2]) for i in range(0, 9, 2)]
    close(stats.fisher(model, cut, estimator="empirical"), wanted)
    close(stats.fisher(model, cut, estimator="empirical", memory=1), wanted)


def test_the_square_of_a_batch_is_something_else():
    model = network()
    images, labels = examples()
    found = stats.fisher(model, [(images, labels)], estimator="empirical")
    nn.functional.cross_entropy(model.eval()(images), labels, reduction="sum").backward()
    gradient = model.get_parameter("0.weight").grad
    assert gradient is not None
    assert not torch.allclose(found["0.weight"], gradient**2 / len(images), rtol=0.1)


def test_drawn_labels_come_near_the_expectation_and_repeat_with_their_seed():
    model = network()
    many = [(examples(9)[0].repeat(300, 1), None)]
    exact = stats.fisher(model, [(examples(9)[0], None)])
    drawn = stats.fisher(model, many, estimator="sampled", seed=3)
    torch.testing.assert_close(drawn["3.weight"], exact["3.weight"], rtol=0.2, atol=1e-3)
    again = stats.fisher(model, many, estimator="sampled", seed=3)
    assert all(torch.equal(drawn[name], again[name]) for name in drawn)
    other = stats.fisher(model, many, estimator="sampled", seed=4)
    assert not torch.equal(drawn["3.weight"], other["3.weight"])


def test_the_model_is_left_as_it_was():
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stats.fisher(model, [examples()])
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


class Tied(nn.Module):
    """Words in and out through the same matrix; called with keywords, as transformers are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embed = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, words: torch.Tensor, scale: float) -> torch.Tensor:
        found: torch.Tensor = self.head(self.embed(words) * scale)
        return found


def test_sequences_and_tied_weights():
    model = Tied()
    words = torch.tensor([[1, 2, 3], [4, 5, 0]])
    labels = torch.tensor([[2, 3, -100], [5, 0, 1]])
    found = stats.fisher(model, [({"words": words, "scale": 0.5}, labels)], estimator="empirical")
    assert found.keys() == {"embed.weight", "head.weight"}
    assert torch.equal(found["embed.weight"], found["head.weight"])
    total = torch.zeros(6, 4)
    for one, known in zip(words, labels, strict=True):
        model.zero_grad()
        loss = nn.functional.cross_entropy(model(one, 0.5), known, reduction="sum")
        loss.backward()
        assert model.embed.weight.grad is not None
        total += model.embed.weight.grad**2
    torch.testing.assert_close(found["embed.weight"], total / 2)


def test_a_batch_that_is_none_is_explained():
    with pytest.raises(UsageError, match=r"not a pair \(inputs, labels\)"):
        stats.fisher(network(), [examples()[0]])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="needs labels"):
        stats.fisher(network(), [(examples()[0], None)], estimator="empirical")
    with pytest.raises(UsageError, match="no estimator 'guess'"):
        stats.fisher(network(), [], estimator="guess")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="can be read once") as failure:
        stats.fisher(network(), iter([examples()]), memory=1)
    assert "--memory" in failure.value.hint


def test_no_exact_expectation_over_sequences():
    words = {"words": torch.tensor([[1, 2]]), "scale": 1.0}
    with pytest.raises(UsageError, match="no exact expectation"):
        stats.fisher(Tied(), [(words, None)])
