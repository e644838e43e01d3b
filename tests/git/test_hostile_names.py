"""Names that somebody chose to harm: of files, tensors, branches, authors; messages, metadata.

One repository is full of them, and every command is run over it. What a terminal shows has no
control characters and no line that a name has forged; JSON is whole; nothing that a name spells is
run, as a shell's command or as an option.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.sandbox import Done, Sandbox, encode

pytestmark = pytest.mark.git

FORGED = "all is well, says git theta"
EVIL = (
    "-o;touch ${IFS}owned;$(touch owned)`touch owned`|touch owned&'\"\\ %s%n"
    f"\x1b]0;owned\x07\x1b[2J\r\x9b31m\n{FORGED}\u202etxt\u200b\u2066"
    "</script><script>owned()</script><img src=x onerror=owned()>"
)
FILE = EVIL.replace("/", "").replace("\0", "") + ".safetensors"
OPTION = "--help.safetensors"
PICKLE = EVIL.replace("/", "")[:60] + ".pt"
BRANCH = "x;touch${IFS}owned;$(touch${IFS}owned)`id`|&'\"%s<script>\u202e\u200b"
WORSE = [f"layer.{number}.{EVIL}" for number in range(3)]


def write(path: Path, seed: int, *, changed: int = 3) -> None:
    rng = np.random.default_rng(3)
    tensors = {name: rng.normal(size=(8, 12)) for name in [*WORSE, "plain.weight", ""]}
    for name in list(tensors)[:changed]:
        tensors[name] = np.random.default_rng(seed).normal(size=(8, 12))
    data = encode(tensors)
    size = int.from_bytes(data[:8], "little")
    header = {"__metadata__": {EVIL: f"{EVIL}{seed}"}, **json.loads(data[8 : 8 + size])}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


def adapter(path: Path, name: str) -> None:
    path.write_bytes(encode({f"{name}.A": np.ones((2, 12)), f"{name}.B": np.ones((8, 2))}))


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """Two branches that changed the same tensors, and a remote."""
    sandbox = Sandbox(tmp_path_factory.mktemp("evil"))
    sandbox.env["GIT_AUTHOR_NAME"] = EVIL.replace("\n", " ")
    sandbox.init()
    sandbox.git("init", "-q", "--bare", sandbox.root / "remote.git", cwd=sandbox.root)
    sandbox.git("remote", "add", "origin", sandbox.root / "remote.git")
    work = sandbox.work
    sandbox.theta("track", "*.pt", "-q")
    (work / PICKLE).write_bytes(pickle.dumps(1).replace(b".", b"") + b"0c%s\n%s\n." % (
        EVIL.replace("\n", "")[:90].encode(), b"\x1b[2Jsystem"))  # fmt: skip
    for seed, branch in ((1, ""), (2, BRANCH), (3, "main")):
        if seed == 2:
            sandbox.git("checkout", "-q", "-b", BRANCH)
        elif branch:
            sandbox.git("checkout", "-q", branch)
        write(work / FILE, seed)
        write(work / OPTION, seed)
        sandbox.commit(f"{EVIL}\n\nbody {EVIL}")
    sandbox.git("tag", f"t{BRANCH}")
    return sandbox


def assert_harmless(repo: Sandbox, done: Done) -> None:
    """What is printed cannot act on a terminal, and nothing was made by a name."""
    for text in (done.stdout, done.stderr):
        odd = {character for character in text if not character.isprintable()} - {"\n"}
        assert not odd, (odd, text)
        forged = [line for line in text.splitlines() if line.startswith(FORGED)]
        assert not forged, text
        assert "this is a bug" not in text, text
    assert not list(repo.root.rglob("owned"))
    assert not Path("/tmp/owned").exists()


# What it is called: words, and whether it can report as JSON.
REPORTS: list[tuple[list[str], bool]] = [
    (["show", "--", FILE], True),
    (["show", "--", OPTION], True),
    (["show", f"{BRANCH}:{FILE}"], True),
    (["show", "--tree", "--", FILE], False),
    (["diff", f"main~1..{BRANCH}", "--", FILE], True),
    (["diff", "--exact", "main", BRANCH], True),
    (["diff", "--markdown", "main", BRANCH], False),
    (["log", "--all", "--", FILE], True),
    (["log", "--tensor", "layer.*", "--", FILE], True),
    (["log", "--", OPTION], True),
    (["blame", "--", FILE], True),
    (["blame", "--", OPTION], False),
    (["du"], True),
    (["du", "--commits"], True),
    (["ls-files"], True),
    (["ls-files", "-l"], False),
    (["fsck"], True),
    (["scan", "--", PICKLE], True),
    (["scan", "main"], True),
    (["doctor"], True),
    (["prune", "--dry-run"], True),
    (["merge", "--dry-run", "-s", "average", BRANCH], False),
    (["extract", "--rank", "2", "-o", "adapter", f"main:{FILE}", f"{BRANCH}:{FILE}"], False),
]


@pytest.mark.parametrize(("words", "as_json"), REPORTS, ids=lambda one: str(one)[:30].encode())
def test_what_is_reported(repo: Sandbox, words: list[str], as_json: bool):
    before = set(repo.work.iterdir())
    done = repo.theta(*words, code=None)
    assert done.returncode in (0, 1, 7), done.stderr
    assert_harmless(repo, done)
    made = {path.name for path in set(repo.work.iterdir()) - before}
    assert made <= {"adapter"}
    if as_json:
        done = repo.theta(words[0], "--json", *words[1:], code=None)
        assert done.stdout.isascii()
        json.loads(done.stdout)
        assert_harmless(repo, done)


def test_json_has_the_names_as_they_are(repo: Sandbox):
    names = json.loads(repo.theta("show", "--json", "--", FILE).stdout)
    assert set(WORSE) <= {tensor["name"] for tensor in names["tensors"]}


FAILURES: list[list[str]] = [
    ["show", "--", f"{EVIL}"],
    ["show", f"{EVIL}:{FILE}"],
    ["diff", EVIL, BRANCH],
    ["log", f"{EVIL}", "--", FILE],
    ["blame", "--", EVIL],
    ["export", f"{EVIL}:{FILE}", "-o", "out"],
    ["export", f"main:{EVIL}", "-o", "out"],
    ["merge", EVIL],
    ["merge", "-s", EVIL, BRANCH],
    ["merge", "-s", "average", "--set", f"{EVIL}=1", BRANCH],
    ["resolve", "-s", "average", "--", FILE],
    ["add", "--update", EVIL, "--", FILE],
    ["add", "--from", EVIL, "--", FILE],
    ["extract", "--rank", "2", "-o", "adapter2", f"{EVIL}", f"main:{FILE}"],
    ["average", f"{EVIL}..main", "--", FILE],
    ["apply", f"{BRANCH}..{EVIL}", "--", FILE],
    ["scan", EVIL],
    ["fetch", EVIL],
    ["push", EVIL],
    ["track", "--format", EVIL, "*.x"],
    ["du", EVIL],
    ["switch", EVIL],
    ["restore", "--", EVIL],
    [EVIL],
    ["show", f"--{EVIL}"],
]


@pytest.mark.parametrize("words", FAILURES, ids=lambda words: str(words)[:20].encode())
def test_what_is_refused(repo: Sandbox, words: list[str]):
    assert_harmless(repo, ours(repo.theta(*words, code=None), words))


def test_pages(repo: Sandbox):
    for number, words in enumerate((["diff", "main", BRANCH], ["log", "--all"])):
        page = repo.root / f"page{number}.html"
        done = repo.theta(*words, "--html", page, *(["--", FILE] if words[0] == "log" else []))
        assert_harmless(repo, done)
        text = page.read_text()
        assert "owned()" in text
        assert not re.search(r"<script>owned|<img|\x1b\]|\x07|\u202e|>\u200b", text)


def test_a_merge_with_conflicts_and_what_settles_it(repo: Sandbox):
    clone = copied(repo, "merging")
    done = clone.run("git", "merge", BRANCH, code=1)
    ours = "\n".join(line for line in done.stderr.splitlines() if "theta" in line)
    assert ours
    assert_harmless(clone, Done([], 0, "", said_by_theta(done.stderr)))
    for words in (["diff"], ["show", "--", FILE], ["ls-files", "-l"], ["doctor"]):
        assert_harmless(clone, clone.theta(*words, code=None))
    assert_harmless(clone, clone.theta("resolve", "-s", "average", "--", FILE))
    assert_harmless(clone, clone.theta("resolve", "-s", "average", "--", OPTION))
    clone.git("commit", "-qm", "merged")
    assert_harmless(clone, clone.theta("merge", "-s", "average", BRANCH, code=None))
    clone.git("reset", "-q", "--hard", "HEAD~1")
    assert_harmless(clone, clone.theta("merge", "-s", "average", BRANCH))


def test_what_changes_files(repo: Sandbox):
    clone = copied(repo, "adding")
    name = WORSE[0]
    for said, code in ((name, 0), ("x" + EVIL, None)):
        adapter(clone.work / "a.safetensors", said)
        words = ["add", "--from", "a.safetensors", "--", FILE]
        assert_harmless(clone, clone.theta(*words, code=code))
    write(clone.work / FILE, 9)
    assert_harmless(clone, clone.theta("add", "--lossy", "--rank", "1", "--", FILE))
    assert_harmless(clone, clone.theta("add", "--force", "--", OPTION))
    clone.git("commit", "-qm", "added")
    for words in (
        ["average", f"{BRANCH}..main", "--", FILE],
        ["apply", f"{BRANCH}~1..{BRANCH}", "--", FILE],
        ["track", EVIL],
        ["untrack", EVIL],
        ["checkout", BRANCH],
        ["switch", "main"],
        ["restore", "--source", BRANCH, "--", FILE],
        ["export", "main:" + FILE, "-o", "out"],
        ["push", "--all"],
        ["fetch", "--all"],
        ["pull"],
    ):
        assert_harmless(clone, ours(clone.theta(*words, code=None), words))
    assert (clone.work / "out").is_file()


def test_what_is_lost_is_named(repo: Sandbox):
    clone = copied(repo, "losing")
    for path in clone.objects():
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-9])
    assert_harmless(clone, clone.theta("fsck", code=5))
    for path in clone.objects():
        path.unlink()
    for words in (
        ["fsck"],
        ["push", "origin"],
        ["diff", "--exact", "main", BRANCH],
    ):
        assert_harmless(clone, clone.theta(*words, code=None))
    (clone.work / FILE).unlink()
    done = clone.run("git", "checkout", "--", ".", code=None)
    assert_harmless(clone, Done([], 0, "", said_by_theta(done.stderr)))
    done = clone.run("git", "push", "origin", "main", code=None)
    assert_harmless(clone, Done([], 0, "", said_by_theta(done.stderr)))


def said_by_theta(text: str) -> str:
    """What the program says among what Git says, which has its own way with names."""
    return "\n".join(line for line in text.splitlines() if re.match(r"git theta|  ?hint", line))


def ours(done: Done, words: list[str]) -> Done:
    """What a command says, without what Git says in those that are Git's."""
    passed_on = words[0] in ("checkout", "switch", "restore")
    return Done([], done.returncode, "", said_by_theta(done.stderr)) if passed_on else done


def copied(repo: Sandbox, name: str) -> Sandbox:
    """The same again, to change things in."""
    root: Any = repo.root.parent / f"{repo.root.name}-{name}"
    shutil.copytree(repo.root, root, symlinks=True)
    clone = Sandbox(root)
    clone.theta("install")
    return clone
