"""Every format that is shipped obeys the laws of formats."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

from git_theta.core.layout import Format
from git_theta.formats.safetensors import SafetensorsFormat
from git_theta.formats.torch_legacy import TorchLegacyFormat
from git_theta.formats.torch_zip import TorchZipFormat
from git_theta.testing import FormatContract
from tests.models import published
from tests.unit.formats.headers import raw_file, tensors_file

DATA = Path(__file__).parents[1] / "data" / "torch"


@cache
def _golden(pattern: str) -> tuple[bytes, ...]:
    return tuple(path.read_bytes() for path in sorted(DATA.glob(pattern)))


@cache
def repacked(data: bytes) -> bytes:
    """A torch file as the standard library zips it: no alignment, some members deflated."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            stored = "/data/" in info.filename and not info.filename.endswith("1")
            method = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            new.writestr(info.filename, old.read(info), method)
    return out.getvalue()


class TestSafetensors(FormatContract):
    format: ClassVar[Format] = SafetensorsFormat()

    def files(self) -> Sequence[bytes]:
        return [
            raw_file(b"{}"),
            raw_file(b'{"__metadata__":{"a":"b"}}   ', b"trailing"),
            tensors_file({"a": ("F32", [2, 3]), "b": ("BF16", [5]), "c": ("F4", [3, 2])}),
            tensors_file({"a": ("F32", [2]), "z": ("I64", [0]), "s": ("U8", [])}, gap=24),
        ]


class TestTorchZip(FormatContract):
    format: ClassVar[Format] = TorchZipFormat()

    def files(self) -> Sequence[bytes]:
        new = [data for data in _golden("*.pt") if data.startswith(b"PK")]
        return [*new, *map(repacked, new)]


class TestTorchLegacy(FormatContract):
    format: ClassVar[Format] = TorchLegacyFormat()

    def files(self) -> Sequence[bytes]:
        alex = published("lpips", "0.1.4", "lpips/weights/v0.1/alex.pth").read_bytes()
        return [*_golden("*-legacy.pt"), alex]
