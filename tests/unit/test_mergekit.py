"""Configuration files of mergekit, said in our words."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from git_theta.commands.mergekit import _METHODS, from_mergekit
from git_theta.commands.strategies import make, parameters_of, strategy_class
from git_theta.errors import UsageError


def read(text: str) -> Any:
    return from_mergekit(yaml.safe_load(text), parameters_of)


@pytest.mark.parametrize("method", sorted(_METHODS))
def test_every_method_is_a_strategy_and_its_defaults_are_parameters(method: str):
    known = _METHODS[method]
    parameters = parameters_of(known.name)
    found = strategy_class(known.name)
    for ours, _ in (*known.each.values(), *known.all.values()):
        assert ours in parameters, (method, ours)
    given = {ours: 0.5 if value is None else value for ours, value in known.all.values()}
    assert isinstance(make(known.name, given), found)


def test_slerp_as_it_is_usually_written():
    explicit = read(
        """
slices:
  - sources:
      - {model: theirs, layer_range: [0, 32]}
      - {model: base, layer_range: [0, 32]}
merge_method: slerp
base_model: base
parameters:
  t:
    - {filter: self_attn, value: [0, 0.5, 1]}
    - {value: 0.5}
dtype: bfloat16
"""
    )
    assert explicit.base is None
    assert explicit.models == ("base", "theirs")
    (rule,) = explicit.instructions.rules
    assert rule.strategy == "slerp"
    assert rule.parameters["t"][1] == {"value": 0.5}
    assert explicit.instructions.scope == "all"
    assert explicit.notes == ("ignored: dtype (dtypes stay those of the ancestor)",)


def test_ties_takes_the_defaults_of_mergekit():
    explicit = read(
        """
models:
  - model: base
  - {model: a, parameters: {density: 0.5, weight: 0.3}}
  - {model: b, parameters: {density: 0.7}}
merge_method: ties
base_model: base
parameters: {weight: 0.5, int8_mask: true}
"""
    )
    assert (explicit.base, explicit.models) == ("base", ("a", "b"))
    (rule,) = explicit.instructions.rules
    wanted = {"density": [0.5, 0.7], "weights": [0.3, 0.5], "normalize": True, "scale": 1.0}
    assert dict(rule.parameters) == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{merge_method: frankenstein, models: []}", "no method is called 'frankenstein'"),
        ("{merge_method: linear}", "neither models nor slices"),
        ("{merge_method: slerp, models: [{model: a}, {model: b}]}", "does not say 't'"),
        (
            "{merge_method: linear, slices: [{sources: [{model: a, layer_range: [4, 16]}]}]}",
            "moves layers about",
        ),
    ],
)
def test_what_cannot_be_done_is_said(text: str, said: str):
    with pytest.raises(UsageError, match=said):
        read(text)
