"""The configuration of a PEFT adapter, and how what does not fit is told.

Whatever would make the merged weights something else than the plain formula is refused by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from git_theta.errors import FormatError, RefusedError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."
MAX_CONFIG = 16 << 20
MAX_RANK = 1 << 16

# Each of these makes the merged weights something else than base + scale * B A.
_UNSUPPORTED = (
    "use_dora",
    "modules_to_save",
    "lora_bias",
    "trainable_token_indices",
    "layer_replication",
    "target_parameters",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
    "megatron_config",
)
# Others change the base model before they train, so that the adapter is one for that other model.
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")


@dataclass
class Misfits:
    """Collects what does not fit, to tell all of it at once."""

    what: str
    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        """Remember one thing that does not fit."""
        self.lines.append(line)

    def settle(self) -> None:
        """Refuse, if anything was collected."""
        if self.lines:
            refuse(self.what, self.lines)


def refuse(what: str, lines: Iterable[str], hint: str = "nothing was changed") -> NoReturn:
    """Refuse an adapter with a list, which is cut where it becomes a wall."""
    found = list(lines)
    shown = found[:20] + ([f"and {len(found) - 20} more"] if len(found) > 20 else [])
    raise RefusedError("\n  ".join([what, *shown]), hint=hint)


def read_config(raw: bytes) -> dict[str, Any]:
    """Parse an `adapter_config.json`.

    Raises:
        FormatError: it is not a JSON object.
    """
    if len(raw) > MAX_CONFIG:
        raise FormatError(f"adapter_config.json has more than {MAX_CONFIG} bytes")
    try:
        found = json.loads(raw.decode(), parse_constant=_no_constant)
    except RecursionError:
        raise FormatError("adapter_config.json is nested too deep") from None
    except ValueError as error:
        raise FormatError(f"adapter_config.json is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise FormatError("adapter_config.json is not a JSON object")
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e9:
        raise FormatError(f"adapter_config.json: {name} is {str(value)[:40]!r}, not a number")
    return float(value)


def _rank(value: Any, name: str) -> int:
    if type(value) is not int or not 1 <= value <= MAX_RANK:
        raise FormatError(f"adapter_config.json: {name} is {str(value)[:40]!r}, not a rank")
    return value


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """What a LoRA configuration says of ranks and scales."""

    rank: int
    alpha: float
    ranks: Mapping[str, Any]
    alphas: Mapping[str, Any]
    rooted: bool
    turned: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> LoraConfig:
        return cls(
            rank=_rank(config.get("r", 8), "r"),
            alpha=_number(config.get("lora_alpha", 8), "lora_alpha"),
            ranks=_patterns(config, "rank_pattern"),
            alphas=_patterns(config, "alpha_pattern"),
            rooted=flag(config, "use_rslora"),
            turned=flag(config, "fan_in_fan_out"),
        )

    def rank_of(self, module: str) -> int:
        return _rank(_by_pattern(self.ranks, module, self.rank), "rank_pattern")

    def scale_of(self, module: str, rank: int) -> float:
        alpha = _number(_by_pattern(self.alphas, module, self.alpha), "alpha_pattern")
        return alpha / (math.sqrt(rank) if self.rooted else rank)


def flag(config: Mapping[str, Any], name: str) -> bool:
    """A yes or no of the configuration; no where it says nothing."""
    value = config.get(name)
    if value not in (None, True, False):
        raise FormatError(f"adapter_config.json: {name} is {str(value)[:40]!r}, not true or false")
    return bool(value)


def _patterns(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name) or {}
    if not isinstance(found, dict):
        raise FormatError(f"adapter_config.json: {name} is no object")
    for pattern in found:
        # Somebody else's regular expression may run for ever: none that can is taken.
        plain = re.sub(r"\\[.dw]", "x", pattern)
        if (
            len(pattern) > 512
            or re.search(r"[)*+?][*+?]|\(\?|[\\{]", plain)
            or len(re.findall(r"[*+?]", plain)) > 2
            or plain.count("(") > 2
        ):
            raise RefusedError(
                f"the {name} of the adapter is too involved: {pattern[:80]!r}",
                hint="spell the modules out, one by one",
            )
        try:
            re.compile(pattern)
        except re.error as error:
            raise FormatError(
                f"adapter_config.json: {name} has {pattern[:80]!r}: {error}"
            ) from None
    return found


def _by_pattern(patterns: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    """The value of the first pattern that matches the end of a module's name, as PEFT does."""
    if module in patterns:
        return patterns[module]
    if len(module) > 512:
        return otherwise
    fits = (value for p, value in patterns.items() if re.match(rf"(.*\.)?({p})$", module))
    return next(fits, otherwise)


def check_supported(config: Mapping[str, Any]) -> str:
    """The kind of adapter; one that means more than we would do is refused."""
    kind = str(config.get("peft_type", "LORA")).upper()
    misfits = Misfits("this kind of adapter cannot be merged into weights here:")
    if kind not in ("LORA", "IA3"):
        misfits.add(f"peft_type is {kind[:40]!r}, not LORA or IA3")
    for name in _UNSUPPORTED:
        if config.get(name):
            misfits.add(f"{name} is {str(config[name])[:60]}")
    if kind == "LORA":
        if config.get("bias", "none") not in (None, "none"):
            misfits.add(f"bias is {str(config['bias'])[:40]!r}")
        start = config.get("init_lora_weights", True)
        if not any(start is plain or start == plain for plain in _PLAIN_STARTS):
            misfits.add(f"init_lora_weights is {str(start)[:40]!r}: it changes the base model")
    misfits.settle()
    return kind
