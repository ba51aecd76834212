"""The page as a reader meets it in a browser: whole, offline, escaped, fit for a phone, for the dark and for paper."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from decondense.errors import UserError
from decondense.report import Series, Trajectory, style
from decondense.report.page import (
    Code,
    Section,
    curve_section,
    details_section,
    heatmap_section,
    table_section,
    text_section,
    trajectory_section,
    write_page,
)
from decondense.report.tables import Column, Table

# What a model's name, a text or a setting could hold. It would set `hacked` if any part of the page took it for markup.
NASTY = """<script>window.hacked=1</script></script><img src=x onerror='window.hacked=1'>"&amp;<b>b</b>%{y}$x${{7*7}}"""
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PLOTS = 2 + 1 + 2  # heatmaps, curves, trajectories


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory, make_measurement: Callable[..., Any]) -> Path:
    steps = [0, 10, 100]
    means = numpy.random.default_rng(0).random((3, 7))
    table = Table(["arm", Column("perplexity", ".1f")], [[NASTY, 114.34], ["dispersion", None]])
    sections = [
        text_section("Verdict", f"First paragraph.\n\nSecond: {NASTY}", emphasis=True),
        table_section(NASTY, table, caption=NASTY),
        heatmap_section([make_measurement(NASTY, 0), make_measurement("b", 1, 5)], [NASTY, "cross_entropy"]),
        curve_section(
            [Series(NASTY, steps, [9, 8, 7], [8, 7, 6], [10, 9, 8]), Series("dispersion", steps, [9, float("inf"), 6])],
            f"step {NASTY}", f"perplexity {NASTY}", x_scale="steps", y_scale="log",
        ),
        trajectory_section([Trajectory(NASTY, steps, means), Trajectory("effective_rank", steps, means / 2)]),
        details_section(NASTY, {"texts": [NASTY, 1], "nested": {NASTY: 1}}, text=NASTY, command=f"decondense {NASTY}"),
        Section("Long", [Code("x" * 500), *text_section("", "y" * 500).blocks]),
    ]  # fmt: skip
    return write_page(tmp_path_factory.mktemp("page") / "report.html", NASTY, sections, subtitle=NASTY)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield opened
        opened.close()


class Visit:
    """A page that is open, and all that it said and asked for."""

    def __init__(self, page: Page, path: Path) -> None:
        self.page = page
        self.said: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]", timeout=60_000)


@pytest.fixture
def visit(browser: Browser, page_file: Path) -> Iterator[Callable[..., Visit]]:
    contexts = []

    def open_page(width: int = 1200, theme: str = "light", **options: Any) -> Visit:
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, **options))
        return Visit(contexts[-1].new_page(), page_file)

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def opened(browser: Browser, page_file: Path) -> Iterator[Page]:
    """The page for tests that only look at it: opening it takes seconds."""
    with browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme="light") as context:
        yield Visit(context.new_page(), page_file).page


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_is_quiet_whole_and_no_wider_than_the_screen(
    visit: Callable[..., Visit], page_file: Path, width: int, theme: str
) -> None:
    seen = visit(width, theme)
    page = seen.page
    for summary in page.locator("summary").all():
        summary.click()
    assert page.locator(".chart .cartesianlayer .subplot").count() == PLOTS
    assert page.locator(".chart .heatmaplayer image").count() == 2
    # Means and their edge over two heatmaps; two lines and an interval; seven layers of two arms.
    assert page.locator(".chart .scatterlayer .trace").count() == 2 * 2 + 3 + 2 * 7
    assert page.evaluate("document.documentElement.scrollWidth") == width
    ends = "all => all.map(one => one.getBoundingClientRect().right)"
    assert max(page.locator(".chart, .chart .svg-container").evaluate_all(ends)) <= width
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == rgb(style.THEMES[theme]["page"])
    assert seen.said == []
    assert [address for address in seen.requests if not address.startswith(("data:", "blob:"))] == [page_file.as_uri()]


def rgb(colour: str) -> str:
    return "rgb({}, {}, {})".format(*(int(colour[start : start + 2], 16) for start in (1, 3, 5)))


def test_what_comes_from_data_is_text_everywhere(opened: Page) -> None:
    assert opened.evaluate("window.hacked") is None
    assert opened.locator("img").count() == 0
    assert opened.title() == NASTY
    for place in ("h1", ".subtitle", "nav li:nth-child(2) a", "caption", "tbody th", "h3", ".legendtext"):
        assert opened.locator(place).first.text_content() == NASTY, place
    assert opened.locator(".xtitle", has_text=NASTY).count() == 1
    assert opened.locator(".ytitle", has_text=NASTY).count() == 1
    assert opened.locator("pre").first.text_content() == f"decondense {NASTY}"
    # Hovering shows the names as well, and there %{y} is a placeholder to plotly.
    plot = opened.locator(".chart:has(.legendtext)")
    plot.scroll_into_view_if_needed()
    box = plot.locator(".nsewdrag").bounding_box()
    assert box
    opened.mouse.move(box["x"] + 0.02 * box["width"], box["y"] + 0.3 * box["height"])
    opened.wait_for_selector(".hovertext")
    assert NASTY in (opened.locator(".hovertext").first.text_content() or "")
    assert opened.evaluate("window.hacked") is None


def test_markup_that_came_in_unescaped_could_not_run(visit: Callable[..., Visit]) -> None:
    page = visit().page
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "window.hacked = 1";
        document.body.append(script);
        const image = new Image();
        image.setAttribute("onerror", "window.hacked = 1");
        image.src = "data:,";
        document.body.append(image);
    }""")
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None


def test_the_button_changes_page_and_plots_and_back(visit: Callable[..., Visit]) -> None:
    page = visit().page
    line = ".chart:has(.legendtext) .scatterlayer path.js-line >> nth=-1"
    look = style.PALETTE[style.RESERVED["dispersion"]]
    for theme, colour in (("light", look.light), ("dark", look.dark), ("light", look.light)):
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == rgb(style.THEMES[theme]["page"])
        assert page.locator(line).evaluate("line => getComputedStyle(line).stroke") == rgb(colour)
        page.click("#theme")
        page.wait_for_timeout(200)


def test_nothing_offers_to_send_the_figures_away(opened: Page) -> None:
    titles = opened.locator(".modebar-btn").evaluate_all("all => all.map(one => one.dataset.title)")
    assert len(titles) == 2 * PLOTS
    assert {re.split(r"[ ,]", title)[0] for title in titles} == {"Download", "Reset"}


def test_a_finger_scrolls_over_plots(visit: Callable[..., Visit]) -> None:
    page = visit(400, has_touch=True, is_mobile=True).page
    assert page.locator(".modebar-btn").count() == 0
    assert (
        page.evaluate("[...document.querySelectorAll('.chart')].map(plot => plot.layout.dragmode)") == [False] * PLOTS
    )


def test_readers_who_do_not_see_are_told_the_same(opened: Page) -> None:
    descriptions = opened.locator(".chart[role=img]").evaluate_all("all => all.map(one => one.ariaLabel)")
    assert len(descriptions) == PLOTS
    assert all(re.search(r"\d\.\d\d|ends at 7", description) for description in descriptions)
    assert opened.locator("html[lang=en]").count() == 1
    tables = opened.locator("table")
    assert tables.count() == 1 + 1 + 1 + 2 + 1
    assert (
        opened.locator("table:has(caption):has(thead th[scope=col]):has(tbody th[scope=row])").count() == tables.count()
    )
    assert opened.locator("h1").count() == 1
    names = opened.locator("[id]").evaluate_all("all => all.map(one => one.id)")
    assert len(set(names)) == len(names)


def test_the_numbers_under_a_plot_are_those_that_were_given(opened: Page) -> None:
    rows = opened.locator("details:has-text('perplexity') table").first.locator("tbody tr")
    cells = [row.locator("th, td").all_text_contents() for row in rows.all()]
    assert cells == [["0", "9 [8, 10]", "9"], ["10", "8 [7, 9]", "inf"], ["100", "7 [6, 8]", "6"]]


def test_paper_gets_light_plots_that_fit_it_and_the_screen_gets_its_own_back(visit: Callable[..., Visit]) -> None:
    page = visit(theme="dark").page
    widths = "[...document.querySelectorAll('.chart .main-svg')].map(x => x.getBoundingClientRect().width)"
    line = page.locator(".chart:has(.legendtext) .scatterlayer path.js-line >> nth=-1")
    look = style.PALETTE[style.RESERVED["dispersion"]]
    before = page.evaluate(widths)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    # A4 is 794 CSS pixels wide, its margins here 14 mm (53 pixels) each: 688 are left.
    assert max(page.evaluate(widths)) <= 688
    assert line.evaluate("line => line.style.stroke") == rgb(look.light)
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(widths) == before
    assert line.evaluate("line => line.style.stroke") == rgb(look.dark)


def test_the_script_of_plotly_is_there_once(page_file: Path) -> None:
    text = page_file.read_text(encoding="utf-8")
    assert len(re.findall(r"\* plotly\.js v\d", text)) == 1
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=", text)


def test_a_page_without_sections_is_refused_and_an_old_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(UserError, match="at least one section"):
        write_page(path, "title", [])
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("report.html", "old")]


def test_a_page_without_plots_does_without_the_script_of_plotly(browser: Browser, tmp_path: Path) -> None:
    path = write_page(tmp_path / "report.html", "Only words", [text_section("Words", "Some.")])
    seen = Visit(browser.new_page(), path)
    assert seen.page.locator("main p").all_text_contents() == ["Some."]
    assert seen.said == []
    assert path.stat().st_size < 50_000
    seen.page.close()
