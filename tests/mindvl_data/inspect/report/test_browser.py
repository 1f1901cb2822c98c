"""The report in a browser: nothing is asked for, nothing complains, each view does what it says, text stays text."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mindvl_data.inspect.report import write_report
from mindvl_data.pipeline import BuildReport
from tests.browser import Browser, opened_browser
from tests.mindvl_data.inspect.report.hostile import SCRIPT, hostile

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    return write_report(str(hostile(folder).out), folder / "report.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with opened_browser() as found:
        yield found


def test_every_view_can_be_used_and_no_text_of_the_data_runs(browser: Browser, path: Path) -> None:
    browser.open(path)
    assert len(browser.all("#flow svg, #shares svg")) == 2
    assert len(browser.all("#bars svg")) >= 6
    browser.choose("#histogram-source", "crawl")
    assert "Thresholds" in browser.one("#bars").text
    assert browser.one("#sample-count").text.startswith("12 of 12 samples")
    browser.choose("#sample-state", "duplicate")
    (card,) = browser.all("#sample-cards > li")
    assert "like this one of crawl" in card.text
    assert len(card.find_elements("css selector", "img")) == 2
    browser.choose("#sample-state", "")
    for order in ("most tokens", "highest clip", "shortest text"):
        browser.choose("#sample-order", order)
    browser.one("#sample-text").send_keys("onerror=")
    assert SCRIPT in browser.one("#sample-cards").text
    browser.all("#pack-rows button")[0].click()
    assert browser.all("#pack-detail mark")
    assert browser.all("#pack-detail img")
    assert SCRIPT.split(">")[1].split("<")[0] in browser.one("main").text
    for summary in browser.all("summary"):
        browser.run("arguments[0].click()", summary)
    assert browser.run("window.hacked") is None
    assert browser.run("[...document.images].every(i => i.src.startsWith('data:image/jpeg;base64,'))")
    assert not browser.all("script[src], iframe, object, form[action], a[href^=javascript]")
    assert browser.requests() == []
    assert browser.complaints() == []


def test_it_can_be_used_with_a_keyboard_and_read_aloud(browser: Browser, path: Path) -> None:
    browser.open(path)
    assert browser.run("document.documentElement.lang") == "en"
    assert browser.run("[...document.querySelectorAll('select, input')].every(one => one.labels.length)")
    assert browser.run("[...document.querySelectorAll('img')].every(one => one.alt)")
    assert browser.run("[...document.querySelectorAll('figure > svg')].every(one => one.getAttribute('aria-label'))")
    assert browser.run("[...document.querySelectorAll('th')].every(one => one.scope)")
    pack = browser.all("#pack-rows button")[0]
    browser.run("arguments[0].focus()", pack)
    pack.send_keys("\ue007")  # Enter
    assert pack.get_attribute("aria-pressed") == "true"


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_it_without_scrolling_sideways_and_in_the_dark(browser: Browser, path: Path, dark: bool) -> None:
    browser.open(path, width=390, dark=dark)
    browser.all("#pack-rows button")[0].click()
    assert browser.run("document.documentElement.scrollWidth") <= 390
    ink, paper = (browser.run(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    light = [sum(map(int, colour.strip("rgb()").split(","))) / 3 for colour in (ink, paper)]
    assert (light[0] > light[1]) is dark
    assert abs(light[0] - light[1]) > 150
    assert browser.complaints() == []


def test_a_source_has_one_colour_in_every_legend(browser: Browser, quickstart: BuildReport, tmp_path: Path) -> None:
    browser.open(write_report(str(quickstart.out), tmp_path / "report.html"))

    def legend(place: str) -> dict[str, str]:
        items = f"[...document.querySelectorAll('{place} .legend li')]"
        found: dict[str, str] = browser.run(
            f"Object.fromEntries({items}.map(item => [item.textContent, item.firstChild.style.background]))"
        )
        return found

    everywhere = legend("#flow")
    assert len(set(everywhere.values())) == len(quickstart.recipe.sources)
    browser.choose("#pack-set", "warmup-2048")
    assert legend("#pack-legend") == {name: everywhere[name] for name in ("captions", "documents")}
    browser.choose("#histogram-source", "documents")
    assert legend("#bars") == {"documents": everywhere["documents"]}
