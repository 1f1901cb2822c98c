"""Two builds in one page, and boxes on pictures: in a browser, as a person meets them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mindvl_data.inspect.report import write_report
from mindvl_data.inspect.report.comparison import collected, write_comparison
from mindvl_data.pipeline import BuildReport, build
from mindvl_data.recipe import load_recipe
from tests.browser import Browser, opened_browser
from tests.conftest import QUICKSTART
from tests.mindvl_data.inspect.report.hostile import SCRIPT, hostile
from tests.mindvl_data.packs import png

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with opened_browser() as found:
        yield found


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The hostile build, and the same without the filters that take a share of it."""
    folder = tmp_path_factory.mktemp("hostile")
    strict = hostile(folder).out
    loose = build(load_recipe(folder / "recipe.yaml", ["filters=[]", "dedup=[]"]), folder / "loose").out
    return strict, loose


def test_samples_that_only_one_draws_are_shown_with_their_fate_in_the_other(attacked: tuple[Path, Path]) -> None:
    data = collected(*map(str, attacked))
    assert data["drawn"]["only_a"]["samples"] == 0
    states = {sample["state"] for sample in data["samples"]}
    assert "only in B: duplicate" in states
    assert any(state.startswith("only in B: filtered") for state in states)
    assert [line["key"] for line in data["recipe"] if line["key"].startswith("filters")]


def test_the_page_compares_and_no_text_of_the_data_runs(
    browser: Browser, attacked: tuple[Path, Path], tmp_path: Path
) -> None:
    path = write_comparison(*map(str, attacked), tmp_path / "compared.html")
    browser.open(path)
    assert len(browser.all("#shares svg")) == 1
    browser.choose("#sample-state", "only in B: duplicate")
    (card,) = browser.all("#sample-cards > li")
    assert card.find_elements("css selector", "img")
    browser.choose("#sample-state", "")
    assert SCRIPT.split(">")[1].split("<")[0] in browser.one("main").text
    assert browser.run("window.hacked") is None
    assert browser.run("[...document.querySelectorAll('th')].every(one => one.scope)")
    assert (browser.requests(), browser.complaints()) == ([], [])
    browser.open(path, width=390)
    assert browser.run("document.documentElement.scrollWidth") <= 390


@pytest.fixture(scope="module")
def boxed(tmp_path_factory: pytest.TempPathFactory) -> BuildReport:
    """A sample with a box around the right half of its picture, in pixels, and a point in its middle."""
    folder = tmp_path_factory.mktemp("boxed")
    (folder / "p.png").write_bytes(png(3, (400, 200)))
    text = "a <box>(200,0),(400,200)</box> and a <point>(200,100)</point>"
    talk = [{"from": "human", "value": "<image>where?"}, {"from": "gpt", "value": text}]
    (folder / "data.json").write_text(json.dumps([{"image": "p.png", "conversations": talk}]))
    source = {"format": "llava", "path": "data.json", "kind": "grounding", "boxes": {"from": "pixels"}}
    source["boxes"] = {"from": "pixels", "write": "resized"}
    stages = {"one": {"seq_len": 512, "budget": {"epochs": 1}, "mixture": {"boxed": 1.0}}}
    raw = {"name": "boxed", "tokenizer": str(QUICKSTART / "tokenizer.json"), "sources": {"boxed": source}}
    (folder / "recipe.yaml").write_text(json.dumps(raw | {"stages": stages}))
    return build(load_recipe(folder / "recipe.yaml"), folder / "out")


def test_boxes_and_points_are_drawn_where_they_are(browser: Browser, boxed: BuildReport, tmp_path: Path) -> None:
    browser.open(write_report(str(boxed.out), tmp_path / "report.html"))
    browser.all("#pack-rows button")[0].click()
    for place in ("#sample-cards", "#pack-detail"):
        picture = browser.run(f"document.querySelector('{place} img').getBoundingClientRect()")
        box = browser.run(f"document.querySelector('{place} rect').getBoundingClientRect()")
        assert box["x"] - picture["x"] == pytest.approx(picture["width"] / 2, abs=3)
        assert box["width"] == pytest.approx(picture["width"] / 2, abs=4)
        assert box["height"] == pytest.approx(picture["height"], abs=4)
        point = browser.run(f"document.querySelector('{place} path').getBoundingClientRect()")
        assert point["x"] + point["width"] / 2 - picture["x"] == pytest.approx(picture["width"] / 2, abs=3)
    assert browser.complaints() == []
