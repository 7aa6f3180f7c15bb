"""Every word of every page comes from the texts of its language, whatever there is to show; or it is somebody's own."""

from __future__ import annotations

import re
import string
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import quote

import pytest
from httpx import Response
from starlette.testclient import TestClient

from policyd_rate_limit import config
from policyd_rate_limit.admin import overrides
from policyd_rate_limit.admin.opening import open_desk
from policyd_rate_limit.domain.limits import BLOCKED, Limit
from policyd_rate_limit.language.catalogue import ENGLISH, Text, texts_of
from policyd_rate_limit.storage.administration import Actor, HitDetails, HourOfHits, OriginalHits, Override
from policyd_rate_limit.storage.heartbeat import Heartbeat
from policyd_rate_limit.storage.log import daemons as of_log
from policyd_rate_limit.storage.log.administration import LogAdministration
from policyd_rate_limit.web import rendering
from policyd_rate_limit.web.wording import Wording
from support.daemon import configuration, write_configuration
from support.mmdb import write_mmdb
from support.wait import wait_until
from support.web_pages import log_in
from support.web_site import World

HOUR = 3_600
VISIBLE = ("aria-label", "placeholder", "data-label", "title", "alt")
"""The attributes that people see or hear."""

OWN = frozenset(
    {
        *("mona", "dora", "vera", "root", "mx", "web", "testclient"),  # who, and from where
        *("sender", "recipient", "time", "size"),  # attributes of Postfix
        *("hold", "discard", "prepend", "warn", "dunno", "info", "filter", "bcc", "redirect"),  # of access(5)
        *("RCPT", "DATA", "END-OF-MESSAGE"),
        *("staff", "plan", "business", "customer", "zebra"),  # tables, and what one says
        *("unlimited", "operate", "UTC", "AC", "ac", "SQLite", "kB", "MB", "h", "d", "w"),
        *("user", "client", "server", "country", "limits"),  # kinds, as in user:alice; a setting
    }
)  # fmt: skip
"""Words of this server that are the same in each language, where they are no names with a sign or a digit in them."""

ENGLISH_WORDS = re.compile(
    r"\b(the|of|in any|is|are|were|may|not|with|and|or|from|by|until|no|none|per|each|all|mails? back|refused"
    r"|known|expected|nothing|since)\b"
)

LIMITED = "100/1h"
RULES = {
    "r1": {
        "key": "sasl_username",
        "limits": ["50/mail", "3/1h", "10/1d"],
        "warn": 80,
        "notify": ["a@b.example", "user"],
    },
    "r2": {"key": "sasl_domain", "limits": LIMITED, "count": "messages", "block": "90m", "action": "hold"},
    "r3": {"key": "sender", "limits": "10M/1d", "count": "bytes", "action": "450 4.7.1 {key}"},
    "r4": {"key": "sender_domain", "limits": "50/mail", "action": "554 5.7.1 {key}", "shadow": True, "block": "1h"},
    "r5": {"key": "recipient", "limits": "4/1w", "count": "distinct client_address", "action": "discard"},
    "r6": {"key": "recipient_domain", "limits": LIMITED, "action": "prepend X-1: 2"},
    "r7": {"key": "client_address", "limits": LIMITED, "action": "warn"},
    "r8": {"key": "client_address/24/56", "limits": LIMITED, "action": "dunno"},
    "r9": {"key": "country", "limits": LIMITED, "action": "filter x:1"},
    "r10": {"key": "server", "limits": [], "action": "redirect a@b.example"},
    "r11": {"key": "sasl_username+client_address", "limits": "5/2h", "action": "bcc a@b.example", "block": "1h"},
    "r12": {"key": "sasl_username|sender|server", "limits": "0/1d", "action": "defer_if_reject"},
    "r13": {"key": "sender+recipient", "limits": LIMITED, "shadow": True, "block": "1d"},
    "r14": {"key": "sender|recipient", "limits": LIMITED, "action": "info"},
    "r15": {"key": "$customer(sasl_domain)", "limits": LIMITED, "action": "x-1"},
    "r16": {"key": "sasl_username", "count": "distinct recipient", "limits": "2/1d"},
    "r17": {"key": "sasl_username", "count": "distinct helo_name", "limits": []},
    "r18": {"key": "sasl_username", "count": "distinct country", "limits": "1/1h", "overrides": {"x1": []}},
    "r19": {"key": "recipient", "limits": [], "overrides": {"": "0/1d", "/^a/": "2/1m"}},
    "r20": {
        "key": "sasl_username+$plan(sasl_username)",
        "limits": LIMITED,
        "overrides": [*({f"u{number}": []} for number in range(11)), "$tiers"],
        "match": [
            {"client_address": ["192.0.2.0/24", "198.51.100.7"], "sasl_username": ["", "*@x.example", "/^a/", "b1"]},
            {"time": "22:00-06:00", "$created(sasl_username)": ["<7d", ">30d"]},
        ],
        "unless": {"sasl_username": ["$staff", "$plan=business"], "recipient": [f"r{number}" for number in range(12)]},
    },
}
TABLES = {
    "staff": ["s1"],
    "plan": {"p1": "business"},
    "tiers": {"t1": "5/1h"},
    "customer": {"c1.example": "k1"},
    "created": {"c1": "2026-01-01"},
}
SHELL, WEB = Actor("root", "shell on mx"), Actor("mona", "web 192.0.2.17")
USER, NETWORK = "user:alice@c1.example", "client:192.0.2.0/24"
VERDICTS = ("refused", "marked", "would-refuse", "blocked", "would-block")


TO_FEW = ("/", "/rules", "/refusals", "/audit", f"/id?of={USER}", "/id?of=bob@c2.example", f"/change/block?of={USER}")
"""What is shown to those who may not see or change everything."""


class Seen(HTMLParser):
    """What people see or hear of a page, drawings too; each piece by itself."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._is_code = False
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._is_code = tag in ("style", "script")
        self.pieces += [value or "" for name, value in attrs if name in VISIBLE]

    def handle_endtag(self, tag: str) -> None:
        self._is_code = False

    def handle_data(self, data: str) -> None:
        if not self._is_code and data.strip():
            self.pieces.append(" ".join(data.split()))


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The site of a server with rules of all kinds, to which everything has happened that pages tell of."""
    directory = tmp_path_factory.mktemp("town")
    geoip = write_mmdb(directory / "c.mmdb", {"192.0.2.0/24": "AC"})
    written = configuration(
        directory,
        fail_action="450 x-1",
        limits="7/1h",
        limits_by_id={"x1": []},
        rules=RULES,
        tables=TABLES,
        geoip=str(geoip),
    )
    settings = config.load(write_configuration(directory, written)).settings
    town = World(directory, settings=settings)
    for name, role, *domains in (("mona", "operate"), ("vera", "view"), ("dora", "operate", "c1.example")):
        town.add(name, role, *domains)
    happen(town)
    with TestClient(town.app):
        wait_until(lambda: town.site.watcher.picture().is_complete, "the first reading")
        wait_until(lambda: town.site.watcher.refusals.is_read, "the hit history")
        yield town
    town.close()


def happen(town: World) -> None:
    """Mails, refusals, and changes of each kind."""
    now = int(time.time())
    this = now - now % HOUR
    details = HitDetails("4Zk1", "192.0.2.1", "a@c1.example", "b@c1.example", "i1")
    counters = [
        *(f"r1|{USER}", "r2/messages|sasl_domain:c1.example", "r3/bytes|sender:a@c1.example", f"r8|{NETWORK}"),
        *("r5/distinct-client_address|recipient:b@c1.example", "r9|country:AC", "r10|server:", "r15|$customer:k1"),
        *("r11|user+client:alice@c1.example+192.0.2.1", USER),
    ]
    with open_desk(town.settings, as_account=False) as desk:
        store = desk.store
        for at, kind in enumerate(VERDICTS):
            for number, key in enumerate(counters):
                hit = HourOfHits(this - at * HOUR, key, Limit(3, HOUR), kind, 1 + number, this, now - 60, details)
                store.bring_history([OriginalHits(0, hit)])
        overrides.override(desk, USER, (Limit(5, HOUR), Limit(9, 2 * HOUR)), HOUR, "n1", "r1", by=WEB)
        overrides.override(desk, "sender:a@c1.example", (BLOCKED,), 2 * HOUR, "n2", by=SHELL)
        store.set_override(Override("r9|country:AC", (BLOCKED,), now + HOUR, "rule r9: 100/1h exceeded"), None)
        store.set_override(Override(f"r8|{NETWORK}", (), now + HOUR, "rule r8: 100/1h exceeded"), None)
        overrides.revoke(desk, "user:bob@c1.example", "r1", by=WEB, note="n3")
        for key in counters:
            store.reset(key, WEB, "n4")
        assert isinstance(store, LogAdministration)
        for at, (ago, waits) in enumerate(((5, 0), (2 * HOUR, 3))):
            beat = Heartbeat(f"{at:032x}", f"mx{at}", "unix:a/policy", 4711, "2.0.0", now - 3 * HOUR, now - ago, waits)
            of_log.beat(store.open(), beat, 10.0, is_first=True)
        store.note(SHELL, "copy-to", "from SQLite /x1", "counts 1, overrides 2, revoked 3, hits 4, history 5, audit 6")
        store.note(SHELL, "web-user add", "u1", "operate for all")
        store.note(SHELL, "web-token create", "t1", "view for c1.example, c2.example")


def addresses() -> Iterator[str]:
    """Every page, of everybody that there is something to show of."""
    yield from ("/", "/now", "/rules", "/audit", "/search", "/refusals?for=day", "/refusals?for=month&rule=r1")
    some = ("alice@c1.example", "sender:a@c1.example", "192.0.2.1", "c1.example", "country:AC", "$customer:k1", "zz1")
    for name in (USER, NETWORK, "alice@c1.example+192.0.2.1", *some):
        yield f"/id?of={quote(name)}"
        yield f"/id?of={quote(name)}&by=day"
    for text in ("a@", "4Zk1", "192.0.2.0/24", "zebra1", "client:zz1", "client:192.0.2.1/16", "*.c1.example", ""):
        yield f"/search?q={quote(text)}"
    for what in ("raise", "block", "free", "reset", "x1"):
        yield f"/change/{what}?of={quote(USER)}"
    yield from ("/change/block?of=zz1%2B", "/change/raise?of=r10", "/nowhere1", "/change/raise?of=")


def forms(browser: TestClient) -> Iterator[Response]:
    """What forms lead to: mistakes, what will happen, and what was done."""
    token = re.findall(r'name="form_token" value="([^"]+)"', browser.get(f"/change/block?of={USER}").text)[-1]
    filled = {"of": USER, "rule": "", "for": "8h", "note": "n5", "form_token": token}
    wrong = ("many1", "3", "3/1h 4/60m", "", " ".join(f"1/{number}s" for number in range(1, 40)))
    for limits in wrong:
        yield browser.post("/change/raise", data={**filled, "rule": "r1", "limits": limits, "for": "x1", "note": ""})
    yield browser.post("/change/block", data={**filled, "for": "9999w"})
    yield browser.post("/change/block", data={**filled, "form_token": "x1"})
    yield browser.post("/change/block", json={})
    yield browser.post("/change/block", data={f"f{number}": "1" for number in range(60)})
    yield browser.post("/confirm", data={**filled, "confirmation": "x1"})
    changes = (("raise", "4/1h 9/1d"), ("raise", "unlimited"), ("block", ""), ("free", ""), ("free", ""), ("reset", ""))
    for what, limits in changes:
        asked = browser.post(f"/change/{what}", data={**filled, "rule": "r1", "limits": limits})
        yield asked
        confirmation = re.findall(r'name="confirmation" value="([^"]+)"', asked.text)
        if confirmation:
            done = browser.post("/confirm", data={**filled, "confirmation": confirmation[0]})
            yield browser.get(done.headers["location"])
    answer = browser.post("/confirm", data={**filled, "confirmation": confirmation[0]})
    yield browser.get(answer.headers["location"])


def walk(town: World, language: str) -> dict[str, list[str]]:
    """What people see of each page, by what was asked."""
    found: dict[str, list[str]] = {}
    for name in ("mona", "dora", "vera"):
        browser = log_in(town.browser(**{"accept-language": language}), name)
        answers = {address: browser.get(address) for address in (addresses() if name == "mona" else TO_FEW)}
        if name == "mona":
            answers |= {f"form {number}": answer for number, answer in enumerate(forms(browser))}
        for asked, answer in answers.items():
            if answer.status_code != 303:
                assert answer.headers["content-type"].startswith("text/html"), (asked, answer.text)
                found[f"{name} {asked}"] = Seen(answer.text).pieces
    stranger = town.browser(**{"accept-language": language, "x-forwarded-for": "192.0.2.9"})
    found["login"] = Seen(stranger.get("/login").text).pieces
    for number in range(7):
        answer = stranger.post("/login", data={"name": "nobody1", "password": "x"})
        found[f"login {number} {answer.status_code}"] = Seen(answer.text).pieces
    return found


def words_of(piece: str) -> list[str]:
    """The words of ``piece``; what has a sign or a digit in it is a name, a limit or an address."""
    found = (word.strip("()[],.;:\"'!?„“–…·") for word in piece.split())
    return [word for word in found if re.fullmatch("[A-Za-z]+(-[A-Za-z]+)*", word) and word not in OWN]


WIDE = {code: code + 0xFEE0 for code in range(ord("A"), ord("z") + 1) if chr(code).isalpha()}
"""Letters that no text of ours has: U+FF21 and what follows."""


def strange(name: str, text: Text) -> Text:
    """``text`` in a language that nobody speaks, in which it is known from words that come from elsewhere."""
    if name in ("date.day", "date.time", "date.minute"):
        return text
    if not isinstance(text, str):
        return {form: str(strange(name, one)) for form, one in text.items()}
    parsed = string.Formatter().parse(text)
    return "".join(said.translate(WIDE) + ("" if value is None else f"{{{value}}}") for said, value, _, _ in parsed)


def test_no_word_of_a_page_stands_in_templates_or_code(town: World, monkeypatch: pytest.MonkeyPatch) -> None:
    strangest = Wording("xx", {name: strange(name, text) for name, text in texts_of(ENGLISH).items()})
    monkeypatch.setattr(rendering, "wording", lambda _language: strangest)
    found = walk(town, "xx")
    assert len(found) > 75
    pieces = {piece: asked for asked, all_of_it in found.items() for piece in all_of_it}
    assert {piece: asked for piece, asked in pieces.items() if words_of(piece)} == {}


def test_no_page_in_german_has_english_words(town: World) -> None:
    pieces = {piece: asked for asked, all_of_it in walk(town, "de").items() for piece in all_of_it}
    english = {}
    for piece, asked in pieces.items():
        rest = " ".join(words_of(piece))
        if ENGLISH_WORDS.search(rest):
            english[piece] = asked
    assert english == {}
