"""The pages of `git theta diff --html` and `log --html`, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.browser import Browser
from tests.sandbox import Sandbox, encode

pytestmark = pytest.mark.git

NAME = "m.safetensors"
EVIL = '</script><script>window.owned=1</script><img src=x onerror="window.owned=1">\u2028'
Weights = dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


def weights(blocks: int) -> Weights:
    rng = np.random.default_rng(5)
    found: Weights = {"embed.weight": rng.normal(size=(60, 32)).astype("<f4"), EVIL: np.ones(4)}
    for number in range(blocks):
        found[f"layers.{number}.attn.q.weight"] = rng.normal(size=(32, 32)).astype("<f4")
        found[f"layers.{number}.mlp.weight"] = rng.normal(size=(32, 40)).astype("<f4")
        found[f"layers.{number}.norm.weight"] = np.ones(32, "<f4")
    return found


def moved(old: Weights, scale: float) -> Weights:
    rng = np.random.default_rng(6)
    new = {name: values for name, values in old.items() if "embed" not in name}
    for number, (name, values) in enumerate(old.items()):
        if name in new and values.ndim == 2:
            step = rng.normal(size=(len(values), 1)) @ rng.normal(size=(1, values.shape[1]))
            new[name] = (values + scale * (1 + number) * step).astype("<f4")
    new["head.weight"], new[EVIL] = np.ones((3, 3)), np.zeros(4)
    new["tokens.weight"] = old["embed.weight"]
    return new


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """A model in three commits on two branches, with hostile names and messages."""
    sandbox = Sandbox(tmp_path_factory.mktemp("pages"))
    sandbox.init()
    first = weights(6)
    (sandbox.work / NAME).write_bytes(encode(first))
    sandbox.commit("first")
    sandbox.git("checkout", "-q", "-b", "topic")
    (sandbox.work / NAME).write_bytes(encode(moved(first, 0.01)))
    sandbox.commit(EVIL)
    sandbox.git("checkout", "-q", "main")
    (sandbox.work / NAME).write_bytes(encode(moved(first, 0.001)))
    sandbox.commit("main")
    sandbox.git("merge", "-q", "-s", "ours", "-m", "kept ours", "topic")
    (sandbox.work / NAME).write_bytes(encode(moved(first, 0.002)))
    sandbox.git("commit", "-q", "-a", "--amend", "-m", "merged")
    return sandbox


@pytest.fixture(scope="module")
def diff_page(repo: Sandbox) -> Path:
    page = repo.root / "diff.html"
    repo.theta("diff", "main~2", "topic", "--html", page)
    return page


def assert_sound(browser: Browser, page: Path) -> None:
    """Nothing went wrong, nothing was asked of a network, nothing foreign ran."""
    assert browser.complaints == []
    asked = [url for url in browser.requests if not url.startswith("data:")]
    assert asked == [page.as_uri()]
    assert browser.run("typeof window.owned") == "undefined"
    assert browser.run("document.images.length") == 0


def test_the_page_of_a_difference_draws_everything(browser: Browser, diff_page: Path):
    browser.open(diff_page)
    assert browser.run("document.getElementById('title').textContent") == NAME
    assert browser.run("document.querySelectorAll('#heat-chart [role=button]').length") == 12
    assert browser.run("document.querySelectorAll('#body tr').length") == 15
    assert browser.run("document.querySelectorAll('#histogram svg').length") == 1
    assert browser.run("document.querySelectorAll('#spectrum svg').length") == 1
    names = "[...document.querySelectorAll('#body td:first-child')].map((td) => td.textContent)"
    assert any("<script>window.owned=1</script>" in name for name in browser.run(names))
    assert "embed.weight → tokens.weight" in browser.run(names)
    ticks = "[...document.querySelectorAll('#spectrum [aria-label^=\"y-axis tick label\"] text')]"
    assert len(browser.run(f"{ticks}.map((node) => node.textContent).filter(Boolean)")) >= 2
    assert_sound(browser, diff_page)
    assert browser.picture("diff").stat().st_size > 20_000


def test_the_table_sorts_and_filters(browser: Browser, diff_page: Path):
    browser.open(diff_page)
    column = "[...document.querySelectorAll('#body td:first-child')].map((td) => td.textContent)"
    head = "document.querySelectorAll('#head button')"
    browser.run(f"{head}[0].click()")
    assert browser.run(column) == sorted(browser.run(column))
    assert browser.run("document.querySelector('#head th').ariaSort") == "ascending"
    browser.run(f"{head}[0].click()")
    assert browser.run(column) == sorted(browser.run(column), reverse=True)
    assert browser.run(f"document.activeElement === {head}[0]")
    browser.run("document.getElementById('search').focus()")
    browser.type("mlp 3")
    assert browser.run(column) == ["layers.3.mlp.weight"]
    assert browser.run("document.getElementById('shown').textContent") == "1 of 15 tensors"
    browser.run("search.value = ''; what.value = 'added'; what.dispatchEvent(new Event('change'))")
    assert browser.run(column) == ["head.weight"]
    assert_sound(browser, diff_page)


def test_a_tensor_is_chosen_by_mouse_and_by_keyboard(browser: Browser, diff_page: Path):
    browser.open(diff_page)
    name = "document.getElementById('view-name').textContent"
    cells = "document.querySelectorAll('#heat-chart [role=button]')"
    label = "document.activeElement.getAttribute('aria-label')"
    browser.run(f"[...{cells}].find((n) => n.getAttribute('aria-label').startsWith('layers.2.mlp'))"
                ".dispatchEvent(new MouseEvent('click'))")  # fmt: skip
    assert browser.run(name) == "layers.2.mlp.weight"
    browser.run(f"[...{cells}].find((n) => n.tabIndex === 0).focus()")
    before = browser.run(label)
    browser.press("ArrowRight")
    after = browser.run(label)
    assert before.split(".")[2] == after.split(".")[2]
    assert int(after.split(".")[1]) == int(before.split(".")[1]) + 1
    browser.press("ArrowDown")
    assert browser.run(label).split(".")[1] == after.split(".")[1]
    browser.press("Enter")
    assert browser.run(label).startswith(browser.run(name))
    assert browser.run("document.querySelectorAll('[aria-selected=true]').length") == 1
    assert browser.run("document.getElementById('said').textContent").endswith("is shown")
    assert_sound(browser, diff_page)


@pytest.mark.parametrize(("width", "dark"), [(1280, True), (390, False)])
def test_it_fits_a_phone_and_the_dark(browser: Browser, diff_page: Path, width: int, dark: bool):
    browser.open(diff_page, width=width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (not dark)
    browser.run("document.getElementById('theme').click()")
    assert browser.run("getComputedStyle(document.body).backgroundColor") != ground
    browser.run("document.getElementById('theme').click()")
    browser.settle()
    assert_sound(browser, diff_page)
    browser.picture("diff-dark" if dark else "diff-phone")


def test_the_page_of_a_history(browser: Browser, repo: Sandbox):
    page = repo.root / "log.html"
    repo.theta("log", "--all", NAME, "--html", page)
    browser.open(page)
    nodes = "document.querySelectorAll('#graph [role=button]')"
    assert browser.run(f"{nodes}.length") == 4
    assert browser.run("document.querySelectorAll('#graph svg').length") == 3
    assert browser.run("document.querySelectorAll('#body tr').length") == 4
    browser.run(f"{nodes}[0].focus()")
    browser.press("ArrowRight")
    browser.press("Enter")
    shown = browser.run("document.getElementById('view-name').textContent")
    assert shown in ("main", EVIL.replace("\u2028", "\\u2028"))
    browser.run("document.getElementById('search').focus()")
    browser.type("window.owned")
    assert browser.run("document.querySelectorAll('#body tr').length") >= 1
    assert "merge" in browser.run("document.getElementById('graph').innerHTML")
    assert_sound(browser, page)
    browser.picture("log")


def test_a_page_of_a_thousand_tensors_is_small(repo: Sandbox, browser: Browser):
    rng = np.random.default_rng(1)
    wide = {f"layers.{n // 10}.part{n % 10}.weight": rng.normal(size=(8, 8)) for n in range(1000)}
    (repo.work / "wide.safetensors").write_bytes(encode(wide))
    repo.commit("wide")
    more = {name: values + 0.01 * rng.normal(size=(8, 8)) for name, values in wide.items()}
    (repo.work / "wide.safetensors").write_bytes(encode(more))
    page = repo.root / "wide.html"
    repo.theta("diff", "--html", page, "--", "wide.safetensors")
    assert page.stat().st_size < 3_000_000
    browser.open(page)
    assert browser.run("document.querySelectorAll('#heat-chart [role=button]').length") == 1000
    assert_sound(browser, page)
