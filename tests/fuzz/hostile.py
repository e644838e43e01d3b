"""Files made by hand to break readers: `python -m tests.fuzz.hostile` writes them to the corpus.

They never change once they are there; new ones are added.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import zstandard

from git_theta.core.chain import Base, Slice, digest_of, write_record
from git_theta.core.manifest import MAGIC
from git_theta.registry import load
from git_theta.testing.chunks import version
from tests.checkpoints import torch_zip, weights

CORPUS = Path(__file__).parents[1] / "data" / "corpus"


def safetensors() -> Iterator[tuple[str, bytes]]:
    def file(header: Any, rest: bytes = b"") -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + rest

    def tensor(dtype: str = "F32", shape: Any = (2,), begin: Any = 0, end: Any = 8) -> Any:
        return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}

    yield "plain", file({"a": tensor(), "b": tensor("BF16", (2, 2), 8, 16)}, bytes(16))
    yield "metadata", file({"__metadata__": {"a\x1b[2J": "<script>"}, "a": tensor()}, bytes(8))
    yield "no-end", struct.pack("<Q", 1 << 63) + b"{}"
    yield "deep", file(b'{"a":' * 20_000)
    yield "brackets", file(b"[" * (2 << 20))
    yield "doubled", file(b'{"a":1,"a":2}')
    yield "overlap", file({"a": tensor(), "b": tensor()}, bytes(8))
    yield "huge", file({"a": tensor("F32", (1 << 62, 4), 0, 0)})
    yield "zeros", file({"a": tensor("F32", [0] * 64, 0, 0)})
    yield "product", file({"a": tensor("U8", [1 << 32, 1 << 32, 0], 0, 0)})
    yield (
        "outside",
        file(
            {"../../../../etc/passwd": tensor(), "/etc/passwd": tensor(begin=8, end=16)}, bytes(16)
        ),
    )
    yield "half", file(b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8))
    yield "negative", file({"a": tensor(begin=-8, end=0)}, bytes(8))
    yield (
        "number",
        file(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}'),
    )
    factors = {"base_model.model.q.lora_A.weight": tensor("F32", (2, 1), 0, 8)}
    yield (
        "lora",
        file(
            factors | {"base_model.model.q.lora_B.weight": tensor("F32", (1, 2), 8, 16)}, bytes(16)
        ),
    )
    entries = {"a.indices": tensor("I32", (2,), 0, 8), "a.values": tensor("F32", (2,), 8, 16)}
    yield "entries", file(entries, bytes(16))
    yield "ia3", file({"base_model.model.q.ia3_l": tensor("F32", (1, 2), 0, 8)}, bytes(8))
    yield (
        "fisher",
        file(
            {
                "__metadata__": {
                    "format": "1",
                    "kind": "fisher",
                    "model_digest": "0" * 64,
                    "n_samples": "9" * 500,
                },
                "a": tensor(),
            },
            bytes(8),
        ),
    )


def archives() -> Iterator[tuple[str, bytes]]:
    def made(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            for name, body in members.items():
                archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), body, method)
        return out.getvalue()

    good = torch_zip({"a": weights(3, 4), "b.c": weights(5)})
    yield "plain", good
    program = zipfile.ZipFile(io.BytesIO(good)).read("archive/data.pkl")
    kept = {"archive/data/0": bytes(48), "archive/data/1": bytes(20)}
    yield "deflated", made({"archive/data.pkl": program, **kept}, zipfile.ZIP_DEFLATED)
    bomb = {"archive/data.pkl": b"(" + b"N" * (8 << 20), "archive/version": b"3"}
    yield "bomb", made(bomb, zipfile.ZIP_DEFLATED)
    yield "outside", made({"archive/data.pkl": program, "archive/data/../../../../x": b"x", **kept})
    inner = made({"archive/data.pkl": program})
    for _ in range(6):
        inner = made({"archive/data.pkl": program, "archive/more.zip": inner})
    yield "nested", inner
    yield "twice", made({"archive/data.pkl": program, **kept}).replace(b"data/1", b"data/0")
    count = good.rfind(b"PK\5\6")
    yield "many", good[: count + 8] + b"\xff\xff\xff\xff" + good[count + 12 :]
    yield "far", good[: count + 12] + b"\xff" * 8 + good[count + 20 :]
    crc = zlib.crc32(program)
    yield "crc", good.replace(struct.pack("<I", crc), struct.pack("<I", crc ^ 1))


def pickles() -> Iterator[tuple[str, bytes]]:
    yield "system", b"cos\nsystem\n(S'touch /tmp/git-theta-was-here'\ntR."
    yield "system4", b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."
    yield (
        "laughs",
        b"\x80\x02]q\0"
        + b"".join(b"(" + b"h%c" % n * 10 + b"lq%c" % (n + 1) for n in range(40))
        + b".",
    )
    yield "self", b"\x80\x02]q\0h\0a."
    yield "marks", b"(" * 20_000 + b"."
    yield "tuples", b"\x80\x02N" + b"\x85" * 20_000 + b"."
    yield "long", b"\x80\x02\x8b\xff\xff\xff\x7f" + bytes(99) + b"."
    yield "text", b"\x80\x04\x8d" + b"\xff" * 8 + b"."
    yield "digits", b"I" + b"9" * 100_000 + b"\n."
    yield "float", b"F" + b"1" * 100_000 + b"\n."
    yield "memo", b"\x80\x02Nr\xff\xff\xff\xffj\xff\xff\xff\xff."
    yield "empty-mark", b"0."
    yield "inst", b"(ios\nsystem\n."
    yield "persistent", b"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI99999999\ntQ."
    yield "modules", b"c" + b"a" * 2000 + b"\nb\n."
    yield "surrogate", b"V\\ud800\n."
    deep = b"\x80\x02}" + b"X\1\0\0\0a}" * 9_000 + b"s" * 9_000 + b"."
    yield "deep", deep
    yield "odd", b"\x80\x02}(Nu."
    yield "build", b"\x80\x02)Nb."
    yield "buffers", b"\x80\x05\x97."


def records() -> Iterator[tuple[str, bytes]]:
    """Each is a base of the right length (u32 and bytes), then a record."""
    cases = [
        ("dense", "F32", "same"),
        ("delta", "BF16", "near"),
        ("sparse", "F32", "few"),
        ("sparse", "F16", "some"),
        ("low-rank", "F32", "product"),
        ("ia3", "F32", "scaled"),
        ("moved-rows", "F32", "other"),
    ]
    for kind, dtype, how in cases:
        part, base = version(dtype, how)
        if kind == "moved-rows":
            order = np.random.default_rng(1).permutation(80)
            moved = base.reshape(80, -1)[order].ravel().copy()
            part = Slice(data=moved, cut=part.cut, dtype=dtype, columns=90, start=0)
        update = load("updates", kind)
        made = update.encode(part, base)
        if made is None:
            continue
        stands = Base(digest=digest_of(base)) if update.needs_base else None
        record = b"".join(map(bytes, write_record(part, digest_of(part.data), kind, made, stands)))
        yield f"{kind}-{how}", struct.pack("<I", len(base)) + base.tobytes() + record

    def raw(fields: dict[str, Any], *frames: bytes) -> bytes:
        header = {
            "d": bytes(32),
            "n": 8,
            "k": "dense",
            "w": 0,
            "e": 1 << 19,
            "f": [len(f) for f in frames],
        }
        packed: bytes = msgpack.packb(header | fields)
        return (
            struct.pack("<I", 8)
            + bytes(8)
            + struct.pack("<I", len(packed))
            + packed
            + b"".join(frames)
        )

    bomb = zstandard.ZstdCompressor(level=3).compress(bytes(64 << 20))
    yield "bomb", raw({"n": 64 << 20, "e": 64 << 20}, bomb)
    yield "lies", raw({}, b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 8 + b"\x01\x00\x00")
    yield "word", raw({"w": 3}, bytes(8))
    yield "block", raw({"e": 0}, bytes(8))
    yield "frames", raw({"n": 0, "f": [0] * 200_000})
    cast = {"k": "delta", "b": bytes(32), "w": 8, "a": {"c": ["F8_E4M3", "F64"], "s": 3}}
    yield "cast", raw(cast, bytes(8))
    rows = zstandard.ZstdCompressor().compress(b"\xff" * (4 << 20))
    yield (
        "rows",
        raw(
            {"k": "delta", "b": bytes(32), "w": 4, "a": {"r": [16, 0, 0, 1 << 20, rows]}}, bytes(8)
        ),
    )
    gaps = {"k": "sparse", "b": bytes(32), "w": 4, "x": {"m": "gaps", "n": 2}}
    yield "gaps", raw(gaps, *[b"\xff\xff"] * 8)
    low = {"t": "F32", "c": 1 << 20, "s": 0, "r": 1 << 20}
    yield "low", raw({"k": "low-rank", "b": bytes(32), "w": 4, "x": low}, bytes(8))


def manifests() -> Iterator[tuple[str, bytes]]:
    golden = Path(__file__).parents[1] / "data" / "v1"
    for path in golden.glob("*.manifest"):
        yield path.stem, path.read_bytes()
    text = (golden / "model.safetensors.manifest").read_bytes()
    lines = text.split(b"\n")
    at = lines.index(b'"objects": {') + 1
    outside = b'"' + b"../" * 20 + b'../x": 99,'
    yield "outside", b"\n".join([*lines[:at], outside, *lines[at:]])
    yield "deep", MAGIC + b" 1,\n" + b'"note": ' + b"[" * 100_000
    yield "newer", text.replace(MAGIC + b" 1,", MAGIC + b" 2,")
    yield "torn", b"<<<<<<< ours\n" + text + b"=======\n" + text + b">>>>>>> theirs\n"
    size = json.loads(text)["size"]
    yield "large", text.replace(b'"size": %d' % size, b'"size": 1152921504606846975')
    yield "record", text.replace(b"+", b"+99999", 1)


def texts() -> Iterator[tuple[str, bytes]]:
    recipe = {
        "git-theta-recipe": 1,
        "rules": [{"for": "*", "strategy": "ties", "parameters": {"density": 0.5}}],
        "versions": {"ties": 1},
        "scope": "all",
        "mismatch": "rows",
        "device": "auto",
        "base": None,
        "models": [{"label": "a", "identity": "0" * 64, "statistics": {}}],
        "made_with": {},
    }
    yield "recipe/plain", json.dumps(recipe).encode()
    yield "recipe/deep", b'{"git-theta-recipe":1,"rules":' + b"[" * 100_000
    yield "recipe/short", b'{"strategy": "average", "for": {"*": {"strategy": "ties"}}}'
    yield (
        "recipe/mergekit",
        (
            b"merge_method: ties\nbase_model: a\nmodels:\n"
            b"  - model: b\n    parameters: {weight: 1}\n"
            b"dtype: bfloat16\nparameters: {density: 0.5}\n"
        ),
    )
    laughs = b"a: &a [x, x, x, x, x, x, x, x, x]\n"
    for new, old in zip(b"bcdefghijk", b"abcdefghij", strict=True):
        laughs += b"%c: &%c [%s]\n" % (new, new, b", ".join([b"*%c" % old] * 9))
    yield "recipe/laughs", laughs + b"rules: *k\n"
    yield "recipe/python", b"strategy: !!python/object/apply:os.system ['true']\n"
    peft = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "rank_pattern": {"q": 2},
        "alpha_pattern": {},
    }
    yield "peft/lora", json.dumps(peft).encode()
    yield "peft/small", b'{"r": 2}'
    yield "peft/ia3", b'{"peft_type": "IA3", "feedforward_modules": ["fc"]}'
    yield "peft/regex", json.dumps(peft | {"rank_pattern": {"(a+)+$": 1}}).encode()
    yield "peft/regex2", json.dumps(peft | {"rank_pattern": {".*" * 2 + "a" * 500: 1}}).encode()
    yield "peft/deep", b"[" * 100_000
    yield "peft/huge", b'{"lora_alpha": 1' + b"0" * 400 + b"}"
    line = {
        "name": "a",
        "digest": "0" * 64,
        "size": 4,
        "objects": {"f" * 64: 20},
        "chunks": [["0" * 64, 4, "dense", ["f" * 64, 16, 4], None, None]],
    }
    yield "journal/plain", json.dumps(line).encode() + b"\n"
    yield "journal/deep", b"[" * 100_000 + b"\n{}\n"
    yield "journal/outside", json.dumps(line | {"objects": {"../" * 21 + "x": 1}}).encode() + b"\n"
    yield (
        "attributes/plain",
        b'*.pt filter=theta diff=theta merge=theta -text\n"a\\"b" text\n# x\n[attr]m\n',
    )
    yield (
        "attributes/odd",
        b'"unfinished filter=theta\r\n\xff\xfe filter=theta\n' + b'"\\777\\000" filter=theta\n',
    )
    yield "pktline/plain", b"0014command=smudge\n0010pathname=a\n00000005x0000"
    yield "pktline/content", b"0007abcfff0" + b"x" * 65516 + b"0005y0000"
    yield "pktline/signs", b"-001+005 00x0_10"
    yield "alternates/plain", b"/nowhere/objects\n# no\n../../other/objects\n"
    yield "alternates/odd", b"\xff\xfe\n\x00\n" + b"a" * 9000 + b"\n"
    yield "json/plain", b'{"a": [1, 2, 3, 4.5, 1e9, -0.0], "b": [[1, 2], [3, 4]], "c": "x"}\n'
    yield "json/deep", b"[" * 50_000 + b"1" + b"]" * 50_000
    yield "json/numbers", b'{"a": [1e999, -1e-999, 18446744073709551616, 0.1000000000000000055]}'
    yield "json/long", b'{"a": [' + b"9" * 5000 + b", 1, 2]}"


def packed() -> Iterator[tuple[str, bytes]]:
    yield "skeleton/plain", msgpack.packb([1, [4, 0, 2], ["a", bytes(32)], b"headxx"])
    yield "skeleton/joined", msgpack.packb([1, None, ["a"], b"x"])
    yield "skeleton/huge", msgpack.packb([1, [1 << 62, (1 << 62) - 6], ["a"], b"headxx"])
    yield "skeleton/deep", b"\x91" * 100_000
    yield "skeleton/lies", b"\xdd\xff\xff\xff\xff\x01"
    yield "skeleton/bin", b"\x94\x01\xc0\x90\xc6\xff\xff\xff\xff"
    fields = [1, "F32", 2048, 1.5, 0.1, -1.0, 1.0, 0, 0, np.arange(64, dtype="<f4").tobytes()]
    yield "summary/plain", msgpack.packb(fields)
    yield "summary/infinite", msgpack.packb([*fields[:2], float("inf"), *fields[3:]])
    yield "summary/nan", msgpack.packb([*fields[:7], float("nan"), *fields[8:]])
    yield "summary/list", msgpack.packb([*fields[:9], [1, 2]])
    kept = msgpack.packb({"path": "a", "at": [1, 2]})
    yield "summary/map", kept


def index() -> Iterator[tuple[str, bytes]]:
    entry = struct.pack(">10I", *[0] * 6, 0o100644, 0, 0, 4) + bytes(20) + b"\0\1a" + bytes(7)
    yield "plain", b"DIRC" + struct.pack(">II", 2, 1) + entry + bytes(20)
    yield "many", b"DIRC" + struct.pack(">II", 2, 0xFFFFFFFF) + entry + bytes(20)
    four = (
        struct.pack(">10I", *[0] * 6, 0o100644, 0, 0, 4)
        + bytes(20)
        + b"\0\1"
        + b"\xff" * 400
        + b"a\0"
    )
    yield "four", b"DIRC" + struct.pack(">II", 4, 1) + four + bytes(20)


def everything() -> Iterator[tuple[str, bytes]]:
    """All of them: path below the corpus, bytes."""
    groups = {
        "safetensors": safetensors,
        "zip": archives,
        "pickle": pickles,
        "record": records,
        "manifest": manifests,
        "index": index,
    }
    for group, make in groups.items():
        for name, data in make():
            yield f"{group}/{name}", data
    yield from texts()
    yield from packed()


def main() -> None:
    """Write those that are not there yet; compress what is mostly one letter."""
    for name, data in everything():
        path = CORPUS / f"{name}.z"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(zlib.compress(data, 9))


if __name__ == "__main__":
    main()
