"""The pages of ``simulate`` and ``suggest`` in a real browser: nothing leaves them, all is seen, nobody is left out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Browser

from policyd_rate_limit.maillog.mail import Mail
from policyd_rate_limit.rehearsal import page as rehearsal_page
from policyd_rate_limit.rehearsal import suggestion_page
from policyd_rate_limit.rehearsal.learning import learn
from policyd_rate_limit.rehearsal.observing import SUBJECTS
from policyd_rate_limit.rehearsal.suggested_file import configuration
from policyd_rate_limit.rehearsal.suggestion import WINDOWS, suggest
from support import browser as a_browser
from support.browser import Scheme, barriers, opened, overflow
from support.organisation import MONDAY, WEEK, Organisation
from support.rehearsed import rehearsed, settings_of

ZONE = ZoneInfo("Europe/Berlin")
NOW = MONDAY + WEEK
LONG = "somebody.with.a.very.long.name@a.department.with.a.long.name.too.example.org"
NEW = "rules: {person: {key: sasl_username, limits: 20/1d}, volume: {key: sasl_domain, limits: 900/1d, shadow: true}}"
OLD = "rules: {person: {key: sasl_username, limits: 100/1d}}"

SEEN: Sequence[tuple[int, Scheme]] = list(itertools.product((1280, 400), ("light", "dark")))

ASKED = ((1280, "dark"), (400, "light"))
"""Both schemes and both widths, in half of the time."""


@pytest.fixture(scope="module")
def mails() -> list[Mail]:
    found = Organisation(300).week()
    for mail in found[::40]:
        mail.sasl_username = LONG
    return found


@pytest.fixture(scope="module")
def pages(mails: list[Mail], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("pages")
    found = {name: directory / f"{name}.html" for name in ("rehearsal", "suggestion")}
    rehearsal_page.write_page(found["rehearsal"], rehearsed(NEW, mails, old=OLD), ZONE, NOW)
    observation, _ = learn(settings_of("{}"), mails, ZONE, SUBJECTS, WINDOWS)
    suggestion = suggest(observation)
    text = configuration(suggestion, ZONE, NOW)
    suggestion_page.write_page(
        found["suggestion"], suggestion, text, ZONE, NOW, {"lines": 5}, {"mail.log": "ends early"}
    )
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with a_browser.started() as found:
        yield found


@pytest.mark.parametrize("name", ["rehearsal", "suggestion"])
@pytest.mark.parametrize(("width", "scheme"), SEEN)
def test_a_page_is_seen_by_everybody_and_asks_for_nothing(
    browser: Browser, pages: dict[str, Path], name: str, width: int, scheme: Scheme
) -> None:
    url = pages[name].as_uri()
    with opened(browser, url, width, scheme) as (page, seen):
        assert seen == [url]
        assert overflow(page) == 0
        if width >= 1280:
            scrolled = "all => all.filter(one => one.scrollWidth > one.clientWidth).map(one => one.ariaLabel)"
            assert page.locator(".scroll:visible").evaluate_all(scrolled) == []
        if (width, scheme) in ASKED:
            assert barriers(page) == []
        drawn = page.locator("svg.plot:visible")
        assert drawn.count() >= 2
        assert drawn.count() == page.locator("svg.plot").count() / 2, "each is drawn for one width at a time"
        # Text of a plot is as large as it was drawn for, on a telephone as well.
        scales = drawn.evaluate_all(
            "all => all.map(one => one.getBoundingClientRect().width / one.viewBox.baseVal.width)"
        )
        assert min(scales) > 0.9
        cut_off = page.evaluate(
            """() => [...document.querySelectorAll('svg.plot')].filter(one => one.checkVisibility()).flatMap(one => {
                const frame = one.getBoundingClientRect();
                return [...one.querySelectorAll('text')].filter(text => {
                    const box = text.getBoundingClientRect();
                    return box.left < frame.left - 1 || box.right > frame.right + 1;
                }).map(text => text.textContent);
            })"""
        )
        assert cut_off == []
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") is (scheme == "light")


def test_figures_are_there_as_a_table_and_by_keyboard(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["rehearsal"].as_uri(), 400, "light", java_script_enabled=False) as (page, _):
        summary = page.locator("summary", has_text="The same figures as a table").first
        summary.focus()
        page.keyboard.press("Enter")
        table = page.get_by_role("region", name="Mails and refusals over time, as a table")
        assert table.get_by_role("columnheader").all_inner_texts() == [
            "from",
            "mails",
            "refused, new",
            "refused, before",
        ]


def test_in_print_it_is_dark_on_white_in_either_scheme(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["suggestion"].as_uri(), 1000, "dark") as (page, _):
        page.emulate_media(media="print", color_scheme="dark")
        colours = "one => [getComputedStyle(one).backgroundColor, getComputedStyle(one).color]"
        assert page.locator("body").evaluate(colours) == ["rgb(255, 255, 255)", "rgb(0, 0, 0)"]
        ink = page.locator("svg.plot:visible .plot-label").first.evaluate("one => getComputedStyle(one).fill")
        assert ink == "rgb(0, 0, 0)"
