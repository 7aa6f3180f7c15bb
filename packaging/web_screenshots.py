"""Takes the pictures of docs/web.md: the pages of ``policyd-rate-limit web`` about a made-up mail server.

    python packaging/web_screenshots.py docs/web

It needs Chromium, the Python package playwright, and for small files pngquant; the names of the pictures stay.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.daemon import running
from support.web_made_up import CALLER, RULES, made_up
from support.web_site import PASSWORD, World

if TYPE_CHECKING:
    from typing import Literal

    from playwright.sync_api import Browser, Page

CHROMIUM = "/usr/bin/chromium"
WIDE, NARROW = (1280, 900), (390, 844)
MOST_BYTES = 60_000


@contextlib.contextmanager
def served(world: World) -> Iterator[str]:
    """The site of ``world`` at an address of this host."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(world.app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://localhost:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def opened(browser: Browser, at: str, size: tuple[int, int], scheme: Literal["light", "dark"], language: str) -> Page:
    """A page of somebody who has logged in."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, locale=language, reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(f"{at}/login")
    page.fill("#name", "mona")
    page.fill("#password", PASSWORD)
    page.press("#password", "Enter")
    page.wait_for_selector("#limited")
    while page.locator(".notice", has_text="still being read").count():
        page.reload()
    return page


def take(directory: Path) -> None:
    """Take all of them."""
    with tempfile.TemporaryDirectory() as name, made_up(Path(name)) as settings:
        with contextlib.closing(sqlite3.connect(settings.sqlite_config["database"])) as database:
            database.execute("DELETE FROM policyd_daemon")  # the pictures are of a day on which all is well
            database.commit()
        world = World(Path(name), url=None, settings=settings)
        world.add("mona")
        with running(Path(name), **RULES), served(world) as at, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = opened(browser, at, WIDE, "light", "en")
            page.screenshot(path=directory / "now.png")
            page.goto(f"{at}/id?of={CALLER}")
            page.screenshot(path=directory / "one-id.png")
            page.goto(f"{at}/change/raise?of={CALLER}")
            page.fill("#limits", "200/1d 60/1h")
            page.fill("#note", "ticket 4711: invitations to the summer school")
            page.click("button.main >> nth=-1")
            page.set_viewport_size({"width": 900, "height": 620})
            page.screenshot(path=directory / "confirm.png")
            page = opened(browser, at, NARROW, "dark", "de")
            page.screenshot(path=directory / "telephone-dark.png")
            browser.close()
        world.close()
    for path in directory.glob("*.png"):
        quantizer = shutil.which("pngquant")
        if quantizer is not None:
            subprocess.run([quantizer, "--force", "--ext", ".png", "--speed", "1", "48", path], check=True)  # noqa: S603
        print(f"{path}: {path.stat().st_size} bytes{', too large' if path.stat().st_size > MOST_BYTES else ''}")


if __name__ == "__main__":
    take(Path(sys.argv[1]))
