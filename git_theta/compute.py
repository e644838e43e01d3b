"""Where tensors are merged: stored bytes to numbers on a device and back, rounded once.

The numbers are float32, or float64 where a strategy or the stored dtype asks for it. The bytes
that come back are rounded to the nearest, ties to even, on the CPU, whatever computed them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from git_theta.core import words
from git_theta.errors import MergeError, UsageError

Bytes = npt.NDArray[np.uint8]
T = TypeVar("T")

# Below this many elements a device costs more in the asking than it saves.
WORTH_A_DEVICE = 1 << 20

_TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}


def to_numbers(data: Bytes, dtype: str, *, double: bool = False) -> torch.Tensor:
    """Stored bytes as a flat tensor in the compute dtype, on the CPU; never a view of them."""
    stored = torch.from_numpy(data).view(_TORCH[dtype])
    wide = torch.float64 if double or dtype == "F64" else torch.float32
    return stored.to(wide, copy=True)


def as_stored(data: Bytes, dtype: str) -> torch.Tensor:
    """Stored bytes as a flat tensor of the stored dtype, on the CPU."""
    return torch.from_numpy(data).view(_TORCH[dtype])


def from_array(array: npt.NDArray[Any]) -> torch.Tensor:
    """An array as a tensor of the same dtype and shape, on the CPU.

    Raises:
        UsageError: torch has no such dtype.
    """
    name = array.dtype.name
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise UsageError(f"this torch has no {name}", hint='ask for framework="np"')
    flat = np.ascontiguousarray(array).reshape(-1)
    data = torch.from_numpy(flat.view(np.uint8))
    return data.view(dtype).reshape(array.shape)


def put_numbers(data: Bytes, dtype: str, out: torch.Tensor) -> torch.Tensor:
    """Stored bytes as numbers in a tensor that is there."""
    return out.copy_(torch.from_numpy(data).view(_TORCH[dtype]))


def to_bytes(numbers: torch.Tensor, dtype: str) -> Bytes:
    """Numbers as bytes of a stored dtype, each rounded once to the nearest, ties to even.

    Raises:
        MergeError: a number is not finite, or too large for the dtype.
    """
    out = np.empty(numbers.numel() * _TORCH[dtype].itemsize, np.uint8)
    put_bytes(numbers, dtype, out)
    return out


def put_bytes(numbers: torch.Tensor, dtype: str, out: Bytes) -> None:
    """As `to_bytes`, into bytes that are there.

    Raises:
        MergeError: a number is not finite, or too large for the dtype.
    """
    flat = numbers.detach().to("cpu").contiguous().reshape(-1)
    if flat.dtype == torch.float64 and dtype not in ("F64", "F32"):
        flat = _round_to_odd(flat)
    stored = torch.from_numpy(out).view(_TORCH[dtype])
    stored.copy_(flat)
    if not has_only_finite(out, dtype):
        exact = bool(torch.isfinite(flat).all())
        raise MergeError(
            f"the result {f'overflows {dtype}' if exact else 'is not finite'}",
            hint="merge this tensor otherwise: --for NAME ...",
        )


def _round_to_odd(wide: torch.Tensor) -> torch.Tensor:
    """float64 to float32 so that rounding once more gives what rounding once would have given.

    The nearest float32 would round twice. Cut towards zero with the last bit set where anything
    was lost, it carries enough to round the narrower dtype right.
    """
    near = wide.to(torch.float32)
    back = near.to(torch.float64)
    bits = near.view(torch.int32)
    cut = bits - (back.abs() > wide.abs()).to(torch.int32)
    return torch.where(back == wide, bits, cut | 1).view(torch.float32)


def has_only_finite(data: Bytes, dtype: str) -> bool:
    """Whether there is no NaN and no infinity among stored numbers."""
    if dtype in words.FLOATS:
        return words.has_only_finite(data, dtype)
    return bool(torch.isfinite(as_stored(data, dtype).to(torch.float32)).all())


def check_device(name: str) -> str:
    """A device that was asked for by name, or an error.

    Raises:
        UsageError: there is no such device here.
    """
    kind = name.partition(":")[0]
    here = {
        "auto": True,
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if kind not in here:
        raise UsageError(f"there is no device {name!r}", hint="auto, cpu, cuda, cuda:1, or mps")
    if not here[kind]:
        raise UsageError(f"the device {name!r} is not here", hint="set theta.device to auto or cpu")
    return name


def choose_device(name: str, *, elementwise: bool, double: bool, count: int) -> str:
    """The device for one tensor of `count` elements.

    `auto` leaves elementwise work on the CPU, where the bytes are: it is bound by memory, and to
    move the tensors costs more than to merge them.
    """
    if name != "auto":
        return "cpu" if double and name.startswith("mps") else name
    if elementwise or count < WORTH_A_DEVICE:
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() and not double else "cpu"


def on_device(device: str, work: Callable[[str], T], complain: Callable[[str], None]) -> T:
    """Do something on a device, or on the CPU where the device's memory does not suffice."""
    if device == "cpu":
        return work("cpu")
    try:
        return work(device)
    except torch.OutOfMemoryError:
        complain(f"not enough memory on {device}: merged on the CPU")
    except RuntimeError as error:
        if "out of memory" not in str(error).lower():
            raise
        complain(f"not enough memory on {device}: merged on the CPU")
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    return work("cpu")


def use_threads(count: int) -> None:
    """Limit torch's own threads; elementwise work is spread over ours."""
    torch.set_num_threads(count)
