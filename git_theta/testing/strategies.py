"""The laws of merge strategies."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from git_theta.core.random import Source
from git_theta.core.strategy import Needs, Strategy, Versions
from git_theta.errors import MergeError

SHAPES: tuple[tuple[int, ...], ...] = (
    (5, 7),
    (6, 4, 3, 2),
    (9,),
    (1,),
    (),
    (3, 1),
    (1, 4),
    (0,),
    (0, 3),
)
Tensors = Mapping[str, Versions]
"""A small model in all versions that are merged, by name of tensor."""


def merged(strategy: Strategy, tensors: Tensors, *, step: int | None = None) -> dict[str, Tensor]:
    """What a strategy makes of a model, as a merge does it; cut into slices of `step` entries."""
    gathered: Any = None
    if strategy.needs.scope == "model":
        surveying: Any = strategy
        for _ in range(surveying.rounds):
            so_far: Any = None
            for name in sorted(tensors):
                so_far = surveying.survey(replace(tensors[name], gathered=gathered), so_far)
            gathered = surveying.conclude(so_far)
    found = {}
    for name, versions in tensors.items():
        if strategy.needs.scope == "element":
            found[name] = _by_slices(strategy, versions, step)
        else:
            found[name] = strategy.merge(replace(versions, gathered=gathered))
    return found


def _by_slices(strategy: Strategy, versions: Versions, step: int | None) -> Tensor:
    size = versions.models[0].numel()
    cuts = list(range(0, max(1, size), step or max(1, size)))
    parts = [strategy.merge(_slice(versions, at, at + (step or size))) for at in cuts]
    return torch.cat(parts).reshape(versions.shape)


def _slice(versions: Versions, start: int, stop: int) -> Versions:
    def cut(tensor: Tensor) -> Tensor:
        return tensor.reshape(-1)[start:stop]

    return replace(
        versions,
        start=start,
        models=tuple(cut(model) for model in versions.models),
        base=None if versions.base is None else cut(versions.base),
    )


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes versions that have what a strategy needs, and nothing else."""

    needs: Needs
    seed: int

    def versions(
        self, name: str, shape: tuple[int, ...], count: int, dtype: torch.dtype
    ) -> Versions:
        generator = torch.Generator().manual_seed(sum(name.encode()) + 31 * self.seed)

        def draw(*size: int) -> Tensor:
            return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

        wants_base = self.needs.base != "unused"
        base = draw(*shape)
        models = tuple(base + 0.1 * draw(*shape) for _ in range(count))
        outs, ins = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (0, 0)

        def statistic(kind: str) -> Tensor | None:
            if kind == "fisher":
                return draw(*shape).square()
            inputs = draw(2 * ins, ins)
            return inputs.T @ inputs / len(inputs) if outs and ins else None

        return Versions(
            name=name,
            shape=shape,
            models=models,
            base=base if wants_base else None,
            statistics={
                kind: tuple(statistic(kind) for _ in models) for kind in self.needs.statistics
            },
            uniform=_source(name, self.seed, range(count)) if self.needs.seeded else None,
        )


def _source(name: str, seed: int, models: range | list[int]) -> Callable[[int, int, int], Tensor]:
    """Random numbers for models that keep theirs when their order changes."""

    def uniform(model: int, start: int, stop: int) -> Tensor:
        drawn: Tensor = Source(seed, name, str(models[model])).torch(start, stop)
        return drawn

    return uniform


class StrategyContract:
    """The laws of `git_theta.core.strategy.Strategy`.

    Set `strategy` to an instance whose weights are the same for all models. `tolerance` is how far
    results may differ, relative to the largest entry, where sums are taken in another order.
    """

    strategy: ClassVar[Strategy]
    count: ClassVar[int] = 3
    tolerance: ClassVar[float] = 1e-5

    def model(self, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Versions]:
        """A model with a tensor of every shape in all versions that are merged."""
        least, most = self.strategy.needs.models
        count = max(least, min(self.count, most or self.count))
        wide = torch.float64 if self.strategy.needs.double else dtype
        maker = _Maker(self.strategy.needs, seed)
        return {
            f"t{index}": maker.versions(f"t{index}", shape, count, wide)
            for index, shape in enumerate(SHAPES)
        }

    def test_it_says_what_it_is(self) -> None:
        kind, needs = type(self.strategy), self.strategy.needs
        assert kind.name == kind.name.lower()
        assert " " not in kind.name
        assert kind.version >= 1
        assert (kind.__doc__ or "").strip(), "the docstring is what users read"
        assert needs.scope in ("element", "tensor", "model")
        assert hasattr(kind, "survey") == (needs.scope == "model")
        assert not (needs.widens and needs.scope == "element")
        assert needs.seeded == ("seed" in {field.name for field in fields(_data(self.strategy))})

    def test_its_parameters_are_values_that_a_recipe_can_hold(self) -> None:
        data = _data(self.strategy)
        values = json.loads(json.dumps(asdict(data)))
        again = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        assert type(self.strategy)(**again) == self.strategy
        with pytest.raises((AttributeError, TypeError)):
            setattr(self.strategy, fields(data)[0].name if fields(data) else "name", None)

    def test_results_have_the_shape_and_the_dtype_of_what_they_are_computed_in(self) -> None:
        double = self.strategy.needs.double
        for dtype in (torch.float32, torch.float64):
            tensors = self.model(dtype=dtype)
            for name, result in merged(self.strategy, tensors).items():
                assert tuple(result.shape) == tensors[name].shape
                assert result.dtype == (torch.float64 if double else dtype)

    def test_what_is_stored_in_two_bytes_is_widened(self) -> None:
        if not self.strategy.needs.widens:
            return
        narrow = self.model(dtype=torch.bfloat16)
        wide = {name: _cast(versions, torch.float32) for name, versions in narrow.items()}
        expected = merged(self.strategy, wide)
        for name, result in merged(self.strategy, narrow).items():
            assert result.dtype == torch.float32
            assert torch.equal(result, expected[name])

    def test_results_are_finite(self) -> None:
        for seed in range(3):
            for result in merged(self.strategy, self.model(seed=seed)).values():
                assert bool(torch.isfinite(result).all())

    def test_versions_that_are_all_the_same_or_zero_give_finite_results(self) -> None:
        for factor in (1.0, 0.0):
            tensors = {name: _same(versions, factor) for name, versions in self.model().items()}
            for result in merged(self.strategy, tensors).values():
                assert bool(torch.isfinite(result).all())

    def test_twice_the_same_gives_the_same_bits(self) -> None:
        first, second = (merged(self.strategy, self.model()) for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_its_inputs_stay_as_they_are(self) -> None:
        tensors, before = self.model(), self.model()
        merged(self.strategy, tensors)
        for name, versions in tensors.items():
            others = (*before[name].models, before[name].base)
            for tensor, other in zip((*versions.models, versions.base), others, strict=True):
                assert tensor is None or other is None or torch.equal(tensor, other)
            for kind, each in versions.statistics.items():
                for one, other in zip(each, before[name].statistics[kind], strict=True):
                    assert one is None or other is None or torch.equal(one, other)

    def test_slices_give_the_bits_of_the_whole(self) -> None:
        if self.strategy.needs.scope != "element":
            return
        whole = merged(self.strategy, self.model())
        for step in (1, 3, 8, 16):
            parts = merged(self.strategy, self.model(), step=step)
            assert all(torch.equal(whole[name], parts[name]) for name in whole)

    def test_the_order_of_models_is_of_no_account_unless_it_says_so(self) -> None:
        if self.strategy.needs.ordered:
            return
        there = merged(self.strategy, self.model())
        turned = {name: _turned(versions) for name, versions in self.model().items()}
        for name, result in merged(self.strategy, turned).items():
            if result.numel():
                scale = float(there[name].abs().max())
                assert float((result - there[name]).abs().max()) <= self.tolerance * scale

    def test_it_refuses_to_do_without_an_ancestor_it_requires(self) -> None:
        if self.strategy.needs.base != "required":
            return
        tensors = {name: replace(versions, base=None) for name, versions in self.model().items()}
        with pytest.raises(MergeError):
            merged(self.strategy, tensors)

    def test_without_an_optional_ancestor_it_merges_or_says_why_not(self) -> None:
        if self.strategy.needs.base != "optional":
            return
        tensors = {name: replace(versions, base=None) for name, versions in self.model().items()}
        with contextlib.suppress(MergeError):
            assert set(merged(self.strategy, tensors)) == set(tensors)


def _data(strategy: Strategy) -> Any:
    """A strategy as the dataclass that it is."""
    return strategy


def _cast(versions: Versions, dtype: torch.dtype) -> Versions:
    return replace(
        versions,
        models=tuple(model.to(dtype) for model in versions.models),
        base=None if versions.base is None else versions.base.to(dtype),
        statistics={
            kind: tuple(None if one is None else one.to(dtype) for one in each)
            for kind, each in versions.statistics.items()
        },
    )


def _same(versions: Versions, factor: float) -> Versions:
    """All versions alike: the first model times a factor."""
    one = versions.models[0] * factor
    return replace(
        versions,
        models=tuple(one.clone() for _ in versions.models),
        base=None if versions.base is None else one.clone(),
        statistics={
            kind: tuple(None if item is None else item * factor for item in each)
            for kind, each in versions.statistics.items()
        },
    )


def _turned(versions: Versions) -> Versions:
    """The models in reverse order, each with its own statistics and random numbers."""
    uniform = versions.uniform
    last = len(versions.models) - 1
    return replace(
        versions,
        models=versions.models[::-1],
        statistics={kind: each[::-1] for kind, each in versions.statistics.items()},
        uniform=None
        if uniform is None
        else lambda model, start, stop: uniform(last - model, start, stop),
    )
