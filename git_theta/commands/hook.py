"""A Python function of the user's, named on the command line as module:function, and run.

Nothing else ever runs code that is not installed: no driver, no filter, no recipe names a hook.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from git_theta.commands.terminal import printable
from git_theta.core.chain import digest_of
from git_theta.core.manifest import Manifest, Tensor
from git_theta.core.merging import FLOATS
from git_theta.errors import RefusedError, UsageError, shell_word

Hook = Callable[[Path], Any]


def load_hook(text: str, say: Callable[[str], None]) -> Hook:
    """Import `module:function`, looking in the current directory first, and say what will run.

    Raises:
        UsageError: there is no such module, or no such function in it.
    """
    name, _, function = text.partition(":")
    if not name or not function:
        raise UsageError(f"{text!r} names no function", hint="--with module:function")
    sys.path.insert(0, str(Path.cwd()))
    sys.dont_write_bytecode = True  # no __pycache__ among the user's files
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise UsageError(f"{name} needs {error.name}, which is not installed") from error
        raise UsageError(
            f"there is no module {name!r} in {Path.cwd()} or installed",
            hint="--with module:function, for a file module.py here",
        ) from error
    found = getattr(module, function, None)
    if not callable(found):
        raise UsageError(f"{name} has no function {function!r}")
    say(f"git theta: running {printable(text)} from {printable(str(module.__file__))}")
    hook: Hook = found
    return hook


def open_hook(hook: Hook, name: str, path: Path) -> tuple[Any, Any]:
    """Call a hook: (model, batches), from a pair or from a generator that yields the model first.

    Raises:
        UsageError: it gives something else.
    """
    from torch import nn

    given = hook(path)
    if isinstance(given, Iterator):
        model, batches = next(given, None), given
    elif isinstance(given, tuple) and len(given) == 2:
        model, batches = given
    else:
        raise UsageError(
            f"{name} returned a {type(given).__name__}", hint="return (model, batches)"
        )
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"the model that {name} gave is a {type(model).__name__}, no torch.nn.Module"
        )
    return model, batches


def check_weights(model: Any, manifest: Manifest, path: str) -> None:
    """Make sure that a torch model holds the weights that are staged for a path.

    Raises:
        UsageError: it has none of its tensors.
        RefusedError: a tensor differs: the statistics would belong to another model.
    """
    held = {
        n: v for n, v in model.named_parameters(remove_duplicate=False) if n in manifest.tensors
    }
    if not held:
        theirs = next((n for n, _ in model.named_parameters()), "nothing")
        ours = next(iter(sorted(manifest.tensors)), "nothing")
        raise UsageError(
            f"the model has no tensor of {path}: it has {theirs}, the file {ours}",
            hint="the names have to be those of the file",
        )
    for name, values in held.items():
        if not _same(values, manifest.tensors[name]):
            raise RefusedError(
                f"{name} of the model is not {name} of {path} as it is staged",
                hint=f"load the path that the function is given; git add -- {shell_word(path)}",
            )


def _same(values: Any, tensor: Tensor) -> bool:
    from git_theta.compute import to_bytes

    if tuple(values.shape) != tensor.shape or tensor.dtype not in FLOATS:
        return False
    if tensor.shared or tensor.strides is not None:
        return True  # a view of bytes that others share has no digest of its own
    return digest_of(to_bytes(values, tensor.dtype)) == tensor.segment.digest
