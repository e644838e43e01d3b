"""Merged files that are written while they are computed, and proven before they are used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from git_theta.commands import reading
from git_theta.commands.merging import Outcome, Side, merge_manifests
from git_theta.commands.patch import write_by_patching
from git_theta.commands.session import Session
from git_theta.commands.sides import Wanted
from git_theta.core import chain
from git_theta.core.manifest import Chunk
from git_theta.core.recipe import Instructions, Rule
from git_theta.repo import keeping
from git_theta.repo.gitrepo import Repo
from git_theta.settings import KEPT
from tests.merging import Bench

AVERAGE = Instructions(rules=(Rule(strategy="average"),))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "repo")
    made.session.repo.git("config", "theta.directFrom", "1")
    made.session.close()
    made.session = Session(Repo.find(made.root))
    yield made
    made.close()


def drafted(bench: Bench, base: Side | None, ours: Side, theirs: Side) -> tuple[Outcome, Path]:
    place = bench.root.parent / "draft"
    outcome = merge_manifests(bench.session, base, [ours, theirs], AVERAGE, Wanted(draft=place))
    return outcome, place


def test_it_is_the_merged_file(bench: Bench):
    random = torch.Generator().manual_seed(0)
    one = {name: torch.randn(30, 40, generator=random) for name in "abc"}
    two = {name: tensor + 1 for name, tensor in one.items()} | {"c": one["c"]}
    three = {name: tensor * 2 for name, tensor in one.items()} | {"c": one["c"]}
    base, ours = bench.model(one, "base"), bench.model(two)
    outcome, place = drafted(bench, base, ours, bench.model(three, "theirs"))
    assert outcome.draft == place
    assert place.read_bytes() == bench.file(outcome.manifest)
    place.unlink()

    # a tensor more on their side: nothing lies where it lay on ours
    three = {"0": torch.ones(5)} | three
    outcome, place = drafted(bench, base, ours, bench.model(three, "theirs"))
    assert outcome.draft == place
    assert place.read_bytes() == bench.file(outcome.manifest)
    place.unlink()

    # little is computed: the old file is a better start
    three = {**one, "a": one["a"] * 2}
    outcome, place = drafted(bench, base, ours, bench.model(three, "theirs"))
    assert outcome.manifest is not None
    assert outcome.draft is None
    assert not place.exists()


def test_our_side_is_read_from_the_old_file_where_that_has_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    random = torch.Generator().manual_seed(0)
    versions = [{name: torch.randn(30, 40, generator=random) for name in "abc"} for _ in range(3)]
    base, ours, theirs = map(bench.model, versions, ("base", "ours", "theirs"))
    right = bench.file(ours.manifest)
    wrong = bytearray(right)
    wrong[len(wrong) // 2] ^= 1
    decoded: list[str] = []
    real = chain.decode_chunk

    def watched(chunk: Chunk, *rest: Any) -> Any:
        decoded.append(chunk.digest)
        return real(chunk, *rest)

    monkeypatch.setattr(reading, "decode_chunk", watched)
    old, place = bench.root.parent / "old", bench.root.parent / "draft"
    own = {tensor.segment.digest for tensor in ours.manifest.tensors.values()}
    texts = set()
    for held, all_there in ((right, True), (bytes(wrong), False), (right[:100], False)):
        decoded.clear()
        old.write_bytes(held)
        wanted = Wanted(draft=place, replaced=old)
        outcome = merge_manifests(bench.session, base, [ours, theirs], AVERAGE, wanted)
        assert own.isdisjoint(decoded) == all_there
        assert place.read_bytes() == bench.file(outcome.manifest)
        assert old.read_bytes() == held
        texts.add(outcome.text)
        place.unlink()
    assert len(texts) == 1


def test_it_is_used_only_if_every_part_is_right(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    one = {"a": torch.arange(4000, dtype=torch.float32)}
    sides = [bench.model({"a": one["a"] + n}, f"{n}") for n in (0, 1, 3)]
    outcome, place = drafted(bench, sides[0], sides[1], sides[2])
    assert outcome.text is not None
    whole, target = place.read_bytes(), bench.root / "out.safetensors"
    kept = bench.root.parent / "kept"
    kept.mkdir()
    monkeypatch.setenv(KEPT, str(kept))
    session = Session(Repo.find(bench.root))
    for at in (9, 5000, None):
        data = bytearray(whole)
        if at is not None:
            data[at] ^= 1
        keeping.place_for(kept, target.name).write_bytes(data)
        keeping.describe(kept, target.name, outcome.text)
        done = write_by_patching(session, target.name, outcome.text, target, lambda _: None)
        assert done == (at is None)
        assert target.exists() == (at is None)
    assert target.read_bytes() == whole

    # an old version is changed into a merged one, which has no digest as a whole
    keeping.place_for(kept, target.name).write_bytes(bench.file(sides[1].manifest))
    keeping.describe(kept, target.name, sides[1].text)
    target.unlink()
    assert write_by_patching(session, target.name, outcome.text, target, lambda _: None)
    assert target.read_bytes() == whole
    session.close()
