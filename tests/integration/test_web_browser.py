"""The pages in a real browser: a help desk's day beside a daemon under load, without script, by keyboard, for all."""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from policyd_rate_limit.admin import overrides
from policyd_rate_limit.admin.opening import open_desk
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.storage.administration import Actor
from support import browser as a_browser
from support.browser import Scheme, barriers, overflow
from support.commands import ask
from support.daemon import Client, admitted, configuration, free_port, running
from support.load import Background
from support.stores_for_daemons import STORES
from support.wait import wait_until
from support.web_made_up import CALLER, RULES, STOLEN, fill, settings_in
from support.web_process import ANNA, WebProcess

SEEN_WITHIN = 20_000.0
"""Milliseconds in which the page has to show what has just happened, on a machine that is very busy."""

MOST_TABS = 60

FOCUSED = """wanted => {
  const one = document.activeElement, box = one.getBoundingClientRect();
  return [getComputedStyle(one).outlineStyle, box.width, box.height, one === wanted];
}"""
"""How what has the focus is marked, how large it is, and whether it is the one that is wanted."""

LONG = f"{'x' * 150}@{'y' * 60}.example.org"
"""An id without a place where a line may be broken, set by somebody of such a name with such a note."""

FEW = {"rules": {"usual": {"key": "sasl_username", "limits": "5/1h"}}}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=SEEN_WITHIN)
    with a_browser.started() as found:
        yield found


@contextlib.contextmanager
def serving(directory: pathlib.Path, **settings: Any) -> Iterator[str]:
    """The pages for daemons with ``settings``, in a process of their own: where they are."""
    port = free_port()
    with WebProcess(directory / "web", **{**settings, "web_address": ["127.0.0.1", port], "web_url": None}):
        yield f"http://localhost:{port}"


@contextlib.contextmanager
def visiting(
    browser: Browser, at: str, *, width: int = 1280, scheme: Scheme = "light", script: bool = True
) -> Iterator[Page]:
    """A page of somebody who has logged in; all that it asks for is of this site, and nothing complains."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
        locale="en",
        reduced_motion="reduce",
        java_script_enabled=script,
    )
    page = context.new_page()
    page.set_default_timeout(SEEN_WITHIN)
    foreign: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: foreign.append(request.url) if not request.url.startswith(at) else None)
    # That a form had mistakes is no fault of the page.
    page.on(
        "console",
        lambda message: (
            said.append(message.text)
            if message.type in ("error", "warning") and "status of 422" not in message.text
            else None
        ),
    )
    page.on("pageerror", lambda error: said.append(str(error)))
    try:
        page.goto(at)
        page.get_by_label("Name").fill("anna")
        page.get_by_label("Password").fill(ANNA)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("heading", name="Now", exact=True)).to_be_visible()
        yield page
        assert (foreign, said) == ([], [])
    finally:
        context.close()


def confirm(page: Page, link: str, yes: str, **fields: str) -> None:
    """Follow ``link``, fill the form, go on, read what will happen, and say ``yes``."""
    page.get_by_role("link", name=link).click()
    for label, text in {**fields, "Note": "ticket 4711"}.items():
        page.get_by_label(label).fill(text)
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_text("Nothing has been changed yet.")).to_be_visible()
    page.get_by_role("button", name=yes).click()
    expect(page.get_by_role("status")).to_be_visible()


@pytest.mark.long(8)
@pytest.mark.parametrize("store", ["sqlite", "postgresql", "redis"])
def test_a_help_desks_day(browser: Browser, tmp_path: pathlib.Path, store: str) -> None:
    """Somebody calls; the daemon answers others all the while."""
    others = (f"other{number % 500}@example.org" for number in itertools.count())
    caller = "bob@example.org"
    with (
        STORES[store](tmp_path) as empty,
        running(tmp_path / "host", **FEW, **empty.settings) as daemon,
        Client(daemon.address) as client,
        Background([daemon.address], others, connections=4, rate=100.0) as load,
        serving(tmp_path, **daemon.settings) as at,
        visiting(browser, at) as page,
    ):
        page.clock.install()
        page.goto(at)
        assert admitted(client, caller, 7, queue_id="4ZkBcD1234z", client_address="192.0.2.77") == 5
        limited = page.get_by_role("region", name=re.compile("Limited"))

        def shows_who_is_limited() -> bool:
            page.clock.run_for(5_000)
            return limited.get_by_role("link", name=caller).count() == 1

        wait_until(shows_who_is_limited, "it comes without a reload", step=0.2)
        page.clock.resume()

        page.get_by_label("User, address, network or queue id").fill("BOB@example.org")
        page.get_by_role("button", name="Search").click()
        expect(page.get_by_role("heading", name="BOB@example.org")).to_be_visible()
        expect(page.get_by_text("5 of 5 recipients in any hour, 100 %")).to_be_visible()
        wait_until(
            lambda: page.reload() and page.get_by_role("cell", name="192.0.2.77").count(),
            "the refusals are written",
            step=0.3,
        )

        confirm(page, "Give other limits", "Yes, give these limits", Limits="8/1h", **{"For how long": "8h"})
        expect(page.get_by_role("status")).to_contain_text("has other limits until")
        expect(page.get_by_text("5 of 8 recipients in any hour, 62 %")).to_be_visible()
        wait_until(lambda: admitted(client, caller, 1), "the daemon has the other limits")

        confirm(page, "Block", "Yes, block", **{"For how long": "2d"})
        expect(page.get_by_role("heading", name="Rule usual blocked")).to_be_visible()
        wait_until(lambda: not admitted(client, caller, 1), "the daemon has the block")

        confirm(page, "End what is set", "Yes, end it")
        confirm(page, "Take back what was counted", "Yes, take it back")
        expect(page.get_by_text(re.compile("0 of 5 recipients in any hour"))).to_be_visible()
        wait_until(lambda: admitted(client, caller, 1), "the daemon lets it pass")

        page.get_by_role("link", name="Changes").click()
        rows = page.get_by_role("row").filter(has_text=caller)
        expect(rows).to_have_count(4)
        for row, action in zip(rows.all(), ("take back", "end", "block", "other limits"), strict=True):
            expect(row).to_contain_text(action)
            expect(row).to_contain_text("anna web 127.0.0.1")
            expect(row).to_contain_text("ticket 4711")
        page.get_by_role("link", name="Refusals").click()
        expect(page.get_by_role("row").filter(has_text=caller)).to_have_count(1)
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        page.go_back()
        page.reload()
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()

        entries = ask(daemon.path, "audit")["entries"]
        assert [one["action"] for one in entries] == ["reset", "revoke", "block", "allow"]
        assert {(one["who"], one["from_where"], one["note"]) for one in entries} == {
            ("anna", "web 127.0.0.1", "ticket 4711")
        }
        assert not load.tally.others


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Pages about a made-up mail server, where no daemon runs."""
    directory = tmp_path_factory.mktemp("town")
    settings = settings_in(directory)
    fill(settings)
    with open_desk(settings, as_account=False) as desk:
        overrides.override(
            desk, LONG, (Limit(7, 3_600),), 3_600, "n" * 300, by=Actor("w" * 60, f"web {'2001:db8:' * 4}")
        )
    with serving(directory, **configuration(directory, **RULES)) as at:
        yield at


@pytest.mark.long(20)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_every_page_is_for_everybody(browser: Browser, town: str, width: int, scheme: Scheme) -> None:
    """WCAG 2.2 AA, as far as axe-core knows it; and nothing is cut off, at 320 pixels neither (1.4.10)."""
    with visiting(browser, town, width=width, scheme=scheme) as page:
        who = quote(CALLER)
        addresses = {"light": ["/", f"/id?of={who}", "/rules", "/audit"], "dark": ["/", "/refusals", "/search?q=ann"]}
        expect(page.get_by_role("link", name=CALLER)).to_have_count(1)
        for address in addresses[scheme]:
            page.goto(f"{town}{address}")
            assert barriers(page) == [], address
            for narrow in (320, 640):  # 640: 1280 at 200 %
                page.set_viewport_size({"width": narrow, "height": 900})
                assert overflow(page) == 0, (address, narrow)
            page.set_viewport_size({"width": width, "height": 900})
            assert overflow(page) == 0, address
        page.goto(f"{town}/change/raise?of={who}")
        page.get_by_label("Limits").fill("many")
        page.get_by_role("button", name="Go on").click()
        expect(page.get_by_role("alert")).to_contain_text("2 fields are not as they should be")
        assert barriers(page) == [], "a form with mistakes"
        page.get_by_role("alert").get_by_role("link").first.click()
        expect(page.get_by_label("Limits")).to_be_focused()
        page.get_by_label("Limits").fill("50/1h")
        page.get_by_label("Note").fill("why")
        page.get_by_role("button", name="Go on").click()
        assert barriers(page) == [], "what will happen"
        assert overflow(page) == 0
        page.get_by_role("link", name="No, change nothing").click()
        page.get_by_role("link", name="Deutsch").click()
        expect(page.get_by_role("heading", name="Wie es steht")).to_be_visible()
        assert page.locator("html").get_attribute("lang") == "de"


def test_without_script_all_is_there_but_that_it_comes_by_itself(browser: Browser, town: str) -> None:
    with visiting(browser, town, script=False) as page:
        expect(page.get_by_role("button", name="Pause updates")).to_be_hidden()
        page.get_by_role("region", name=re.compile("Limited")).get_by_role("link", name=CALLER).click()
        confirm(page, "Block", "Yes, block", **{"For how long": "1h"})
        expect(page.get_by_role("status")).to_contain_text(f"user:{CALLER} is blocked until")
        confirm(page, "End what is set", "Yes, end it")
        expect(page.get_by_role("status")).to_contain_text("has ended")
        page.get_by_text("The same as a table").click()
        expect(page.get_by_role("region", name=re.compile("Sent and refused"))).to_be_visible()


def test_by_keyboard_alone(browser: Browser, town: str) -> None:
    """From the first page to a change: each step is reached by Tab, is seen to have the focus, and is done by Enter."""

    def reach(page: Page, wanted: Locator) -> None:
        for _ in range(MOST_TABS):
            page.keyboard.press("Tab")
            outline, width, height, is_wanted = wanted.evaluate(FOCUSED)
            assert outline != "none", "the focus is not seen"
            assert min(width, height) >= 16, "the target is too small"
            if is_wanted:
                return
        raise AssertionError(f"{wanted} is not reached by Tab")

    with visiting(browser, town) as page:
        page.goto(town)
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
        page.keyboard.press("Enter")
        expect(page.get_by_role("main")).to_be_focused()
        page.goto(town)
        reach(page, page.get_by_label("User, address, network or queue id"))
        page.keyboard.type(STOLEN)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Rule usual blocked")).to_be_visible()
        reach(page, page.get_by_role("link", name="End what is set"))
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name=f"End what is set for {STOLEN}")).to_be_visible()
        reach(page, page.get_by_label("Note"))
        page.keyboard.type("a new password")
        reach(page, page.get_by_role("button", name="Go on"))
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name=f"End what is set for {STOLEN}?")).to_be_visible()
        reach(page, page.get_by_role("link", name="No, change nothing"))
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Rule usual blocked")).to_be_visible()


def test_what_changes_by_itself_takes_no_focus_and_can_be_paused(browser: Browser, town: str) -> None:
    with visiting(browser, town) as page:
        page.clock.install()
        page.goto(town)
        link = page.get_by_role("link", name="hanna@example.org")
        link.focus()
        link.evaluate("one => { one.dataset.old = 'yes'; }")
        with page.expect_response("**/now"):
            page.clock.run_for(5_000)
        expect(page.locator("[data-old]")).to_have_count(0)
        expect(link).to_be_focused()
        page.get_by_role("button", name="Pause updates").press("Space")
        expect(page.get_by_role("button", name="Pause updates")).to_have_attribute("aria-pressed", "true")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.clock.run_for(20_000)
        assert asked == []
        page.get_by_role("button", name="Pause updates").press("Space")
        with page.expect_response("**/now"):
            page.clock.run_for(5_000)
        page.clock.fast_forward(16 * 60_000)
        page.clock.run_for(5_000)
        expect(page.get_by_role("button", name="Pause updates")).to_have_attribute("aria-pressed", "true")
        before = len(asked)
        page.clock.run_for(60_000)
        assert len(asked) == before, "a page that nobody touches does not keep its login alive"
        page.get_by_role("button", name="Pause updates").press("Space")
        page.context.clear_cookies()  # the session has ended
        page.clock.run_for(5_000)
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
