"""`git theta add --from`: adapters merged into a model, and nothing but the adapter stored."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.adapters import lora, peft, read, safetensors
from tests.checkpoints import torch_zip
from tests.sandbox import Sandbox

pytestmark = pytest.mark.git

NAMES = ("encoder.layer.0.query", "encoder.layer.1.query")


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def weights(dtype: Any = np.float32, *, width: int = 384) -> dict[str, np.ndarray]:
    made = {f"{name}.weight": rng(i).normal(0, 0.05, (width, 384)) for i, name in enumerate(NAMES)}
    made["encoder.layer.0.query.bias"] = rng(5).normal(size=width)
    made["encoder.norm.weight"] = rng(6).normal(size=384)
    return {name: values.astype(dtype) for name, values in made.items()}


def factors(rank: int = 8, *, width: int = 384) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {
        name: (
            rng(10 + i).normal(0, 0.03, (rank, 384)).astype("<f4"),
            rng(20 + i).normal(0, 0.03, (width, rank)).astype("<f4"),
        )
        for i, name in enumerate(NAMES)
    }


@pytest.fixture
def model(repo: Sandbox) -> Path:
    """A committed model."""
    path = repo.work / "m.safetensors"
    path.write_bytes(safetensors(weights()))
    repo.commit()
    return path


def state(repo: Sandbox) -> tuple[str, str, bytes, set[str]]:
    """All that must be as it was after a refusal."""
    tree = {str(p.relative_to(repo.work)) for p in repo.work.iterdir()}
    data = (repo.work / "m.safetensors").read_bytes()
    return repo.git("ls-files", "-s"), repo.git("status", "--porcelain"), data, tree


def refused(repo: Sandbox, *words: str | Path, code: int = 7) -> str:
    """A command that must change nothing; what it says."""
    before = state(repo)
    done = repo.theta("add", "m.safetensors", *words, code=code)
    assert state(repo) == before
    assert list((repo.work / ".git" / "theta" / "tmp").iterdir()) == []
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("dtype", "eps", "share"),
    [(np.float32, 2**-23, 0.045), (ml_dtypes.bfloat16, 2**-7, 0.07), (np.float16, 2**-10, 0.07)],
)
def test_a_lora_is_merged_and_only_the_lora_is_stored(
    repo: Sandbox, dtype: Any, eps: float, share: float
):
    path = repo.work / "m.safetensors"
    old = weights(dtype)
    path.write_bytes(safetensors(old))
    path.chmod(0o640)
    repo.commit()
    pairs = factors()
    folder = lora(repo.root / "adapter", pairs, lora_alpha=16)
    (report,) = repo.json("add", "m.safetensors", "--update", "low-rank", "--from", folder)
    new = read(path.read_bytes())
    size = 0
    for name, (down, up) in pairs.items():
        before = old[f"{name}.weight"].astype(np.float64)
        change = 2 * (up.astype(np.float64) @ down.astype(np.float64))
        exact = before + change
        after = new[f"{name}.weight"].astype(np.float64)
        step = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64) * eps / 2**-23
        room = eps / 8 * np.abs(change).max()
        assert (np.abs(after - exact) <= 0.51 * step + max(room, 1e-8)).all()
        size += before.size * np.dtype(dtype).itemsize
    assert report["kinds"].keys() == {"low-rank"}
    assert report["stored"] <= share * size
    assert [t["name"] for t in report["tensors"]] == sorted(f"{n}.weight" for n in pairs)
    assert path.stat().st_mode & 0o777 == 0o640
    assert np.array_equal(new["encoder.norm.weight"], old["encoder.norm.weight"])


def test_the_result_is_clean_and_comes_back(repo: Sandbox, model: Path):
    folder = lora(repo.root / "adapter", factors())
    trace = repo.root / "trace"
    repo.theta("add", "m.safetensors", "--from", folder)
    assert repo.git("status", "--porcelain", env={"GIT_TRACE": str(trace)}) == "M  m.safetensors\n"
    assert "filter-process" not in trace.read_text()
    staged = repo.git("ls-files", "-s")
    new = model.read_bytes()
    model.write_bytes(new)
    repo.git("add", "m.safetensors")
    assert repo.git("ls-files", "-s") == staged
    repo.git("commit", "-q", "-m", "merged")
    repo.git("checkout", "-q", "HEAD~1")
    assert model.read_bytes() == safetensors(weights())
    repo.git("checkout", "-q", "main")
    assert model.read_bytes() == new
    repo.theta("fsck")


def test_adapters_one_above_the_other(repo: Sandbox, model: Path):
    for seed in range(3):
        pairs = {NAMES[0]: (rng(seed).normal(size=(2, 384)), rng(seed + 9).normal(size=(384, 2)))}
        pairs = {n: (a.astype("<f2"), b.astype("<f2")) for n, (a, b) in pairs.items()}
        (report,) = repo.json("add", "m.safetensors", "--from", lora(repo.root / str(seed), pairs))
        assert report["stored"] < 8000
    new = model.read_bytes()
    model.unlink()
    repo.git("checkout", "--", "m.safetensors")
    assert model.read_bytes() == new


def test_ranks_and_scales_by_pattern(repo: Sandbox, model: Path):
    pairs = factors()
    pairs[NAMES[1]] = (pairs[NAMES[1]][0][:4], pairs[NAMES[1]][1][:, :4])
    folder = lora(
        repo.root / "adapter", pairs, r=8, lora_alpha=8, use_rslora=True,
        rank_pattern={r"layer\.1\.query": 4}, alpha_pattern={NAMES[1]: 6, "nothing": 3},
    )  # fmt: skip
    repo.theta("add", "m.safetensors", "--from", folder)
    new = read(model.read_bytes())
    for name, scale in ((NAMES[0], 8 / 8**0.5), (NAMES[1], 6 / 2)):
        down, up = pairs[name]
        want = weights()[f"{name}.weight"] + scale * (up.astype(float) @ down)
        assert np.allclose(new[f"{name}.weight"], want, atol=1e-6)


def test_weights_stored_inputs_first_and_embeddings(repo: Sandbox):
    path = repo.work / "m.safetensors"
    old = {"wte.weight": rng().normal(size=(100, 32)), "c.weight": rng(2).normal(size=(32, 48))}
    path.write_bytes(safetensors({name: v.astype("<f4") for name, v in old.items()}))
    repo.commit()
    prefix = "base_model.model."
    tensors = {
        "wte.lora_embedding_A": rng(3).normal(size=(4, 100)),
        "wte.lora_embedding_B": rng(4).normal(size=(32, 4)),
        "c.lora_A.default.weight": rng(5).normal(size=(4, 32)),
        "c.lora_B.default.weight": rng(6).normal(size=(48, 4)),
    }
    named = {prefix + name: values.astype("<f4") for name, values in tensors.items()}
    folder = peft(
        repo.root / "a", {n: v for n, v in named.items() if "wte" in n}, r=4, lora_alpha=4
    )
    repo.theta("add", "m.safetensors", "--from", folder)
    given = {n: v for n, v in named.items() if "c." in n}
    folder = peft(repo.root / "b", given, r=4, lora_alpha=4, fan_in_fan_out=True)
    repo.theta("add", "m.safetensors", "--from", folder)
    new = read(path.read_bytes())
    for name, keys in (
        ("wte.weight", ("wte.lora_embedding_A", "wte.lora_embedding_B")),
        ("c.weight", ("c.lora_A.default.weight", "c.lora_B.default.weight")),
    ):
        down, up = (tensors[key] for key in keys)
        assert np.allclose(new[name], old[name] + (up @ down).T, atol=1e-5)


def test_convolutions(repo: Sandbox):
    path = repo.work / "m.safetensors"
    old = rng().normal(size=(16, 8, 3, 3)).astype("<f4")
    path.write_bytes(safetensors({"conv.weight": old}))
    repo.commit()
    down, up = rng(1).normal(size=(2, 8, 3, 3)), rng(2).normal(size=(16, 2, 1, 1))
    pair = (down.astype("<f4"), up.astype("<f4"))
    repo.theta(
        "add", "m.safetensors", "--from", lora(repo.root / "a", {"conv": pair}, lora_alpha=2)
    )
    want = old + np.einsum("or,rikl->oikl", up[:, :, 0, 0], down)
    assert np.allclose(read(path.read_bytes())["conv.weight"], want, atol=1e-5)


def test_ia3_scales_outputs_with_their_bias_and_inputs_without(repo: Sandbox, model: Path):
    old = weights()
    out, into = rng(1).normal(1, 0.1, (384, 1)), rng(2).normal(1, 0.1, (1, 384))
    tensors = {
        f"base_model.model.{NAMES[0]}.ia3_l": out.astype("<f4"),
        f"base_model.model.{NAMES[1]}.ia3_l": into.astype("<f4"),
    }
    folder = peft(repo.root / "a", tensors, peft_type="IA3", feedforward_modules=["1.query"])
    (report,) = repo.json("add", "m.safetensors", "--update", "ia3", "--from", folder)
    new = read(model.read_bytes())
    one, two = out.astype("<f4"), into.astype("<f4")
    assert np.array_equal(new[f"{NAMES[0]}.weight"], old[f"{NAMES[0]}.weight"] * one)
    assert np.array_equal(new[f"{NAMES[1]}.weight"], old[f"{NAMES[1]}.weight"] * two)
    assert np.array_equal(new[f"{NAMES[0]}.bias"], old[f"{NAMES[0]}.bias"] * one[:, 0])
    assert report["stored"] <= 0.006 * 2 * 384 * 384 * 4
    wrong = peft(repo.root / "b", tensors, peft_type="IA3", feedforward_modules=["0.query"])
    assert "is no scale" in refused(repo, "--from", wrong)


@pytest.mark.parametrize(("names", "joint"), [(("A", "B"), "."), (("C", "R"), "/")])
def test_bare_factors(repo: Sandbox, model: Path, names: tuple[str, str], joint: str):
    down, up = factors()[NAMES[0]]
    bare = repo.root / "bare.safetensors"
    tensors = {f"{NAMES[0]}.weight{joint}{n}": v for n, v in zip(names, (down, up), strict=True)}
    bare.write_bytes(safetensors(tensors))
    repo.theta("add", "m.safetensors", "--from", bare)
    want = weights()[f"{NAMES[0]}.weight"] + up.astype(float) @ down
    assert np.allclose(read(model.read_bytes())[f"{NAMES[0]}.weight"], want, atol=1e-6)


def test_bare_factors_of_a_module_with_an_alpha(repo: Sandbox, model: Path):
    down, up = factors()[NAMES[0]]
    bare = repo.root / "bare.safetensors"
    alpha = np.array(4, "<f4")
    given = {f"{NAMES[0]}.A": down, f"{NAMES[0]}.B": up, f"{NAMES[0]}.alpha": alpha}
    bare.write_bytes(safetensors(given))
    repo.theta("add", "m.safetensors", "--from", bare)
    want = weights()[f"{NAMES[0]}.weight"] + 0.5 * (up.astype(float) @ down)
    assert np.allclose(read(model.read_bytes())[f"{NAMES[0]}.weight"], want, atol=1e-6)


@pytest.mark.parametrize("flat", [True, False])
def test_sparse_entries(repo: Sandbox, model: Path, flat: bool):
    name = f"{NAMES[1]}.weight"
    places = np.array([[0, 1], [383, 383], [7, 0]])
    values = np.array([0.5, -1, 2], "<f4")
    indices = places[:, 0] * 384 + places[:, 1] if flat else places
    file = repo.root / "sparse.safetensors"
    tensors = {f"{name}.indices": indices.astype("<i8"), f"{name}.values": values}
    file.write_bytes(safetensors(tensors))
    (report,) = repo.json("add", "m.safetensors", "--update", "sparse", "--from", file)
    want = weights()[name]
    want[places[:, 0], places[:, 1]] += values
    assert np.array_equal(read(model.read_bytes())[name], want)
    assert report["kinds"].keys() == {"sparse"}
    assert report["stored"] < 300


def test_adapters_that_torch_wrote(repo: Sandbox, model: Path):
    folder = lora(repo.root / "a", factors())
    tensors = read((folder / "adapter_model.safetensors").read_bytes())
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(torch_zip(tensors))
    repo.theta("add", "m.safetensors", "--from", folder)
    down, up = factors()[NAMES[0]]
    want = weights()[f"{NAMES[0]}.weight"] + 2 * (up.astype(float) @ down)
    assert np.allclose(read(model.read_bytes())[f"{NAMES[0]}.weight"], want, atol=1e-6)


def test_models_that_torch_wrote(repo: Sandbox):
    repo.theta("track", "*.pt", "-q")
    path = repo.work / "m.pt"
    path.write_bytes(torch_zip(weights()))
    repo.commit()
    (report,) = repo.json("add", "m.pt", "--from", lora(repo.root / "a", factors()))
    assert report["stored"] <= 0.045 * path.stat().st_size + 4000
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    new = path.read_bytes()
    assert repo.git("status", "--porcelain") == "M  m.pt\n"
    path.unlink()
    repo.git("checkout", "--", "m.pt")
    assert path.read_bytes() == new


@pytest.mark.parametrize("way", ["bert.", "model."])
def test_names_with_another_front(repo: Sandbox, way: str):
    path = repo.work / "m.safetensors"
    path.write_bytes(safetensors({way + name: v for name, v in weights().items()}))
    repo.commit()
    repo.theta("add", "m.safetensors", "--from", lora(repo.root / "a", factors()))
    long = {f"outer.{way}{n}": pair for n, pair in factors().items()}
    repo.theta("add", "m.safetensors", "--from", lora(repo.root / "b", long))


# --- refusals ------------------------------------------------------------------------------------


def test_names_that_fit_nothing_or_twice(repo: Sandbox, model: Path):
    pairs = factors() | {"decoder.nothing": factors()[NAMES[0]]}
    told = refused(repo, "--from", lora(repo.root / "a", pairs))
    assert "1 of 3 modules are not in the model" in told
    assert "decoder.nothing" in told
    model.write_bytes(safetensors({f"{x}.q.weight": weights()[f"{NAMES[0]}.weight"] for x in "ab"}))
    repo.commit()
    told = refused(repo, "--from", lora(repo.root / "b", {"q": factors()[NAMES[0]]}))
    assert "more than one way" in told
    assert "a.q.weight" in told


def test_ranks_and_shapes_that_do_not_fit(repo: Sandbox, model: Path):
    told = refused(repo, "--from", lora(repo.root / "a", factors(), r=4))
    assert "rank 8, but the configuration says 4" in told
    assert told.count("rank 8") == 2
    told = refused(repo, "--from", lora(repo.root / "b", factors(width=100)))
    assert "is [384, 384], the product [100, 384]" in told
    down, up = factors()[NAMES[0]]
    told = refused(repo, "--from", lora(repo.root / "c", {NAMES[0]: (down, up[:, :3])}, r=8))
    assert "factors of [8, 384] and [384, 3]" in told
    broken = down.copy()
    broken[0, 0] = np.nan
    told = refused(repo, "--from", lora(repo.root / "d", {NAMES[0]: (broken, up)}))
    assert "not finite" in told
    told = refused(repo, "--from", lora(repo.root / "e", {"encoder.norm": (down, up)}))
    assert "encoder.norm.weight is [384]" in told


def test_variants_that_mean_something_else(repo: Sandbox, model: Path):
    told = refused(repo, "--from", lora(repo.root / "a", factors(), use_dora=True, bias="all"))
    assert "use_dora is True" in told
    assert "bias is 'all'" in told


def test_tensors_that_are_not_understood(repo: Sandbox, model: Path):
    folder = lora(repo.root / "a", factors())
    tensors = read((folder / "adapter_model.safetensors").read_bytes())
    tensors["base_model.model.x.lora_magnitude_vector"] = np.ones(3, "<f4")
    tensors["base_model.model.classifier.weight"] = np.ones((3, 3), "<f4")
    (folder / "adapter_model.safetensors").write_bytes(safetensors(tensors))
    told = refused(repo, "--from", folder)
    assert "lora_magnitude_vector" in told
    assert "classifier.weight" in told
    bare = repo.root / "bare.safetensors"
    one = {f"{NAMES[0]}.weight.A": factors()[NAMES[0]][0]}
    bare.write_bytes(safetensors(one))
    assert "only" in refused(repo, "--from", bare)
    bare.write_bytes(safetensors(tensors))
    assert "adapter_config.json" in refused(repo, "--from", bare)
    name = f"{NAMES[0]}.weight"
    for indices, told in (([5, 5], "twice"), ([-1, 2], "outside"), ([384 * 384, 2], "outside")):
        given = {f"{name}.indices": np.array(indices, "<i8"), f"{name}.values": np.ones(2, "<f4")}
        bare.write_bytes(safetensors(given))
        assert told in refused(repo, "--from", bare)


def test_a_kind_that_the_file_is_not(repo: Sandbox, model: Path):
    folder = lora(repo.root / "a", factors())
    assert "low-rank" in refused(repo, "--update", "ia3", "--from", folder, code=2)


def test_no_base(repo: Sandbox):
    path = repo.work / "m.safetensors"
    path.write_bytes(safetensors(weights()))
    folder = lora(repo.root / "a", factors())
    done = repo.theta("add", "m.safetensors", "--from", folder, code=3)
    assert "git add" in done.stderr
    repo.commit()
    for object_ in repo.objects():
        object_.unlink()
    assert "git theta add --force" in refused(repo, "--from", folder, code=4)
    repo.theta("add", "--force", "m.safetensors")
    repo.theta("add", "m.safetensors", "--from", folder)


def test_a_modified_file_is_left_alone_unless_forced(repo: Sandbox, model: Path):
    changed = weights()
    changed["encoder.norm.weight"] += 1
    model.write_bytes(safetensors(changed))
    folder = lora(repo.root / "a", factors())
    assert "is modified" in refused(repo, "--from", folder)
    refused(repo, "--force", "--from", lora(repo.root / "b", factors(), r=4))
    repo.theta("add", "m.safetensors", "--force", "--from", folder)
    kinds = {t["name"]: t["kinds"] for t in repo.json("show", "m.safetensors")["tensors"]}
    assert kinds[f"{NAMES[0]}.weight"] == ["low-rank"]
    assert np.array_equal(
        read(model.read_bytes())["encoder.norm.weight"], changed["encoder.norm.weight"]
    )


def test_a_file_that_is_still_a_manifest(repo: Sandbox, model: Path):
    model.write_bytes(repo.git("cat-file", "-p", ":m.safetensors").encode())
    folder = lora(repo.root / "a", factors())
    assert "git theta pull" in refused(repo, "--from", folder)


def test_damaged_and_missing_files(repo: Sandbox, model: Path):
    folder = lora(repo.root / "a", factors())
    config = (folder / "adapter_config.json").read_text()
    (folder / "adapter_config.json").write_text("{")
    assert "is not JSON" in refused(repo, "--from", folder, code=5)
    (folder / "adapter_config.json").write_text(config)
    data = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(data[:-100])
    refused(repo, "--from", folder, code=5)
    (folder / "adapter_model.safetensors").unlink()
    refused(repo, "--from", folder, code=3)
    refused(repo, "--from", repo.root / "nothing", code=3)
    (repo.root / "text").write_text("no tensors")
    refused(repo, "--from", repo.root / "text", code=5)


def test_tensors_that_share_bytes(repo: Sandbox):
    repo.theta("track", "*.pt", "-q")
    data = Path(__file__).parents[1] / "data" / "torch" / "views.pt"
    path = repo.work / "m.pt"
    path.write_bytes(data.read_bytes())
    repo.commit()
    names = [t["name"] for t in repo.json("show", "m.pt")["tensors"] if t["shared"]]
    bare = repo.root / "bare.safetensors"
    tensors = {f"{names[0]}.A": np.ones((1, 2), "<f4"), f"{names[0]}.B": np.ones((2, 1), "<f4")}
    bare.write_bytes(safetensors(tensors))
    done = repo.theta("add", "m.pt", "--from", bare, code=7)
    assert "shares its bytes" in done.stderr
    assert path.read_bytes() == data.read_bytes()
