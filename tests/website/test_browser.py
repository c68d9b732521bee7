"""Every page of the site in headless Chromium: ``python -m pytest -m browser``.

Generic over all pages: a new page is tested as soon as it is there. TASK_LOSSES_SCREENSHOTS names a folder for pictures
of each page, to be looked at.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from chromium import driven, emulate, served

pytestmark = pytest.mark.browser
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def address(built):
    with served(built) as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with driven(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def names(built):
    return sorted(path.relative_to(built).as_posix() for path in built.rglob("*.html") if path.name != "404.html")


def keep(browser, name):
    if folder := os.environ.get("TASK_LOSSES_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(folder) / name))


def requests(browser):
    """Addresses that the pages asked for since the last call."""
    found = re.findall(
        r'\\?"url\\?":\\?"([a-z]+:[^"\\]*)',
        "".join(
            entry["message"] for entry in browser.get_log("performance") if "requestWillBeSent" in entry["message"]
        ),
    )
    return {url for url in found if url.startswith(("http", "ws"))}


@pytest.mark.parametrize("device", SIZES)
def test_every_page_loads_without_errors_and_asks_no_other_host(browser, address, built, device):
    emulate(browser, SIZES[device])
    emulate(browser, scheme="light")
    for name in names(built):
        browser.get(f"{address}/{name}")
        keep(browser, f"{name.replace('/', '-')}-{device}.png")
        said = [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "ERROR")]
        assert not [line for line in said if "favicon" not in line], name
        asked = requests(browser)
        assert asked, "the browser's log of requests is empty"
        assert not {url for url in asked if not url.startswith(address)}, name


def test_no_page_scrolls_sideways_on_a_phone(browser, address, built):
    emulate(browser, SIZES["phone"])
    wide = {}
    for name in names(built):
        browser.get(f"{address}/{name}")
        width = browser.execute_script("return document.documentElement.scrollWidth")
        if width > SIZES["phone"][0]:
            wide[name] = width
    assert not wide


def brightness(browser):
    colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    red, green, blue = map(int, re.findall(r"\d+", colour)[:3])
    return (red + green + blue) / 3


@pytest.mark.parametrize(("wish", "low", "high"), [("light", 200, 255), ("dark", 0, 80)])
def test_pages_are_light_or_dark_as_the_reader_asks(browser, address, built, wish, low, high):
    emulate(browser, SIZES["desktop"])
    browser.get(f"{address}/theme/site.css")  # of this host, without scripts: forget what pages kept of earlier wishes
    browser.execute_script("localStorage.clear()")
    emulate(browser, scheme=wish)
    for name in names(built):
        browser.get(f"{address}/{name}")
        keep(browser, f"{name.replace('/', '-')}-{wish}.png")
        assert low <= brightness(browser) <= high, name


def test_pictures_are_shown_and_described(browser, address, built):
    emulate(browser, SIZES["desktop"])
    script = """
        const bad = i => !i.alt.trim() || (i.loading != 'lazy' && !i.naturalWidth)
        return [...document.images].filter(bad).map(i => i.src)
    """
    for name in names(built):
        browser.get(f"{address}/{name}")
        until = time.monotonic() + 60  # scripts make pictures too, and these load later
        while (bad := browser.execute_script(script)) and time.monotonic() < until:
            time.sleep(0.5)
        assert not bad, name


FOCUSED = "return !!document.activeElement.shadowRoot?.activeElement?.matches('input')"
# The search lives in a tree of its own.
FOUND = """
    const all = root => [...root.querySelectorAll('*')].flatMap(e => [e, ...(e.shadowRoot ? all(e.shadowRoot) : [])])
    return all(document).filter(e => e.matches('a') && e.href.includes('h=Hounsfield')).map(e => e.href)
"""


def test_the_search_finds_a_page_by_a_word_of_it(browser, address):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    emulate(browser, SIZES["desktop"])
    browser.get(f"{address}/index.html")
    body = browser.find_element(By.TAG_NAME, "body")
    WebDriverWait(browser, 60).until(lambda b: body.send_keys(Keys.CONTROL, "k") or b.execute_script(FOCUSED))
    ActionChains(browser).send_keys("Hounsfield").perform()
    # Results come one by one: the page is waited for, not the first of them.
    WebDriverWait(browser, 60).until(lambda b: any("images.html" in link for link in b.execute_script(FOUND)))
