"""Every update that is shipped obeys the laws of updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from git_theta.core.chain import Update
from git_theta.testing import UpdateContract, Version, version
from git_theta.updates.delta import DeltaUpdate
from git_theta.updates.dense import DenseUpdate
from git_theta.updates.ia3 import Ia3Update
from git_theta.updates.low_rank import LowRankUpdate
from git_theta.updates.sparse import SparseUpdate


class TestDense(UpdateContract):
    update: ClassVar[Update] = DenseUpdate()

    def chunks(self) -> Sequence[Version]:
        return [version("F32", "other"), version("", "other", cut_off=1), version("F16", "near")]


class TestDelta(UpdateContract):
    update: ClassVar[Update] = DeltaUpdate()

    def chunks(self) -> Sequence[Version]:
        dtypes = ("F64", "F32", "BF16", "F16", "F8_E4M3", "I64", "BOOL", "")
        return [version(dtype, "near", cut_off=3) for dtype in dtypes]


class TestSparse(UpdateContract):
    update: ClassVar[Update] = SparseUpdate()

    def chunks(self) -> Sequence[Version]:
        dtypes = ("F64", "F32", "BF16", "F8_E5M2", "I32", "BOOL", "")
        kinds = ("same", "few", "some")
        return [version(dtype, kind, cut_off=3) for dtype in dtypes for kind in kinds]


class TestLowRank(UpdateContract):
    update: ClassVar[Update] = LowRankUpdate()

    def chunks(self) -> Sequence[Version]:
        return [
            version("F32", "product"),
            version("F64", "product", start=37, cut_off=8 * 11),
            version("BF16", "product", start=90 * 5 + 1, seed=3),
            version("F16", "product", rows=200, cut_off=2),
        ]


class TestIa3(UpdateContract):
    update: ClassVar[Update] = Ia3Update()

    def chunks(self) -> Sequence[Version]:
        return [
            version("F32", "scaled"),
            version("F64", "scaled", start=90 * 5),
            version("BF16", "scaled", seed=3),
            version("F16", "scaled", rows=200, cut_off=2),
        ]
