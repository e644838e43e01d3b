"""`git theta track` and `untrack`, as Git understands what they write."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.sandbox import Sandbox, model

pytestmark = pytest.mark.git


def filter_of(sandbox: Sandbox, path: str) -> str:
    return sandbox.git("check-attr", "-z", "filter", "--", path).split("\0")[2]


@pytest.mark.parametrize(
    ("pattern", "inside", "outside"),
    [
        ("*.pt", "deep/er/a.pt", "a.ptx"),
        ("./a/*.pt", "a/b.pt", "b.pt"),
        ("my models/*.pt", "my models/a.pt", "my/models/a.pt"),
        ('say "hi"/*.pt', 'say "hi"/a.pt', "say hi/a.pt"),
        ("#1.pt", "#1.pt", "1.pt"),
        ("tab\there.pt", "tab\there.pt", "tabhere.pt"),
        ("poids/été*.pt", "poids/été1.pt", "poids/ete1.pt"),
        ("a/**", "a/b/c", "b/c"),
        (r"back\\slash*.pt", "back\\slash1.pt", "backslash1.pt"),
        ("/top.pt", "top.pt", "sub/top.pt"),
    ],
)
def test_git_understands_each_pattern(repo: Sandbox, pattern: str, inside: str, outside: str):
    repo.theta("track", "--", pattern)
    assert filter_of(repo, inside) == "theta"
    assert filter_of(repo, outside) == "unspecified"
    assert pattern.removeprefix("./") in [row["pattern"] for row in repo.json("track")]
    repo.theta("untrack", "--", pattern.removeprefix("./"))
    assert filter_of(repo, inside) == "unspecified"


def test_twice_is_once(repo: Sandbox):
    before = (repo.work / ".gitattributes").read_bytes()
    assert "Already tracking *.safetensors" in repo.theta("track", "*.safetensors").stdout
    assert (repo.work / ".gitattributes").read_bytes() == before


def test_a_strategy_that_nobody_has_is_refused(repo: Sandbox):
    before = (repo.work / ".gitattributes").read_bytes()
    done = repo.theta("track", "*.bin", "--merge", "avarage", code=2)
    assert "no strategy is called 'avarage'\nhint: git theta merge --list" in done.stderr
    assert (repo.work / ".gitattributes").read_bytes() == before
    for known in ("conflict", "ties:density=0.3"):
        repo.theta("track", "*.bin", "--merge", known)


def test_the_examples_of_its_help_work(repo: Sandbox):
    told = repo.theta("track", "-h").stdout
    examples = re.findall(r"^ +git theta (track .+)$", told, re.MULTILINE)
    assert examples
    for example in examples:
        repo.theta(*shlex.split(example))


def test_the_line_is_complete(repo: Sandbox):
    repo.theta("track", "*.bin", "--format", "safetensors", "--merge", "average")
    lines = (repo.work / ".gitattributes").read_text().splitlines()
    wanted = "filter=theta diff=theta merge=theta -text theta-format=safetensors"
    assert lines[-1] == f"*.bin {wanted} theta-merge=average"


def test_a_pattern_belongs_to_the_directory_one_stands_in(repo: Sandbox):
    below = repo.work / "sub" / "dir"
    below.mkdir(parents=True)
    repo.theta("track", "*.ckpt", cwd=below)
    assert (below / ".gitattributes").is_file()
    assert filter_of(repo, "sub/dir/a.ckpt") == "theta"
    assert filter_of(repo, "a.ckpt") == "unspecified"
    files = {row["pattern"]: row["file"] for row in repo.json("track", cwd=below)}
    assert files["*.ckpt"] == "sub/dir/.gitattributes"


def test_an_alias_of_git_stands_where_its_user_does(repo: Sandbox):
    below = repo.work / "sub"
    below.mkdir()
    repo.git("config", "alias.keep", "!git theta track")
    repo.git("keep", "*.ckpt", cwd=below)
    assert (below / ".gitattributes").is_file()


def test_an_unknown_format_is_refused(repo: Sandbox):
    done = repo.theta("track", "*.x", "--format", "nonsense", code=2)
    assert "no format is called 'nonsense'" in done.stderr
    assert "safetensors" in done.stderr
    assert "*.x" not in (repo.work / ".gitattributes").read_text()


def test_untrack_of_an_unknown_pattern_says_so(repo: Sandbox):
    done = repo.theta("untrack", "*.nothing", code=3)
    assert "git theta track lists" in done.stderr


def test_not_installed_is_said(sandbox: Sandbox):
    sandbox.init(install=False, track="")
    done = sandbox.theta("track", "*.pt")
    assert "git theta install" in done.stderr


def test_a_line_below_that_wins_is_named(repo: Sandbox):
    attributes = repo.work / ".gitattributes"
    attributes.write_text(attributes.read_text() + "*.safetensors filter=lfs\n")
    done = repo.theta("track", "*.safetensors")
    assert "is overridden: filter is lfs" in done.stderr


def test_raw_files_are_named_with_what_to_do(sandbox: Sandbox):
    sandbox.init(track="")
    data = model(sandbox.work / "old.safetensors")
    sandbox.commit()
    done = sandbox.theta("track", "*.safetensors")
    assert "old.safetensors" in done.stderr
    assert "git add --renormalize" in done.stderr
    sandbox.git("add", ".gitattributes")
    sandbox.git("add", "--renormalize", "--", "old.safetensors")
    assert sandbox.git("cat-file", "blob", ":old.safetensors").startswith('{"git-theta":')
    assert (sandbox.work / "old.safetensors").read_bytes() == data


def test_a_pattern_that_the_shell_expanded_is_noticed(repo: Sandbox):
    for name in ("a.pt", "b.pt"):
        (repo.work / name).write_text("x")
    assert "was a pattern not quoted?" in repo.theta("track", "a.pt", "b.pt").stderr
