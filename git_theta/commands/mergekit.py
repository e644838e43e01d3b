"""Configuration files of mergekit, understood where a model is a revision of this repository.

What mergekit takes for granted is said explicitly here: its defaults are not always ours. Files
that move layers about are refused, since that is no merge of versions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from git_theta.core.recipe import Instructions, Rule
from git_theta.errors import UsageError

_IGNORED = ("tokenizer", "tokenizer_source", "chat_template", "dtype", "out_dtype", "name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Explicit:
    """Instructions that name their models, by revision, in order; `base` is one too."""

    base: str | None
    models: tuple[str, ...]
    instructions: Instructions
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Method:
    """How one of mergekit's methods is called here.

    `each` maps its parameters of models to ours with their default, `all` those of the whole
    merge. `base` says what it makes of `base_model`: the ancestor, the first model, or nothing.
    """

    name: str
    each: Mapping[str, tuple[str, Any]]
    all: Mapping[str, tuple[str, Any]]
    base: str = "ancestor"


def _vectors(name: str, *, normalize: bool, **more: tuple[str, Any]) -> _Method:
    each = {key: value for key, value in more.items() if key in ("density", "gamma", "epsilon")}
    rest = {key: value for key, value in more.items() if key not in each}
    return _Method(
        name=name,
        each={"weight": ("weights", 1.0)} | each,
        all={"normalize": ("normalize", normalize), "lambda": ("scale", 1.0)} | rest,
    )


_DENSITY: tuple[str, Any] = ("density", 1.0)
_EPSILON: tuple[str, Any] = ("epsilon", 0.15)
_GAMMA: tuple[str, Any] = ("gamma", 0.01)
_RESCALE: tuple[str, Any] = ("rescale", True)
_WEIGHT: Mapping[str, tuple[str, Any]] = {"weight": ("weights", 1.0)}

_METHODS: dict[str, _Method] = {
    "linear": _Method(
        name="average", each=_WEIGHT, all={"normalize": ("normalize", True)}, base="none"
    ),
    "slerp": _Method(name="slerp", each={}, all={"t": ("t", None)}, base="first"),
    "nuslerp": _Method(
        name="nuslerp",
        each=_WEIGHT,
        all={"nuslerp_flatten": ("flatten", True), "nuslerp_row_wise": ("row_wise", False)},
        base="optional",
    ),
    "multislerp": _Method(
        name="multislerp",
        each=_WEIGHT,
        all={"normalize_weights": ("normalize", True), "eps": ("epsilon", 1e-8)},
        base="optional",
    ),
    "karcher": _Method(
        name="karcher", each={}, all={"max_iter": ("max_iter", 10), "tol": ("tol", 1e-5)},
        base="none",
    ),
    "nearswap": _Method(name="nearswap", each={}, all={"t": ("t", None)}, base="first"),
    "arcee_fusion": _Method(name="arcee-fusion", each={}, all={}, base="first"),
    "passthrough": _Method(
        name="passthrough", each={}, all={"scale": ("scale", 1.0)}, base="none"
    ),
    "task_arithmetic": _vectors("task-arithmetic", normalize=False),
    "ties": _vectors("ties", normalize=True, density=_DENSITY),
    "dare_linear": _vectors("dare-linear", normalize=False, density=_DENSITY, rescale=_RESCALE),
    "dare_ties": _vectors("dare-ties", normalize=False, density=_DENSITY, rescale=_RESCALE),
    "breadcrumbs": _vectors("breadcrumbs", normalize=False, density=_DENSITY, gamma=_GAMMA),
    "breadcrumbs_ties": _vectors(
        "breadcrumbs-ties", normalize=False, density=_DENSITY, gamma=_GAMMA
    ),
    "della": _vectors(
        "della", normalize=True, density=_DENSITY, epsilon=_EPSILON, rescale=_RESCALE
    ),
    "della_linear": _vectors(
        "della-linear", normalize=False, density=_DENSITY, epsilon=_EPSILON, rescale=_RESCALE
    ),
    "sce": _Method(name="sce", each={}, all={"select_topk": ("select_topk", 1.0)}),
    "model_stock": _Method(
        name="model-stock", each={}, all={"filter_wise": ("filter_wise", False)}
    ),
    "ram": _Method(name="ram", each={}, all={"epsilon": ("epsilon", 1e-5)}),
    "ramplus_tl": _Method(
        name="ram-plus",
        each={},
        all={"epsilon": ("epsilon", 1e-5), "r": ("r", 0.1), "alpha": ("alpha", 0.2)},
    ),
}  # fmt: skip


def is_mergekit(raw: Any) -> bool:
    """Whether values read from a file are a configuration of mergekit."""
    return isinstance(raw, Mapping) and "merge_method" in raw


def from_mergekit(raw: Mapping[str, Any], takes: Callable[[str], set[str]]) -> Explicit:
    """Instructions from a configuration; `takes` names the parameters of one of our strategies.

    Raises:
        UsageError: it names a method that is not known, or says what cannot be done here.
    """
    method = _METHODS.get(str(raw["merge_method"]))
    if method is None:
        known = ", ".join(_METHODS)
        raise UsageError(f"no method is called {raw['merge_method']!r}", hint=f"known: {known}")
    entries = _models(raw)
    base = raw.get("base_model")
    names = [entry["model"] for entry in entries]
    if method.base == "first" and base is not None:
        entries.sort(key=lambda entry: entry["model"] != base)
        if entries and entries[0]["model"] != base:
            entries.insert(0, {"model": base, "parameters": {}})
    elif method.base != "none" and base is not None:
        entries = [entry for entry in entries if entry["model"] != base]
    ancestor = base if method.base in ("ancestor", "optional") else None
    parameters = _parameters(method, entries, raw.get("parameters") or {})
    if method.base == "optional" and "from_base" in takes(method.name):
        parameters["from_base"] = base is not None
    parameters = {key: v for key, v in parameters.items() if key in takes(method.name)}
    ignored = [key for key in _IGNORED if key in raw]
    notes = (
        [f"ignored: {', '.join(ignored)} (dtypes stay those of the ancestor)"] if ignored else []
    )
    if not names:
        raise UsageError("the configuration names no model")
    rule = Rule(strategy=method.name, parameters=parameters)
    return Explicit(
        base=None if ancestor is None else str(ancestor),
        models=tuple(str(entry["model"]) for entry in entries),
        instructions=Instructions(rules=(rule,), scope="all"),
        notes=tuple(notes),
    )


def _models(raw: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The models with their own parameters, whichever of the ways they are written in."""
    entries: Sequence[Any]
    if raw.get("models"):
        entries = raw["models"]
    elif raw.get("slices"):
        entries = _whole_slice(raw["slices"])
    else:
        raise UsageError("the configuration has neither models nor slices")
    found = []
    for entry in entries:
        name = entry.get("model")
        if not isinstance(name, str):
            raise UsageError(f"no revision is named by {name!r}")
        found.append({"model": name, "parameters": dict(entry.get("parameters") or {})})
    return found


def _whole_slice(slices: Sequence[Any]) -> Sequence[Any]:
    """The sources of the one slice that is the whole of every model."""
    ranges = {tuple(s.get("layer_range") or ()) for one in slices for s in one.get("sources", ())}
    if len(slices) != 1 or len(ranges) != 1 or any(one and one[0] != 0 for one in ranges):
        raise UsageError(
            "the configuration moves layers about, which is no merge of versions",
            hint="one slice with the same layers of every model is understood",
        )
    sources: Sequence[Any] = slices[0]["sources"]
    return sources


def _parameters(
    method: _Method, entries: Sequence[Mapping[str, Any]], common: Mapping[str, Any]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, (ours, default) in method.all.items():
        own = [entry["parameters"][key] for entry in entries if key in entry["parameters"]]
        value = common.get(key, own[0] if own else default)
        if value is None:
            raise UsageError(f"the configuration does not say {key!r}")
        found[ours] = value
    for key, (ours, default) in method.each.items():
        values = [entry["parameters"].get(key, common.get(key, default)) for entry in entries]
        alike = all(value == values[0] for value in values)
        if ours != "weights" and alike and values and not isinstance(values[0], list):
            found[ours] = values[0]
        else:
            found[ours] = values
    return found
