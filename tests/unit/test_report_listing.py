"""How the report reads, in text and in HTML."""

from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit.mail.message import compose
from policyd_rate_limit.report.listing import MOST_ROWS, Row, as_html, as_text

DAY = 86_400
ROWS = [
    Row("user:bob", 60, 3, 1_700_000_000),
    Row("client:2001:db8::/64", DAY, 7, 1_700_000_100),
    Row("user:bob", DAY, 40, 1_700_000_200, 150),
    Row("sender:häns@example.org", 3600, 3, 0),
]


class Table(HTMLParser):
    """The cells of a table, and every tag that was opened."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        if tag != "meta":
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def test_text_is_sorted_by_hits() -> None:
    lines = as_text(ROWS, "mail.test").splitlines()
    assert lines[0] == "3 ids ran into a limit on mail.test since the last report, 53 times in all."
    assert lines[2].split() == ["hits", "limit", "last", "id"]
    assert [line.split()[:2] for line in lines[3:]] == [["40", "150/1d"], ["7", "1d"], ["3", "1h"], ["3", "1m"]]
    assert [line[52:] for line in lines[3:]] == [
        "bob (SASL user)",
        "2001:db8::/64 (client)",
        "häns@example.org (sender)",
        "bob (SASL user)",
    ]
    assert "2023-11-1" in lines[3]
    assert "20" not in lines[5]  # nobody knows when


def test_html_says_the_same() -> None:
    table = Table(as_html(ROWS, "mail.test"))
    assert not table.open
    assert "3 ids ran into a limit on mail.test" in table.text
    head, *rows = table.rows
    assert head == ["id", "limit", "hits", "last"]
    assert [row[:3] for row in rows] == [
        ["bob (SASL user)", "150/1d", "40"],
        ["2001:db8::/64 (client)", "1d", "7"],
        ["häns@example.org (sender)", "1h", "3"],
        ["bob (SASL user)", "1m", "3"],
    ]


def test_nobody() -> None:
    assert as_text([], "mail.test") == "Nobody ran into a limit on mail.test since the last report.\n"
    table = Table(as_html([], "mail.test"))
    assert "Nobody ran into a limit on mail.test" in table.text
    assert not table.rows


def test_one() -> None:
    assert as_text([Row("user:a", 60, 1, 0)], "m").startswith(
        "1 id ran into a limit on m since the last report, 1 time in"
    )


def test_a_report_is_bounded() -> None:
    rows = [Row(f"user:{'x' * 100_000}{number}", 60, 2 + number % 7, 0) for number in range(MOST_ROWS + 5)]
    rows[-1] = Row("user:last", 60, 1, 0)
    text, html = as_text(rows, "m"), as_html(rows, "m")
    assert text.splitlines()[-1] == html.splitlines()[-2].removeprefix("<p>").removesuffix("</p>")
    others = sorted(row.hits for row in rows)[:5]
    assert text.endswith(f"\n5 more, with {sum(others)} hits in all, are not shown.\n")
    assert len(Table(html).rows) == MOST_ROWS + 1
    assert len(text.splitlines()) == MOST_ROWS + 5
    assert "user:last" not in text
    assert len(text) < MOST_ROWS * 300
    assert len(html) < MOST_ROWS * 400


def test_a_key_of_no_known_kind_is_shown_as_it_is() -> None:
    assert "  x:y\n" in as_text([Row("x:y", 60, 1, 0), Row("alice", 61, 2, 0)], "m")


@given(
    st.text(max_size=300) | st.binary(max_size=300).map(lambda data: data.decode("utf-8", "surrogateescape")),
    st.integers(1, 2**53),
    st.integers(1, 2**62),
    st.integers(0, 2**62),
)
def test_whatever_a_client_sends(name: str, seconds: int, hits: int, last: int) -> None:
    """It forges no line and no element, and the mail can be sent."""
    rows = [Row(f"user:{name}", seconds, hits, last), Row("user:other", 60, hits + 1, 1)]
    text, html = as_text(rows, "m"), as_html(rows, "m")
    assert len(text.splitlines()) == 5
    assert all(line.isprintable() for line in text.splitlines())
    assert Table(html).tags == Table(as_html([Row("user:a", 60, 1, 1), Row("user:b", 60, 1, 1)], "m")).tags
    assert [len(row) for row in Table(html).rows] == [4, 4, 4]
    data = compose("a@example.org", "b@example.org", "report", 0, text, html=html).as_bytes()
    assert data.isascii()
    assert max(map(len, data.split(b"\r\n"))) <= 998
