"""The gallery and the page to play with, in headless Chromium: ``python -m pytest -m browser tests/browser``.

The pages are served from docs/, without the site's generator; the site's own tests load them inside of it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from chromium import driven, emulate, served

pytestmark = pytest.mark.browser
DOCS = Path(__file__).parents[2] / "docs"
PARTS = {
    "gallery": ["task-losses-gallery"],
    "explore": [f"task-losses-{name}" for name in ("strength", "dial", "pull")],
}
WAIT = 60  # seconds; a busy machine draws slowly


@pytest.fixture(scope="module")
def address():
    with served(DOCS) as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with driven(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def show(browser, address):
    """Opens a page and waits until its parts are drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    def opened(page, width=1200, scheme="light"):
        emulate(browser, (width, 900), scheme)
        browser.get_log("browser")
        browser.get_log("performance")
        browser.get(f"{address}/{page}/standalone.html")
        drawn = "return arguments[0].every(id => document.querySelector(`#${id} button`))"
        WebDriverWait(browser, WAIT).until(lambda it: it.execute_script(drawn, PARTS[page]))
        return browser

    return opened


def one(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def split(browser: Any, part: str) -> float:
    value = browser.execute_script(
        "return arguments[0].style.getPropertyValue('--split')", one(browser, f"{part} .stage")
    )
    return float(value.rstrip("%"))


def press(browser: Any, part: str, key: str) -> None:
    """A button by its key: clicked as a reader would, wherever it is on the page."""
    browser.execute_script("arguments[0].click()", one(browser, f"{part} button[data-key='{key}']"))


def point(browser: Any, selector: str, across: float, down: float) -> None:
    """Presses the mouse at a place of an element, from 0 to 1."""
    from selenium.webdriver import ActionChains

    element = one(browser, selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    x, y = (round((share - 0.5) * element.size[side]) for share, side in ((across, "width"), (down, "height")))
    ActionChains(browser).move_to_element_with_offset(element, x, y).click().perform()


@pytest.mark.parametrize("page", PARTS)
@pytest.mark.parametrize("width", [1200, 390])
def test_a_page_loads_without_errors_fits_and_asks_no_other_host(show, address, page, width):
    browser = show(page, width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    wide = "return [...document.querySelectorAll('.stage')].map(s => s.getBoundingClientRect().right)"
    assert max(browser.execute_script(wide)) <= width
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert any(url.endswith(".json") for url in asked)
    assert not [url for url in asked if not url.startswith((address, "data:"))]


@pytest.mark.parametrize("page", PARTS)
def test_pictures_and_controls_have_names(show, page):
    browser = show(page)
    bare = """
        const words = e => e.getAttribute('aria-label') || e.alt || e.closest('label')?.textContent || e.textContent;
        const named = e => words(e).trim();
        return [...document.querySelectorAll('img, [role=img], input, select, button')].filter(e => !named(e)).length
    """
    assert browser.execute_script("return document.querySelectorAll('[role=img]').length") >= 1
    assert browser.execute_script(bare) == 0


@pytest.mark.parametrize("page", PARTS)
def test_words_are_light_where_the_reader_asks_for_dark(show, page):
    for scheme, is_so in (("light", lambda value: value < 80), ("dark", lambda value: value > 180)):
        browser = show(page, scheme=scheme)
        for element in browser.find_elements("css selector", ".tl legend, .tl td, .tl button"):
            colour = element.value_of_css_property("color")
            assert is_so(sum(map(int, re.findall(r"\d+", colour)[:3])) / 3), f"{scheme}: {element.text} is {colour}"


@pytest.mark.parametrize(("page", "part"), [("gallery", "#task-losses-gallery"), ("explore", "#task-losses-dial")])
def test_the_line_moves_by_keyboard_and_mouse(show, page, part):
    from selenium.webdriver.common.keys import Keys

    browser = show(page)
    slider = one(browser, f"{part} input.split")
    assert split(browser, part) == 50
    slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert split(browser, part) == 52
    slider.send_keys(Keys.HOME)
    assert split(browser, part) == 0
    point(browser, f"{part} .stage", 0.25, 0.5)
    assert split(browser, part) == pytest.approx(25, abs=1)
    assert slider.get_attribute("value") == f"{split(browser, part):g}"
    assert slider.get_attribute("aria-valuetext").startswith(f"{split(browser, part):g} %")


def test_the_gallery_compares_any_two_in_every_view(show):
    from selenium.webdriver.support.ui import Select

    browser, part = show("gallery"), "#task-losses-gallery"
    left, right = (Select(each) for each in browser.find_elements("css selector", f"{part} select"))
    assert len(right.options) >= 9
    left.select_by_visible_text("MSE")
    right.select_by_visible_text("reference")
    stage = one(browser, f"{part} .stage")
    assert "MSE on the left, reference on the right" in stage.get_attribute("aria-label")
    assert [tag.text for tag in stage.find_elements("css selector", ".tag")] == ["MSE", "reference"]
    assert one(browser, f"{part} tr.shown").text.startswith("MSE")
    seen = {stage.screenshot_as_base64}
    for view in ("reference", "other", "map"):
        press(browser, part, view)
        seen.add(stage.screenshot_as_base64)
    assert len(seen) == 4, "two views look alike"


def test_every_picture_of_the_gallery_is_shown(show):
    browser, part = show("gallery"), "#task-losses-gallery"
    content = json.loads((DOCS / "gallery" / "gallery.json").read_text())
    for task in content["tasks"]:
        press(browser, part, task["key"])
        for number, entry in enumerate(task["entries"]):
            press(browser, f"{part} .photos", str(number))
            layer = one(browser, f"{part} .layer.left")
            assert entry["sheet"] in layer.value_of_css_property("background-image")
            assert one(browser, f"{part} .remark").text == entry["remark"]
            assert len(browser.find_elements("css selector", f"{part} tbody tr")) == len(entry["images"])


def test_the_dial_and_the_strength_follow_the_keyboard(show):
    from selenium.webdriver.common.keys import Keys

    browser = show("explore")
    for part in ("#task-losses-strength", "#task-losses-dial"):
        slider, words = one(browser, f"{part} .stops input"), one(browser, f"{part} .stops output")
        figures = one(browser, f"{part} table").text + one(browser, f"{part} .stages").text
        slider.send_keys(Keys.HOME)
        first = words.text
        slider.send_keys(Keys.END)
        assert words.text != first
        assert slider.get_attribute("aria-valuetext") == words.text
        assert one(browser, f"{part} table").text + one(browser, f"{part} .stages").text != figures


def test_a_square_is_chosen_by_mouse_and_keyboard(show):
    from selenium.webdriver.common.keys import Keys

    browser, part = show("explore"), "#task-losses-pull"

    def marked():
        return re.findall(r"row (\d), column (\d)", one(browser, f"{part} .stage").get_attribute("aria-label"))[0]

    assert marked() == ("5", "5")
    before = one(browser, f"{part} .gains").text
    point(browser, f"{part} .stage", 0.5 / 9, 8.5 / 9)
    assert marked() == ("9", "1")
    assert one(browser, f"{part} .gains").text != before
    row = one(browser, f"{part} input[data-axis=row]")
    assert row.get_attribute("value") == "8"
    row.send_keys(Keys.ARROW_LEFT)
    assert marked() == ("8", "1")
    press(browser, part, "shares")
    assert len(browser.find_elements("css selector", f"{part} .shares span")) == 81
