"""What a browser makes of a page of ``policyd-rate-limit web``, without one."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from httpx import Response
from starlette.testclient import TestClient

from support.web_site import PASSWORD

VOID = frozenset({"meta", "link", "input", "br"})
INLINE = frozenset({"a", "b", "span", "time"})
HARMFUL = frozenset({"img", "iframe", "object", "embed", "base", "b0ld"})


class Page(HTMLParser):
    """A page that is well-formed. ``fields`` are those of its form, not of the search; ``text`` is without markup."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self.title = ""
        self.links: list[str] = []
        self.fields: dict[str, str] = {}
        self.action = ""
        self.ids: list[str] = []
        self.referred: list[str] = []
        self.headings: list[int] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self._form = ""
        self._textarea = ""
        self.feed(markup)
        self.close()
        assert not self._open, f"not closed: {self._open}"
        assert len(self.ids) == len(set(self.ids)), "an id twice"
        assert not set(self.referred) - set(self.ids), "labels, descriptions and links to what is not there"
        self.text = " ".join(self.text.split())  # also where lines are not to be broken

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.text += "" if tag in INLINE else " "
        given = {name: value or "" for name, value in attrs}
        assert len(given) == len(attrs), f"an attribute twice: {attrs}"
        assert tag not in HARMFUL, f"<{tag}> is of no page of ours: {attrs}"
        assert not [name for name in given if name.startswith("on")], f"a script in an attribute: {attrs}"
        assert "style" not in given, "the policy of the site forbids styles in attributes"
        if "id" in given and "svg" not in self._open:
            self.ids.append(given["id"])
        for name in ("for", "aria-labelledby", "aria-describedby"):
            if name in given and "svg" not in self._open and tag != "svg":
                self.referred += given[name].split()
        self._meet(tag, given)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self._open, f"<{tag}/> outside of a drawing"
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        self.text += "" if tag in INLINE else " "
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "title" and "svg" not in self._open:
            self.title += data
        elif self._open and self._open[-1] == "textarea":
            self.fields[self._textarea] = data
        elif "svg" not in self._open:
            self.text += data

    def _meet(self, tag: str, given: dict[str, str]) -> None:
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        elif tag == "a":
            self.links.append(given["href"])
            if given["href"].startswith("#"):
                self.referred.append(given["href"][1:])
        elif tag == "script":
            self.scripts.append(given["src"])
        elif tag == "form":
            self._form = given["action"]
            if given.get("method") == "post" and self._form != "/logout":
                self.action = self._form
        elif tag == "textarea":
            self._textarea = given["name"]
            self.fields[self._textarea] = ""
        elif tag == "select":
            self.fields[given["name"]] = ""
        elif tag == "input" and self._form == self.action and self.action:
            self.fields[given["name"]] = given.get("value", "")


def page(answer: Response, status: int = 200) -> Page:
    """The page that ``answer`` is."""
    assert answer.status_code == status, answer.text.partition("<main")[2][:2000]
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    found = Page(answer.text)
    assert found.headings[:1] == [1], "the first heading is that of the page"
    assert found.headings.count(1) == 1
    steps = zip(found.headings, found.headings[1:], strict=False)
    assert all(after <= before + 1 for before, after in steps), f"a level of headings left out: {found.headings}"
    return found


def log_in(browser: TestClient, name: str) -> TestClient:
    """``browser``, once ``name`` has logged in with it."""
    answer = browser.post("/login", data={"name": name, "password": PASSWORD})
    assert answer.status_code == 303, answer.text
    return browser
