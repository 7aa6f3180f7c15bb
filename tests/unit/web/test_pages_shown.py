"""What the pages show about a made-up mail server, to whom; and that nothing that strangers write is markup."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from policyd_rate_limit.admin.opening import open_desk
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.storage.administration import (
    Actor,
    Administration,
    HitDetails,
    HourOfHits,
    OriginalHits,
    Override,
)
from policyd_rate_limit.web import sights
from policyd_rate_limit.web.authority import Authority, Role
from support.wait import wait_until
from support.web_made_up import CALLER, HOUR, LOST, ODD, STOLEN, made_up
from support.web_pages import Page, log_in, page
from support.web_site import World, program

MARKUP = "\"><b0ld onclick=x>'&amp;"
PAGES = ("/", "/now", "/refusals", "/refusals?for=month&rule=usual", "/rules", "/audit", "/search?q=example", "/search")


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The site of a mail server that has been in use, which nobody changes here."""
    directory = tmp_path_factory.mktemp("town")
    with made_up(directory) as settings:
        town = World(directory, settings=settings)
        town.add("mona")
        town.add("vera", "view")
        town.add("dora", "operate", "example.net")
        with open_desk(settings, as_account=False) as desk:
            strange(desk.store)
        with TestClient(town.app):  # which has the watcher begin
            wait_until(lambda: town.site.watcher.picture().is_complete, "the first reading")
            wait_until(lambda: town.site.watcher.refusals.is_read, "the hit history")
            yield town


def strange(store: Administration) -> None:
    """What strangers have a say in: ids, what Postfix tells of mails, and notes of whoever may write one."""
    now = store.now()
    hour = now - now % HOUR
    details = HitDetails(f"Q{MARKUP}", f"A{MARKUP}", f"S{MARKUP}", f"R{MARKUP}", f"I{MARKUP}")
    store.bring_history(
        [OriginalHits(0, HourOfHits(hour, f"usual|user:{ODD}", Limit(7, 60), "refused", 9, hour, now, details))]
    )
    store.set_override(
        Override(f"usual|user:{ODD}", (Limit(9, 60),), now + HOUR, f"N{MARKUP}"), Actor(f"W{MARKUP}", f"F{MARKUP}")
    )


@pytest.fixture
def mona(town: World) -> TestClient:
    return log_in(town.browser(), "mona")


def test_now_tells_who_is_limited_who_is_close_and_what_is_set(mona: TestClient) -> None:
    found = page(mona.get("/"))
    text = found.text
    assert found.title == "Now – Mail limits"
    limited = text[text.index("They get no further") : text.index("They have used 80 %")]
    assert CALLER in limited
    assert "of 100 recipients in any day" in limited
    assert "ivan@example.org" in limited
    assert STOLEN not in limited, "the block says more"
    close = text[text.index("They have used 80 %") : text.index("Set by hand")]
    assert "elif@example.org" in close
    assert "84 of 100 recipients in any day, 84 %" in close
    in_force = text[text.index("Set by hand") :]
    assert f"{STOLEN} SASL user, Rule usual blocked" in in_force
    assert "root stolen: 40 countries in an hour" in in_force
    assert "hanna@example.org SASL user, Rule usual other limits 500 recipients in any day" in in_force
    assert "Daemons: trouble 1 silent, 2 at work, none on this host" in text
    daemons = text[text.index("A daemon that is silent") : text.index("They get no further")]
    assert daemons.index(LOST) < daemons.index("mx1")
    assert f"{LOST} silent 3 batches wait" in daemons
    assert f"{ODD}.mx3 at work 1 batch waits" in daemons
    assert "Database: well" in text
    assert f"/id?of=user%3A{CALLER.replace('@', '%40')}" in found.links
    assert found.scripts == ["/static/live.js"]
    parts = mona.get("/now")
    assert "<h1" not in parts.text
    assert CALLER in parts.text


def test_one_id(mona: TestClient) -> None:
    text = page(mona.get("/id", params={"of": CALLER.upper()})).text
    assert "Rule usual limited" in text
    assert "100 of 100 recipients in any day, 100 %" in text
    assert "example.org, shared with others" in text
    assert "from rules.usual in the configuration" in text
    assert "refused Rule usual: 30 recipients in any hour" in text
    assert "4Zk" in text
    assert "Nobody has changed anything." in text
    assert mona.get("/id", params={"of": CALLER}).text.count('<svg class="plot"') == 2
    text = page(mona.get("/id", params={"of": f"user:{STOLEN}", "by": "day"})).text
    assert "Rule usual blocked" in text
    assert "Note: stolen: 40 countries in an hour Set by root" in text
    assert "root shell on mx1 block Rule usual" in text
    text = page(mona.get("/id", params={"of": "bert@example.org"})).text
    assert "sent to himself in a loop, is mended" in text
    text = page(mona.get("/id", params={"of": "client:192.0.2.7"})).text
    assert "Rule per-network" in text
    assert "In shadow: nothing is refused" in text
    assert "would be refused (in shadow)" in text


def test_an_id_of_which_nothing_is_known_may_be_a_typo(mona: TestClient) -> None:
    found = page(mona.get("/id", params={"of": "car"}))
    assert "Nothing is on record of this id: a typo? Taken for: domain of users, SASL user." in found.text
    assert f"/id?of=user%3A{CALLER.replace('@', '%40')}" in found.links
    assert mona.get("/id").headers["location"] == "/search"


def test_rules_in_words_and_what_they_refused(mona: TestClient) -> None:
    text = page(mona.get("/rules")).text
    assert "Rule usual Each SASL user may send to 30 recipients in any hour and 100 in any day." in text
    assert "Rule per-network in shadow Each client network (/24, of IPv6 /48)" in text
    found = page(mona.get("/refusals"))
    assert "would be refused (in shadow)" in found.text
    assert f"{STOLEN} SASL user Rule usual" in found.text
    assert "/refusals?for=day" in found.links
    only = page(mona.get("/refusals", params={"rule": "per-network", "for": "nonsense"}))
    assert STOLEN not in only.text
    assert "Refusals of rule per-network" in only.title
    assert "Nothing was refused." in page(mona.get("/refusals", params={"rule": "no such rule"})).text


def test_what_is_searched_for_is_found(mona: TestClient) -> None:
    for text in (CALLER, CALLER.title(), f"user:{CALLER}"):
        assert mona.get("/search", params={"q": f" {text} "}).headers["location"] == f"/id?of={quote(text, safe='')}"
    assert mona.get("/search", params={"q": "192.0.2.77"}).headers["location"] == "/id?of=192.0.2.77"
    found = page(mona.get("/search", params={"q": "CAR"}))
    assert f"/id?of=user%3A{CALLER.replace('@', '%40')}" in found.links
    assert "See CAR all the same" in found.text
    queue_id = next(
        word for word in page(mona.get("/id", params={"of": CALLER})).text.split() if word.startswith("4Zk")
    )
    found = page(mona.get("/search", params={"q": queue_id}))
    assert f"Mails with the queue id {queue_id} that ran into a limit" in found.text
    assert CALLER in found.text
    found = page(mona.get("/search", params={"q": "192.0.0.0/16"}))
    assert "Clients in 192.0.0.0/16 that ran into a limit in the last day" in found.text
    assert "Nothing was found for zebra." in page(mona.get("/search", params={"q": "zebra"})).text
    assert "What are you looking for?" in page(mona.get("/search", params={"q": "  "})).text


def test_changes_are_listed_page_by_page(town: World, mona: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyd_rate_limit.web.pages.audit.MOST_ENTRIES", 2)
    seen: list[str] = []
    address = "/audit"
    for _ in range(10):
        found = page(mona.get(address))
        assert found.text.count("SASL user") <= 2
        seen.append(found.text)
        older = [link for link in found.links if link.startswith("/audit?before=")]
        if not older:
            break
        address = older[0]
    assert len(older) == 0
    everything = " ".join(seen)
    for rule, unit in (("usual", "mails"), ("volume", "bytes")):
        reset = everything.index(f"mona web 192.0.2.17 take back Rule {rule} bert@example.org SASL user")
        assert f" {unit} taken back sent to himself in a loop, is mended" in everything[reset : reset + 150]
        assert everything.count(f"root shell on mx1 block Rule {rule} {STOLEN}") == 1
    assert everything.count("invitation, ticket 4711") == 1
    assert page(mona.get("/audit?before=nonsense")).text == page(mona.get("/audit")).text
    assert "Nothing was changed." in page(mona.get("/audit?before=1")).text


@pytest.mark.parametrize("language", ["en", "de"])
def test_nothing_that_strangers_write_is_markup_on_any_page(mona: TestClient, language: str) -> None:
    """The reader of :mod:`support.web_pages` refuses every element and attribute that they tried to have."""
    mona.headers["accept-language"] = language
    odd = quote(ODD, safe="")
    addresses = [
        *PAGES,
        f"/id?of={odd}",
        f"/id?of=user%3A{odd}&by=day&done={quote(MARKUP)}",
        f"/search?q={odd}",
        f"/search?q={quote(MARKUP)}",
        f"/refusals?rule={quote(MARKUP)}",
        *(f"/change/{what}?of={odd}" for what in ("raise", "block", "free", "reset")),
    ]
    shown = ""
    for address in addresses:
        answer = mona.get(address)
        if answer.status_code == 303:
            continue
        assert MARKUP not in answer.text
        assert f'lang="{language}"' in answer.text or address == "/now"
        shown += Page(answer.text).text
    for one in "QASRNWF":
        assert f"{one}{MARKUP}" in shown, "what was tried is shown, as text"
    assert ODD in shown


def test_who_may_look_is_offered_no_change(town: World) -> None:
    vera = log_in(town.browser(), "vera")
    found = page(vera.get("/id", params={"of": CALLER}))
    assert not [link for link in found.links if link.startswith("/change")]
    assert "Change something" not in found.text
    assert page(vera.get("/change/block", params={"of": CALLER}), 403).text.count("change nothing") == 1


def test_an_administrator_of_a_domain_sees_what_is_of_it(town: World) -> None:
    dora = log_in(town.browser(), "dora")
    for address in ("/", "/audit", "/search?q=example"):
        text = page(dora.get(address)).text
        assert "example.org" not in text, address
        assert "Daemon" not in text
        assert "ids on record" not in text
    assert "Refusals" not in page(dora.get("/")).text
    for address in ("/rules", "/refusals", f"/id?of={CALLER}", f"/id?of={CALLER.upper()}"):
        assert "example.org SASL" not in page(dora.get(address), 403).text
    own = ODD.replace("example.org", "example.net")
    found = page(dora.get("/id", params={"of": own}))
    assert own in found.text
    offered = {link.partition("?")[0] for link in found.links if link.startswith("/change")}
    assert offered == {"/change/raise", "/change/block"}
    assert "Nothing was found" in page(dora.get("/search", params={"q": CALLER})).text
    assert dora.get("/search", params={"q": own}).status_code == 303


def test_the_language_is_chosen_by_a_link(town: World) -> None:
    browser = town.browser()
    assert page(browser.get("/login", headers={"accept-language": "de"})).text.startswith("Zum Inhalt springen")
    link = next(one for one in page(browser.get("/login")).links if "set=de" in one)
    answer = browser.get(link)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert "Anmelden" in page(browser.get("/login")).text
    for to, location in {
        "/id?of=user%3Aa%26b": "/id?of=user%3Aa%26b",
        "//evil.example/": "/",
        "/\\evil.example/": "/",
        "https://evil.example/": "/",
        "javascript:alert(1)": "/",
        "http://[": "/",
        "": "/",
    }.items():
        answer = browser.get("/language", params={"set": "xx", "to": to})
        assert "set-cookie" not in answer.headers
        assert answer.headers["location"] == location
    split = browser.get("/language", params={"set": "xx", "to": "/\r\nset-cookie: a=b"})
    assert "set-cookie" not in split.headers


def test_the_styles_and_scripts_are_there(town: World) -> None:
    browser = town.browser()
    for name, kind in (
        ("style.css", "text/css"),
        ("plots.css", "text/css"),
        ("icon.svg", "image/svg+xml"),
        ("live.js", ""),
    ):
        answer = browser.get(f"/static/{name}")
        assert answer.status_code == 200
        assert kind in answer.headers["content-type"]
        assert "http" not in answer.text.replace("http://www.w3.org/2000/svg", ""), "nothing comes from elsewhere"


def test_without_the_database_the_last_known_is_shown(tmp_path: Path) -> None:
    with made_up(tmp_path) as settings:
        town = World(tmp_path, settings=settings)
        town.add("mona")
        with TestClient(town.app):
            mona = log_in(town.browser(), "mona")
            assert "still being read" in page(mona.get("/")).text or town.site.watcher.picture().is_complete
            wait_until(lambda: town.site.watcher.picture().is_complete, "the first reading")
            for file in tmp_path.glob("db.sqlite3*"):
                file.unlink()
            (tmp_path / "db.sqlite3").mkdir()
            wait_until(lambda: town.site.watcher.picture().failure, "that the database is gone")
            text = page(mona.get("/")).text
            assert "The database does not answer. What is shown is what was known before" in text
            assert "Database: trouble" in text
            assert CALLER in text
            assert page(mona.get("/id", params={"of": CALLER}), 503).title.startswith("That is not possible now")


def test_programs_have_their_lists_from_memory(town: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are what whoever reads the whole store finds, and nobody reads it for them."""
    whole, own = Authority(Role.VIEW), Authority(Role.VIEW, ("example.org",))
    asked = [(window, by) for window in (HOUR, 24 * HOUR) for by in ("share", "mails")]
    with town.site.open_desk() as desk:
        read = {
            (authority, window, by): sights.heaviest_of(desk, authority, window, 8, by_share=by == "share")[1]
            for authority in (whole, own)
            for window, by in asked
        }
        everything = sights.overview_of(town.settings, desk, whole).contents
    assert everything is not None
    assert everything.counted is not None

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the whole store is read")

    monkeypatch.setattr(sights, "heaviest_of", never)
    monkeypatch.setattr(sights, "overview", never)
    for authority, client in ((whole, program(town, "view")), (own, program(town, "view", "example.org"))):
        for window, by in asked:
            found = client.get("/api/v1/top", params={"window": window, "by": by, "number": 8}).json()["senders"]
            expected = [one for one in read[authority, window, by] if by == "share" or one.mails]
            assert [(one["key"], one["mails"]) for one in found] == [(one.key, one.mails) for one in expected]
    told = program(town, "view").get("/api/v1/status").json()
    assert [one["key"] for one in told["heaviest"]] == [one.key for one in everything.heaviest]
    assert [told["store"][name] for name in ("seconds", "entries", "ids")] == list(everything.counted)
    assert len(told["daemons"]) == 3
