"""Reads a page as strictly as a validator does, as far as our pages go: what it does not know it refuses."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = frozenset({"meta", "br", "hr", "img", "input", "link"})
PHRASING = frozenset({"a", "abbr", "b", "br", "code", "em", "small", "span", "strong", "svg", "time"})
FLOW = PHRASING | {"p", "div", "section", "h1", "h2", "h3", "h4", "ul", "ol", "dl", "table", "figure", "details", "pre"}
CONTENT = {
    "": {"html"},
    "html": {"head", "body"},
    "head": {"meta", "title", "style"},
    "body": FLOW | {"header", "main", "footer", "nav"},
    **dict.fromkeys(("header", "main", "section", "footer"), FLOW),
    **dict.fromkeys(("div", "td", "li", "dd"), FLOW | {"dt", "dd"}),
    **dict.fromkeys(("p", "h1", "h2", "h3", "h4", "dt", "pre", "th", "caption"), PHRASING),
    **dict.fromkeys(("code", "small", "span", "strong"), PHRASING),
    "summary": PHRASING,
    "figure": FLOW | {"figcaption"},
    "figcaption": FLOW,
    "details": FLOW | {"summary"},
    "ul": {"li"},
    "ol": {"li"},
    "dl": {"div", "dt", "dd"},
    "table": {"caption", "thead", "tbody"},
    "thead": {"tr"},
    "tbody": {"tr"},
    "tr": {"th", "td"},
    "svg": {"title", "desc", "defs", "g", "rect", "path", "text"},
    "defs": {"pattern"},
    "pattern": {"rect", "path"},
    "rect": {"title"},
    "path": {"title"},
}  # fmt: skip
TEXT = frozenset({"title", "desc", "text", "style"})
BOOLEAN = frozenset({"open"})


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.referred: list[str] = []
        self.doctype = ""

    def handle_decl(self, decl: str) -> None:
        assert not self.open
        self.doctype = decl

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._enter(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, f"<{tag}/> outside of a drawing"
        self._enter(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> ends nothing"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()} ends another element"

    def handle_data(self, data: str) -> None:
        parent = self.open[-1] if self.open else ""
        if data.strip():
            may_be_here = parent in TEXT or CONTENT.get(parent, set()) >= PHRASING
            assert may_be_here, f"text in <{parent}> at {self.getpos()}: {data!r}"

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"declaration {data!r}")

    def _enter(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        parent = self.open[-1] if self.open else ""
        assert tag in CONTENT.get(parent, set()), f"<{tag}> in <{parent}> at {self.getpos()}"
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute of <{tag}> twice"
        for name, value in attrs:
            assert name in BOOLEAN or value is not None, f"{name} of <{tag}> has no value"
            assert not name.startswith("on"), f"{name} of <{tag}>: a script"
            assert name not in ("style", "src", "href", "action", "srcset"), f"{name} of <{tag}>"
            if name == "id":
                self.ids.append(str(value))
            if name in ("aria-labelledby", "aria-describedby", "for"):
                self.referred += str(value).split()


def check_page(text: str) -> None:
    """Fail unless ``text`` is a whole HTML page in which all is where it may be, without script, link or resource."""
    page = _Page()
    page.feed(text)
    page.close()
    assert page.doctype == "DOCTYPE html"
    assert not page.open, f"never ended: {page.open}"
    assert len(page.ids) == len(set(page.ids)), "an id twice"
    assert set(page.referred) <= set(page.ids), "an id that is referred to is not there"
    assert "://" not in text, "an address of elsewhere"
