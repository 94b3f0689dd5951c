"""The page in a real browser, Chromium without a window: what a reader sees, with and without a mouse."""

from __future__ import annotations

import shutil

import pytest
from report_samples import fast_manifests, write_sample

from xtra_rl.report.collect import collect
from xtra_rl.report.page import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"needs one of {', '.join(NAMES)} on the PATH, e.g. from apt-get install chromium")
    with playwright.sync_playwright() as driver:
        # Root, as in a container, has no sandbox.
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        fast_manifests(patch)
        write_sample(folder / "study", video=True)
    shutil.rmtree(folder / "study" / "runs" / "xtra" / "amidar-s1")
    return write_report(collect([folder / "study"]), folder / "report")


def open_page(chromium, report, width, scheme="light"):
    """A page, and what its console, its errors and its requests said."""
    page = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or said.append(request.url))
    page.on("requestfailed", lambda request: said.append(request.url[:80]))
    page.goto(report.as_uri())
    page.wait_for_load_state("load")
    return page, said


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "light"), (360, "dark")])
def test_everything_loads_and_the_body_never_scrolls_sideways(width, scheme, chromium, report):
    page, said = open_page(chromium, report, width, scheme)
    assert said == []
    loaded = page.eval_on_selector_all(
        "img", "all => all.map(each => each.complete && each.naturalWidth > 0)"
    )
    assert len(loaded) >= 9
    assert all(loaded)
    page.wait_for_function("Array.from(document.querySelectorAll('video')).every(v => v.readyState >= 1)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.evaluate("window.scrollTo(1000, 0)")
    assert page.evaluate("window.scrollX") == 0
    if width == 360:
        assert page.eval_on_selector_all(
            ".scroll", "all => all.some(each => each.scrollWidth > each.clientWidth)"
        )
    page.close()


def test_the_keyboard_reaches_the_tables_and_sorts_them(chromium, report):
    page, said = open_page(chromium, report, 1280)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    for _ in range(20):
        page.keyboard.press("Tab")
        focused = "document.activeElement.matches('#study-scores button.sort')"
        if page.evaluate(f"{focused} && document.activeElement.textContent.trim() === 'XTRA'"):
            break
    else:
        pytest.fail("twenty tabs behind the skip link are no sort button of the first table")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"

    games = "Array.from(document.querySelectorAll('#study-scores tbody th')).map(th => th.textContent)"
    state = "document.activeElement.closest('th').getAttribute('aria-sort')"
    page.keyboard.press("Enter")
    assert (page.evaluate(games), page.evaluate(state)) == (["Alien", "Amidar"], "descending")
    page.keyboard.press("Space")
    assert (page.evaluate(games), page.evaluate(state)) == (["Amidar", "Alien"], "ascending")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert page.locator("#study-scores th[aria-sort]").count() == 1
    assert said == []
    page.close()


def test_averages_stay_below_the_games_when_a_table_is_sorted(chromium, report):
    page, _ = open_page(chromium, report, 1280)
    page.locator("#study-table1 button.sort", has_text="game").click()
    classes = page.eval_on_selector_all("#study-table1 tbody tr", "all => all.map(each => each.className)")
    assert classes == ["", "", "total", "total", "total", "total"]
    page.close()


def test_a_printed_page_has_no_navigation_and_whole_tables(chromium, report):
    page, _ = open_page(chromium, report, 800)
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert page.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    page.close()
