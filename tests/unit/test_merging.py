"""The engine: what is read, merged and taken, and the rules for tensors that are no weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from git_theta import registry
from git_theta.commands import arrays, merger
from git_theta.commands.reading import Source
from git_theta.core.manifest import parse
from git_theta.core.recipe import Rule, load
from git_theta.errors import MergeError, UsageError
from tests.merging import Bench, Tensors, same

AVERAGE = Rule(strategy="average")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("merging") / "work")
    yield made
    made.close()


def merged(bench: Bench, base: Tensors | None, *models: Tensors, **options: Any) -> Any:
    """The tensors that an average gives, and the outcome."""
    before = None if base is None else bench.model(base, "base")
    sides = [bench.model(model, f"side {n}") for n, model in enumerate(models)]
    outcome = bench.merge(before, *sides, **({"rules": [AVERAGE]} | options))
    return (bench.tensors(outcome) if not outcome.conflicts else None), outcome


def reasons(outcome: Any) -> dict[str, str]:
    return {step.unit.name: step.reason for step in outcome.conflicts}


W = torch.arange(12.0).reshape(3, 4)


def test_only_what_conflicts_is_read(bench: Bench):
    base = {"a": W, "b": W + 1, "c": W + 2, "d": W + 3}
    ours = base | {"a": W * 2, "c": W * 3}
    theirs = base | {"b": W * 5, "c": W * 7}
    found, outcome = merged(bench, base, ours, theirs)
    assert same(found, base | {"a": W * 2, "b": W * 5, "c": W * 5})
    assert outcome.read == 2 * 48
    recipe = load(bench_recipe(bench, outcome.text))
    assert recipe.versions == {"average": 1}
    assert [model.label for model in recipe.models] == ["side 0", "side 1"]


def bench_recipe(bench: Bench, text: bytes) -> bytes:
    manifest = parse(text)
    assert manifest.recipe is not None
    return Source(bench.session, [manifest]).whole(manifest.recipe).tobytes()


def test_merging_with_an_unchanged_side_gives_the_other(bench: Bench):
    base = bench.model({"a": W, "b": W}, "base")
    ours = bench.model({"a": W, "b": W}, "ours")
    theirs = bench.model({"a": W * 2, "c": W}, "theirs")
    assert bench.average(base, ours, theirs).text == theirs.text
    assert bench.average(base, theirs, ours).text == theirs.text


def test_a_counter_is_never_averaged_and_running_statistics_always_are(bench: Bench):
    def norm(count: int, value: float) -> dict[str, torch.Tensor]:
        return {
            "bn.weight": torch.full((3,), value),
            "bn.running_var": torch.full((3,), value),
            "bn.num_batches_tracked": torch.tensor(count),
        }

    found, outcome = merged(
        bench, norm(5, 1.0), norm(8, 2.0), norm(7, 6.0), rules=[Rule(strategy="apply")]
    )
    assert found["bn.num_batches_tracked"] == 8
    assert torch.equal(found["bn.running_var"], torch.full((3,), 4.0))
    assert torch.equal(found["bn.weight"], torch.full((3,), 7.0))
    assert "bn.num_batches_tracked: a counter: the largest was taken" in outcome.notes
    assert any("estimate it anew" in note for note in outcome.notes)


def test_whole_numbers_and_truth_values_are_a_conflict(bench: Bench):
    base = {"ids": torch.arange(4), "mask": torch.tensor([True, False]), "w": W}
    ours = {"ids": torch.arange(4) + 1, "mask": torch.tensor([True, True]), "w": W * 2}
    theirs = {"ids": torch.arange(4) + 2, "mask": torch.tensor([False, False]), "w": W * 4}
    _, outcome = merged(bench, base, ours, theirs)
    assert reasons(outcome) == {
        "ids": "its numbers (I64) cannot be merged; choose a side",
        "mask": "its numbers (BOOL) cannot be merged; choose a side",
    }
    rules = [Rule(strategy="theirs", pattern="ids"), Rule(strategy="base", pattern="m*"), AVERAGE]
    found, _ = merged(bench, base, ours, theirs, rules=rules)
    assert same(found, {"ids": theirs["ids"], "mask": base["mask"], "w": W * 3})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_by_name(bench: Bench, bad: float):
    broken = W.clone()
    broken[1, 1] = bad
    _, outcome = merged(bench, {"a.w": W}, {"a.w": W * 2}, {"a.w": broken})
    assert reasons(outcome) == {"a.w": "side 1 has NaN or infinite numbers in it"}


def test_what_overflows_the_stored_dtype_is_refused(bench: Bench):
    half = torch.tensor([1.0, 60000.0], dtype=torch.float16)
    rules = [Rule(strategy="apply", parameters={"scale": 3.0})]
    _, outcome = merged(bench, {"a": half / 2}, {"a": half}, {"a": half * 1.01}, rules=rules)
    assert reasons(outcome) == {"a": "the result overflows F16"}


def test_the_ancestor_decides_the_dtype(bench: Bench):
    base = {"a": torch.zeros(3, dtype=torch.bfloat16)}
    ours = {"a": torch.full((3,), 1.0)}
    theirs = {"a": torch.full((3,), 2.0, dtype=torch.float16)}
    found, _ = merged(bench, base, ours, theirs)
    assert found["a"].dtype == torch.bfloat16
    assert torch.equal(found["a"], torch.full((3,), 1.5, dtype=torch.bfloat16))


def test_a_vocabulary_that_grew_is_merged_by_rows(bench: Bench):
    grown = torch.cat([W * 2, torch.ones(2, 4)])
    found, outcome = merged(bench, {"e": W}, {"e": grown}, {"e": W * 4})
    assert torch.equal(found["e"], torch.cat([W * 3, torch.ones(2, 4)]))
    assert outcome.notes == ["e: merged by rows: [3, 4] and [5, 4] give [5, 4]"]
    _, outcome = merged(bench, {"e": W}, {"e": grown}, {"e": torch.cat([W, W])})
    assert "both sides changed its number of rows" in reasons(outcome)["e"]
    _, outcome = merged(bench, {"e": W}, {"e": grown}, {"e": W * 4}, mismatch="conflict")
    assert reasons(outcome) == {"e": "its shapes differ: [3, 4] and [5, 4]"}
    found, outcome = merged(bench, {"e": W}, {"e": grown}, {"e": W * 4}, mismatch="theirs")
    assert torch.equal(found["e"], W * 4)
    _, outcome = merged(bench, {"e": W}, {"e": W.T * 2}, {"e": W * 4})
    assert "its shapes differ" in reasons(outcome)["e"]


def test_tensors_on_one_side_only(bench: Bench):
    base = {"a": W, "gone": W, "kept": W}
    ours = {"a": W, "kept": W, "mine": W * 2}
    theirs = {"a": W, "gone": W, "kept": W, "yours": W * 3}
    found, _ = merged(bench, base, ours, theirs)
    assert same(found, {"a": W, "kept": W, "mine": W * 2, "yours": W * 3})
    _, outcome = merged(bench, base, ours, theirs | {"gone": W * 9})
    assert reasons(outcome) == {"gone": "deleted and changed: it is not in every model"}
    rules = [Rule(strategy="theirs", pattern="gone"), AVERAGE]
    found, _ = merged(bench, base, ours, theirs | {"gone": W * 9}, rules=rules)
    assert torch.equal(found["gone"], W * 9)


def test_a_tensor_added_on_both_sides_has_no_ancestor(bench: Bench):
    base, ours, theirs = {"a": W}, {"a": W, "n": W}, {"a": W, "n": W * 3}
    found, _ = merged(bench, base, ours, theirs)
    assert torch.equal(found["n"], W * 2)
    _, outcome = merged(bench, base, ours, theirs, rules=[Rule(strategy="apply")])
    assert reasons(outcome) == {"n": "added on both sides, and apply needs an ancestor"}


def test_metadata_is_merged_by_key(bench: Bench):
    base = bench.model({"a": W}, step="1", by="x")
    ours = bench.model({"a": W * 2}, step="2", by="x", ours="1")
    theirs = bench.model({"a": W * 4}, step="3", by="y")
    outcome = bench.average(base, ours, theirs)
    assert outcome.text is not None
    data = bench.file(parse(outcome.text))
    header = data[8 : 8 + int.from_bytes(data[:8], "little")].decode()
    assert '"__metadata__":{' in header
    assert all(part in header for part in ('"step":"2"', '"by":"y"', '"ours":"1"'))
    assert outcome.notes == ["the metadata 'step' was changed on both sides: ours was kept"]


def test_what_a_strategy_lacks_is_said_first(bench: Bench):
    with pytest.raises(MergeError, match="apply needs a common ancestor"):
        merged(bench, None, {"a": W}, {"a": W * 2}, rules=[Rule(strategy="apply")])
    three = [{"a": W * n} for n in (2, 3, 4)]
    with pytest.raises(MergeError, match="theirs merges 2 models, not 3"):
        merged(bench, {"a": W}, *three, rules=[Rule(strategy="theirs")])
    rules = [Rule(strategy="average", parameters={"scales": 1})]
    with pytest.raises(UsageError, match="average has no parameter 'scales'"):
        merged(bench, {"a": W}, {"a": W * 2}, {"a": W * 3}, rules=rules)


def test_gradients_over_layers(bench: Bench):
    names = [f"layers.{n}.w" for n in range(3)] + ["embed.w", "head.w"]
    base = dict.fromkeys(names, torch.zeros(4))
    ours, theirs = dict.fromkeys(names, torch.ones(4)), dict.fromkeys(names, torch.full((4,), 3.0))
    rules = [Rule(strategy="apply", parameters={"scale": [0.0, 1.0]})]
    found, _ = merged(bench, base, ours, theirs, rules=rules)
    values = [found[name][0].item() for name in names]
    assert values == [1.0, 2.5, 4.0, 1.0, 4.0]
    filters = [{"filter": "embed", "value": 2.0}, {"value": 0.0}]
    rules = [Rule(strategy="apply", parameters={"scale": filters})]
    found, _ = merged(bench, base, ours, theirs, rules=rules)
    assert [found[name][0].item() for name in names] == [1.0, 1.0, 1.0, 7.0, 1.0]


def test_an_interrupted_merge_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    base = {f"w{n}": W + n for n in range(6)}
    ours = {name: w * 2 for name, w in base.items()}
    theirs = {name: w * 4 for name, w in base.items()}
    landed: list[str] = []
    real = merger.Merger._land

    def counted(self: Any, *rest: Any) -> None:
        if len(landed) == 4:
            raise KeyboardInterrupt
        landed.append("one")
        real(self, *rest)

    monkeypatch.setattr(merger.Merger, "_land", counted)
    with pytest.raises(KeyboardInterrupt):
        merged(bench, base, ours, theirs)
    monkeypatch.setattr(merger.Merger, "_land", real)
    journals = bench.session.repo.common_dir / "theta" / "merges"
    assert len(list(journals.iterdir())) == 1
    computed: list[str] = []
    slices = arrays.merge_slice

    def watched(context: Any, step: Any, *rest: Any) -> Any:
        computed.append(step.unit.name)
        return slices(context, step, *rest)

    monkeypatch.setattr(arrays, "merge_slice", watched)
    found, outcome = merged(bench, base, ours, theirs)
    assert same(found, {name: w * 3 for name, w in base.items()})
    assert sorted(computed) == ["w4", "w5"]
    assert "went on after 4 tensors that were merged before" in outcome.notes
    assert list(journals.iterdir()) == []


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(
    data=st.data(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    block=st.sampled_from([1, 3, 7, 1 << 20]),
)
def test_neither_order_nor_slices_change_a_bit(bench: Bench, data: Any, dtype: Any, block: int):
    seed = data.draw(st.integers(0, 1000))
    generator = torch.Generator().manual_seed(seed)
    base, ours, theirs = (
        {"w": torch.randn(5, 7, generator=generator, dtype=torch.float64).to(dtype)}
        for _ in range(3)
    )
    found, _ = merged(bench, base, ours, theirs)
    again, _ = merged(bench, base, theirs, ours)
    assert same(found, again)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    wanted = ((ours["w"].to(wide) + theirs["w"].to(wide)) / 2).to(dtype)
    assert same(found, {"w": wanted})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "BLOCK", block)
        sliced, _ = merged(bench, base, ours, theirs, device="cpu")
    assert same(sliced, found)


def networks(count: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    base = {
        "layers.0.weight": torch.randn(8, 6, generator=generator),
        "layers.0.bias": torch.randn(8, generator=generator),
        "layers.1.weight": torch.randn(4, 8, generator=generator),
    }
    changed = [
        {name: w + 0.1 * torch.randn(w.shape, generator=generator) for name, w in base.items()}
        for _ in range(count)
    ]
    return [base, *changed]


REQUIRED = {"nearswap": {"t": 0.05}}


@pytest.mark.parametrize("name", registry.names("merges"))
def test_every_strategy_runs_in_the_engine(bench: Bench, name: str):
    needs = registry.load_class("merges", name).needs
    least, most = needs.models
    count = max(least, min(3, most or 3))
    base, *models = networks(count)
    rule = Rule(strategy=name, parameters=REQUIRED.get(name, {}))
    sides = [bench.model(model, f"side {n}") for n, model in enumerate(models)]
    beside = {kind: bench.model(statistic(kind)).manifest for kind in needs.statistics}
    sides = [replace(side, statistics=beside) for side in sides]
    before = bench.model(base, "base")
    outcome = bench.merge(before, *sides, rules=[rule])
    found = bench.tensors(outcome)
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in base.items()}
    again = bench.merge(before, *sides, rules=[rule])
    assert again.text == outcome.text
    if not needs.ordered and not needs.seeded:
        turned = bench.tensors(bench.merge(before, *sides[::-1], rules=[rule]))
        assert all(torch.allclose(turned[n], found[n], atol=1e-5) for n in found)


def statistic(kind: str) -> dict[str, torch.Tensor]:
    """Made-up statistics of `networks`, of the right shapes."""
    base = networks(1)[0]
    if kind == "fisher":
        return {name: torch.rand(w.shape) + 0.1 for name, w in base.items()}
    inputs = {name: torch.randn(20, w.shape[1]) for name, w in base.items() if w.dim() == 2}
    return {name: x.T @ x / len(x) for name, x in inputs.items()}


def test_statistics_that_are_missing_are_named(bench: Bench):
    with pytest.raises(MergeError, match="fisher needs fisher statistics, which side 0 and side 1"):
        merged(bench, {"a": W}, {"a": W * 2}, {"a": W * 3}, rules=[Rule(strategy="fisher")])


def test_gaps_between_rules_are_conflicts(bench: Bench):
    base, ours, theirs = ({"a": W * n, "b": W * n} for n in (1, 2, 4))
    _, outcome = merged(bench, base, ours, theirs, rules=[replace(AVERAGE, pattern="a")])
    assert reasons(outcome) == {"b": "changed differently"}
