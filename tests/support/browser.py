"""A real browser, Debian's Chromium, and what every page of ours has to keep to in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]  # it has no types
from playwright.sync_api import Browser, Page, sync_playwright

from support.programs import require

Scheme = Literal["light", "dark"]

_STANDARDS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@contextlib.contextmanager
def started() -> Iterator[Browser]:
    """The browser, while this lasts. As root it runs without its sandbox, or not at all."""
    path = require("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened(browser: Browser, url: str, width: int, scheme: Scheme, **how: Any) -> Iterator[tuple[Page, list[str]]]:
    """The page at ``url`` in a window so many CSS pixels wide; and all that it has asked for, or complained of."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **how)
    try:
        page = context.new_page()
        seen: list[str] = []
        page.on("request", lambda request: seen.append(request.url))
        page.on("console", lambda message: seen.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: seen.append(f"error: {error}"))
        page.goto(url)
        yield page, seen
    finally:
        context.close()


def overflow(page: Page) -> int:
    """How many CSS pixels the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def barriers(page: Page) -> list[str]:
    """What axe-core has to say against the page, by WCAG 2.2 AA and its own best practice: each with its element."""
    found = Axe().run(page, options={"runOnly": {"type": "tag", "values": _STANDARDS}, "resultTypes": ["violations"]})
    return [
        f"{violation['id']}: {violation['help']}: {node['html'][:200]}"
        for violation in found.response["violations"]
        for node in violation["nodes"]
    ]
