"""`git theta extract`: an adapter out of the difference of two versions."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from git_theta.commands.export import fetch_missing, write_whole
from git_theta.commands.options import JSON_OPTION, path_from_top, split_revision
from git_theta.commands.session import Session
from git_theta.commands.tensors import StoredFile, Tensors, open_tensors
from git_theta.commands.terminal import count, note, say, say_json, say_table
from git_theta.core.layout import TensorSpec, TensorView
from git_theta.core.manifest import Manifest
from git_theta.core.peft import CONFIG, PEFT_PREFIX, WEIGHTS
from git_theta.core.truncation import memory_needed, truncated
from git_theta.core.values import Doubles, is_float, to_float
from git_theta.errors import RefusedError, UsageError
from git_theta.formats.safetensors import METADATA, write_header
from git_theta.repo.tracked import find_blob, is_left_as_manifest, parse_at
from git_theta.settings import Settings

Factor = npt.NDArray[np.float32]

_WEIGHT = ".weight"
# What PEFT gives factors of their own names for; a checkpoint does not say what a matrix is for.
_EMBEDDING = re.compile(r"(?:.*\.)?(?:emb\w*|\w*_emb|\w*embeddings?|wte|wpe|shared)\Z", re.S)


@click.command()
@click.argument("a")
@click.argument("b")
@click.argument("path", required=False)
@click.option("--rank", type=click.IntRange(1, 4096), required=True, metavar="R", help="Its rank.")
@click.option("-o", "--output", required=True, metavar="DIR", help="The directory to write.")
@click.option("--fan-in-fan-out", is_flag=True, help="Weights are stored inputs first (Conv1D).")
@click.option("--force", is_flag=True, help="Replace an adapter that is in DIR.")
@JSON_OPTION
def command(a: str, b: str, path: str | None, output: str, as_json: bool, **given: Any) -> None:
    """Write a LoRA adapter, as PEFT does, that makes about B out of A.

    \b
        git theta extract main finetuned model.safetensors --rank 16 -o adapter/
        git theta extract HEAD~1:old.pt HEAD:new.pt --rank 8 -o adapter/
        git theta extract base.safetensors tuned.safetensors --rank 8 -o adapter/

    A and B are revisions where PATH is given, else REV:PATH or files. Each matrix that differs is
    approximated by the best one of that rank; how much is lost is told, tensor by tensor. What
    else differs cannot be in such an adapter, and is listed.
    """
    folder = Path(output)
    wish = Wish(**{key: given[key] for key in ("rank", "fan_in_fan_out")})
    if not given["force"]:
        for name in (CONFIG, WEIGHTS):
            if os.path.lexists(folder / name):
                raise RefusedError(f"{folder / name} exists", hint="add --force to replace it")
    with ExitStack() as stack:
        sources = _Sources(stack)
        made = extract(sources.open(a, path), sources.open(b, path), wish, sources.memory)
    if not made.rows:
        raise RefusedError("no matrix differs: there is nothing to extract", hint=_left(made))
    _write(folder, made, wish)
    if as_json:
        say_json({"directory": str(folder), **made.to_dict()})
    else:
        _print(folder, made)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What kind of adapter."""

    rank: int
    fan_in_fan_out: bool = False


@dataclass(slots=True)
class Extract:
    """An adapter: its tensors, the modules it is for, and what was lost.

    `rows` has a line for each matrix in it, `left` one for each tensor that differs and is not.
    """

    tensors: dict[str, Factor] = field(default_factory=dict)
    modules: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    left: list[dict[str, str]] = field(default_factory=list)
    apart: float = 0.0
    norm: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """For a report as JSON."""
        error = math.sqrt(self.apart / self.norm) if self.norm else 0.0
        return {
            "relative_error": error,
            "energy": 1 - error**2,
            "tensors": self.rows,
            "left_out": self.left,
        }


class _Sources:
    """Opens versions of a checkpoint; a repository is needed only for those that are in one."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._session: Session | None = None

    @property
    def memory(self) -> int:
        """What a whole matrix may take, in bytes."""
        settings = Settings.read({}) if self._session is None else self._session.settings
        return settings.memory

    def open(self, word: str, path: str | None) -> Tensors:
        """A version that is named on the command line."""
        if path is not None:
            session = self._opened()
            return self._stored(word, path_from_top(session.repo, path))
        file = Path(word)
        if os.path.isfile(word):  # noqa: PTH113 - False for what can be no path
            if is_left_as_manifest(file):
                return self._of(parse_at(word, file.read_bytes()))
            return self._stack.enter_context(open_tensors(file))
        rev, inside = split_revision(word)
        if ":" not in word:
            raise UsageError(
                f"{word!r} is neither a file nor REV:PATH", hint="git theta extract -h"
            )
        if rev is None or inside.startswith("./"):
            inside = path_from_top(self._opened().repo, inside)
        return self._stored(rev, inside)

    def _stored(self, rev: str | None, path: str) -> Tensors:
        repo = self._opened().repo
        return self._of(parse_at(path, find_blob(repo, rev, path)[1]))

    def _of(self, manifest: Manifest) -> Tensors:
        session = self._opened()
        fetch_missing(session, manifest)
        return StoredFile(session, manifest)

    def _opened(self) -> Session:
        if self._session is None:
            self._session = Session()
            self._stack.callback(self._session.close)
        return self._session


# --- the adapter ---------------------------------------------------------------------------------


def extract(a: Tensors, b: Tensors, wish: Wish, memory: int) -> Extract:
    """Approximate what is different, matrix by matrix."""
    made = Extract()
    for name in sorted(a.views.keys() | b.views.keys()):
        made.others.append(name.removesuffix(_WEIGHT))
        if name in a.views and name in b.views:
            reason = _compared(made, a, b, name, wish, memory)
        else:
            reason = "is only in " + ("A" if name in a.views else "B")
        if reason:
            made.left.append({"name": name, "reason": reason})
    return made


def _compared(made: Extract, a: Tensors, b: Tensors, name: str, wish: Wish, memory: int) -> str:
    """Add the factors of one tensor, if it differs; why not, where it has none."""
    known = a.identity(name)
    if known is not None and known == b.identity(name):
        return ""
    old, new = a.views[name], b.views[name]
    before, after = a.read(name), b.read(name)
    if (old.dtype, old.shape) == (new.dtype, new.shape) and np.array_equal(before, after):
        return ""
    reason = _why_not(old, new, memory)
    if reason:
        return reason
    difference = to_float(after, new.dtype) - to_float(before, old.dtype)
    if not np.isfinite(difference).all():
        return "has numbers that are not finite"
    _factor(made, name, difference.reshape(new.shape), wish)
    return ""


def _why_not(old: TensorView, new: TensorView, memory: int) -> str:
    """Why the difference of two tensors cannot be in a LoRA adapter."""
    if old.shape != new.shape:
        return f"changed from {list(old.shape)} to {list(new.shape)}"
    if not (is_float(old.dtype) and is_float(new.dtype)):
        return f"has {new.dtype} numbers"
    if len(new.shape) != 2 or 0 in new.shape:
        return f"is no matrix but {list(new.shape)}"
    if not new.name.endswith(_WEIGHT):
        return "is no weight of a module"
    if memory_needed(new.shape) > memory:
        return "is too large for theta.memory"
    return ""


def _factor(made: Extract, name: str, difference: Doubles, wish: Wish) -> None:
    norm = float(np.linalg.norm(difference))
    if not norm:
        return  # the other zero, or another dtype
    pair = truncated(difference, wish.rank)
    left, right = (factor.astype(np.float32).astype(np.float64) for factor in pair)
    apart = float(np.linalg.norm(difference - left @ right))
    module = name.removesuffix(_WEIGHT)
    embedding = _EMBEDDING.match(module) is not None
    down, up = (left.T, right.T) if embedding or wish.fan_in_fan_out else (right, left)
    kind = "lora_embedding_{}" if embedding else "lora_{}.weight"
    for side, factor in (("A", down), ("B", up)):
        made.tensors[f"{PEFT_PREFIX}{module}.{kind.format(side)}"] = factor.astype("<f4")
    made.modules.append(module)
    made.apart += apart**2
    made.norm += norm**2
    error = apart / norm
    row = {"name": name, "relative_error": error, "energy": 1 - error**2, "embedding": embedding}
    made.rows.append(row)


# --- the directory -------------------------------------------------------------------------------


def _write(folder: Path, made: Extract, wish: Wish) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_config(made, wish), indent=2) + "\n"
    write_whole(folder / WEIGHTS, _file(made.tensors))
    write_whole(folder / CONFIG, iter([memoryview(text.encode())]))


def _file(tensors: Mapping[str, Factor]) -> Iterator[memoryview]:
    shapes = ((name, factor.shape) for name, factor in sorted(tensors.items()))
    specs = [TensorSpec(name=name, dtype="F32", shape=shape) for name, shape in shapes]
    yield memoryview(write_header({METADATA: {"format": "pt"}}, specs)[0])
    for spec in specs:
        yield np.ascontiguousarray(tensors[spec.name]).reshape(-1).view(np.uint8).data


def _config(made: Extract, wish: Wish) -> dict[str, Any]:
    return {
        "base_model_name_or_path": None,
        "bias": "none",
        "fan_in_fan_out": wish.fan_in_fan_out,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": wish.rank,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": wish.rank,
        "target_modules": _target_modules(made),
        "task_type": None,
        "use_dora": False,
        "use_rslora": False,
    }


def _target_modules(made: Extract) -> list[str] | str:
    """Names, or an expression where PEFT would take the end of another module's name for one."""
    ours = set(made.modules)
    rest = {part for other in made.others if other not in ours for part in _ends(other)}
    return "|".join(map(re.escape, sorted(ours))) if ours & rest else sorted(ours)


def _ends(name: str) -> Iterator[str]:
    """A name without its first part, without its first two, and so on."""
    while "." in name:
        name = name.partition(".")[2]
        yield name


def _left(made: Extract) -> str:
    if not made.left:
        return "the two versions are the same"
    return f"{count(len(made.left), 'tensor')} differ that cannot be in an adapter"


def _print(folder: Path, made: Extract) -> None:
    whole = made.to_dict()
    rows = [
        (row["name"], f"{row['relative_error']:.2e}", f"{100 * row['energy']:.2f} %")
        for row in (*made.rows, {"name": "all of these", **whole})
    ]
    say("Distance of the adapter from the difference, relative to that (L2):")
    say_table(("TENSOR", "ERROR", "ENERGY KEPT"), rows, right=(1, 2))
    if made.left:
        say(f"Not in the adapter, though different ({count(len(made.left), 'tensor')}):")
        say_table(("TENSOR", "REASON"), [(row["name"], row["reason"]) for row in made.left])
    note(f"written to {folder}; git theta add MODEL --from {folder} applies it")
