"""What mergekit is asked, and what git-theta's strategies are asked for the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MODELS = ("base", "one", "two", "three")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One merge in mergekit's terms and in ours.

    `models` are named as in MODELS; `base` is mergekit's base_model. `each` has lists with a value
    for each model, `whole` values for the merge. `ours` are our strategy and its parameters, for
    the same models; `turn` says that mergekit takes the ancestor's part.
    """

    name: str
    method: str
    ours: str
    models: tuple[str, ...] = ("one", "two", "three")
    base: str | None = "base"
    each: dict[str, list[float]] = field(default_factory=dict)
    whole: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)


EXPLICIT: dict[str, dict[str, float]] = {
    "task_arithmetic": {"weight": 1.0, "density": 1.0},
    "ties": {"weight": 1.0, "density": 1.0},
    "dare_linear": {"weight": 1.0, "density": 1.0},
    "dare_ties": {"weight": 1.0, "density": 1.0},
    "breadcrumbs": {"weight": 1.0, "density": 1.0, "gamma": 0.01},
    "breadcrumbs_ties": {"weight": 1.0, "density": 1.0, "gamma": 0.01},
    "della": {"weight": 1.0, "density": 1.0, "epsilon": 0.15},
    "della_linear": {"weight": 1.0, "density": 1.0, "epsilon": 0.15},
}
"""What each model of a merge has to say although it is the default: mergekit fails without."""
THREE = [0.7, 0.5, 1.1]
PAIR = ("one", "two")


def _weighed(name: str, method: str, ours: str, **more: Any) -> Case:
    """A case with three weighted task vectors, and the same parameters on both sides."""
    whole = {"lambda" if key == "scale" else key: value for key, value in more.items()}
    each = {"weight": THREE}
    for key in ("density", "gamma", "epsilon"):
        if isinstance(whole.get(key), list):
            each[key] = whole.pop(key)
    return Case(
        name=name,
        method=method,
        ours=ours,
        each=each,
        whole=whole,
        parameters=more | {"weights": THREE},
    )


ELEMENTWISE = [
    Case(
        name="linear",
        method="linear",
        ours="average",
        base=None,
        each={"weight": THREE},
        parameters={"weights": THREE},
    ),
    Case(
        name="linear-two",
        method="linear",
        ours="average",
        models=PAIR,
        base=None,
        each={"weight": [1.0, 1.0]},
    ),
    Case(
        name="passthrough",
        method="passthrough",
        ours="passthrough",
        models=("one",),
        base=None,
        each={"scale": [0.4]},
        parameters={"scale": 0.4},
    ),
    _weighed("task-arithmetic", "task_arithmetic", "task-arithmetic", scale=0.6),
    _weighed("task-arithmetic-mean", "task_arithmetic", "task-arithmetic", normalize=True),
    Case(
        name="nearswap",
        method="nearswap",
        ours="nearswap",
        models=("one", "two"),
        base="one",
        whole={"t": 0.02},
        parameters={"t": 0.02},
    ),
    Case(name="ram", method="ram", ours="ram"),
]
TENSORWISE = [
    Case(
        name="slerp",
        method="slerp",
        ours="slerp",
        models=PAIR,
        base="one",
        whole={"t": 0.3},
        parameters={"t": 0.3},
    ),
    Case(
        name="nuslerp",
        method="nuslerp",
        ours="nuslerp",
        models=PAIR,
        base=None,
        each={"weight": [1.0, 3.0]},
        parameters={"weights": [1.0, 3.0]},
    ),
    Case(
        name="nuslerp-base",
        method="nuslerp",
        ours="nuslerp",
        models=PAIR,
        each={"weight": [1.0, 3.0]},
        parameters={"weights": [1.0, 3.0], "from_base": True},
    ),
    *(
        Case(
            name=f"nuslerp-{'rows' if rows else 'columns'}",
            method="nuslerp",
            ours="nuslerp",
            models=PAIR,
            each={"weight": [1.0, 3.0]},
            whole={"nuslerp_flatten": False, "nuslerp_row_wise": rows},
            parameters={
                "weights": [1.0, 3.0],
                "flatten": False,
                "row_wise": rows,
                "from_base": True,
            },
        )
        for rows in (False, True)
    ),
    Case(
        name="multislerp",
        method="multislerp",
        ours="multislerp",
        base=None,
        each={"weight": THREE},
        parameters={"weights": THREE},
    ),
    Case(
        name="multislerp-base",
        method="multislerp",
        ours="multislerp",
        each={"weight": THREE},
        whole={"normalize_weights": False},
        parameters={"weights": THREE, "normalize": False, "from_base": True},
    ),
    Case(name="karcher", method="karcher", ours="karcher", base=None),
    Case(
        name="arcee-fusion",
        method="arcee_fusion",
        ours="arcee-fusion",
        models=("one", "two"),
        base="one",
    ),
    Case(name="model-stock", method="model_stock", ours="model-stock"),
    Case(name="model-stock-two", method="model_stock", ours="model-stock", models=PAIR),
    Case(
        name="model-stock-rows",
        method="model_stock",
        ours="model-stock",
        whole={"filter_wise": True},
        parameters={"filter_wise": True},
    ),
    _weighed("ties", "ties", "ties", density=0.5),
    _weighed("ties-each", "ties", "ties", density=[0.3, 0.5, 0.9], scale=0.5),
    _weighed("ties-sum", "ties", "ties", density=0.4, normalize=False),
    _weighed("breadcrumbs", "breadcrumbs", "breadcrumbs", density=0.7, gamma=0.05),
    _weighed("breadcrumbs-ties", "breadcrumbs_ties", "breadcrumbs-ties", density=0.7, gamma=0.05),
    Case(name="sce", method="sce", ours="sce"),
    Case(
        name="sce-top",
        method="sce",
        ours="sce",
        whole={"select_topk": 0.4},
        parameters={"select_topk": 0.4},
    ),
    Case(name="ram-plus", method="ramplus_tl", ours="ram-plus"),
    _weighed("dare-linear-all", "dare_linear", "dare-linear", density=1.0),
    _weighed("dare-ties-all", "dare_ties", "dare-ties", density=1.0),
    _weighed("della-all", "della", "della", density=1.0),
    _weighed("della-linear-all", "della_linear", "della-linear", density=1.0),
]
RANDOM = [
    _weighed("dare-linear", "dare_linear", "dare-linear", density=0.6, rescale=False),
    _weighed("dare-ties", "dare_ties", "dare-ties", density=0.6, rescale=False),
    _weighed("della", "della", "della", density=0.6, epsilon=0.2, rescale=False),
    _weighed(
        "della-linear", "della_linear", "della-linear", density=0.6, epsilon=0.2, rescale=False
    ),
    Case(
        name="dare-rescaled",
        method="dare_linear",
        ours="dare-linear",
        models=("one",),
        each={"weight": [1.0]},
        whole={"density": 0.1},
        parameters={"density": 0.1},
    ),
]
CASES = [*ELEMENTWISE, *TENSORWISE, *RANDOM]
