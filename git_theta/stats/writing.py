"""A side-car written tensor by tensor, so that it never has to fit into memory."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from git_theta import __version__
from git_theta.core.sidecar import Facts

_ALIGNMENT = 8


def code_version() -> str:
    """What computed the numbers, for the metadata."""
    return f"git-theta {__version__}, torch {torch.__version__}"


class SidecarWriter:
    """Collects tensors in a temporary file; `finish` puts the header before them.

    The target appears only when all of it is written.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._entries: dict[str, Any] = {}
        self._offset = 0
        self._data = tempfile.TemporaryFile(dir=target.parent)  # noqa: SIM115 - closed by close

    def add(self, name: str, values: Tensor) -> None:
        """Append one tensor, in float32."""
        data = np.ascontiguousarray(values.detach().cpu().numpy(), dtype="<f4")
        self._data.write(data.data.cast("B") if data.size else b"")
        self._entries[name] = {
            "dtype": "F32",
            "shape": list(values.shape),
            "data_offsets": [self._offset, self._offset + data.nbytes],
        }
        self._offset += data.nbytes

    def finish(self, facts: Facts) -> int:
        """Write the file and return its size."""
        header = {"__metadata__": facts.metadata()} | self._entries
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        part: Path | None = None
        try:
            with tempfile.NamedTemporaryFile(
                dir=self._target.parent, prefix=f".{self._target.name[:100]}.", delete=False
            ) as file:
                part = Path(file.name)
                file.write(len(text).to_bytes(8, "little") + text)
                self._data.seek(0)
                shutil.copyfileobj(self._data, file, 1 << 20)
                size = file.tell()
            part.chmod(0o644)
            part.replace(self._target)
        except BaseException:
            if part is not None:
                part.unlink(missing_ok=True)
            raise
        return size

    def close(self) -> None:
        """Drop what was collected."""
        self._data.close()
