"""Changes by forms: nothing without a confirmation that says what will happen, once, and only what somebody may do."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from httpx import Response
from starlette.testclient import TestClient

from policyd_rate_limit.admin.opening import open_desk
from policyd_rate_limit.domain.limits import BLOCKED, Limit
from policyd_rate_limit.storage.administration import LONGEST_NOTE, AuditEntry, Override
from policyd_rate_limit.web import pending
from policyd_rate_limit.web.pending import MINUTES, Pending
from support.wait import wait_until
from support.web_made_up import CALLER, STOLEN, made_up
from support.web_pages import Page, log_in, page
from support.web_site import World

KEY = f"usual|user:{CALLER}"
DAY = 86_400


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("town")
    with made_up(directory) as settings:
        town = World(directory, settings=settings)
        town.add("mona")
        town.add("nina")
        town.add("vera", "view")
        town.add("dora", "operate", "example.org")
        with TestClient(town.app):
            wait_until(lambda: town.site.watcher.picture().is_complete, "the first reading")
            yield town


@pytest.fixture
def mona(town: World) -> TestClient:
    return log_in(town.browser(), "mona")


def overrides(town: World) -> dict[str, Override]:
    with open_desk(town.settings, as_account=False) as desk:
        return desk.overrides()


def changes(town: World) -> list[AuditEntry]:
    with open_desk(town.settings, as_account=False) as desk:
        return desk.store.audit(most=1000)


def counted(town: World, key: str) -> int:
    with open_desk(town.settings, as_account=False) as desk:
        return sum(entry.amount for entry in desk.store.entries((key,), 0))


def filled(browser: TestClient, what: str, of: str, **fields: str) -> Response:
    """The answer to the form of ``what``, as it is when it is opened but for ``fields``."""
    form = page(browser.get(f"/change/{what}", params={"of": of}))
    assert form.action == f"/change/{what}"
    assert set(fields) <= set(form.fields)
    answer: Response = browser.post(form.action, data=form.fields | fields)
    return answer


def confirmed(browser: TestClient, shown: Response) -> Page:
    """The page that follows when somebody confirms what is ``shown``."""
    confirmation = page(shown)
    answer = browser.post(confirmation.action, data=confirmation.fields)
    assert answer.status_code == 303
    return page(browser.get(answer.headers["location"]))


def test_other_limits_from_the_form_to_the_trail(town: World, mona: TestClient) -> None:
    before, trail = overrides(town), changes(town)
    form = page(mona.get("/change/raise", params={"of": CALLER}))
    assert form.title.startswith(f"Other limits for {CALLER}")
    assert form.fields["limits"] == "30/1h 100/1d", "what is in force, to be changed"
    assert form.fields["for"] == "8h"
    shown = filled(
        mona, "raise", CALLER, limits="200/1d, 60/1h", note="  ticket 4711:  she prints\nlabels ", **{"for": "2d"}
    )
    text = page(shown).text
    assert "Nothing has been changed yet. This will happen:" in text
    assert (
        f"SASL user {CALLER} (rule usual) may send 200 recipients in any day and 60 recipients in any hour, instead of"
        " 30 recipients in any hour and 100 recipients in any day, until"
    ) in text
    assert "(2 days). It has used 100 recipients already." in text
    assert (overrides(town), changes(town)) == (before, trail), "nothing without a confirmation"
    done = confirmed(mona, shown)
    assert done.title.startswith(f"Done: {CALLER}")
    assert f"{CALLER} has other limits until" in done.text
    assert "100 of 200 recipients in any day, 50 %" in done.text, "what was changed is seen at once"
    override = overrides(town)[KEY]
    assert override.limits == (Limit(200, DAY), Limit(60, 3600))
    assert override.note == "ticket 4711:  she prints\nlabels"
    entry = changes(town)[0]
    assert (entry.who, entry.action, entry.subject, entry.note) == ("mona", "allow", KEY, override.note)
    assert entry.from_where.startswith("web ")
    assert len(changes(town)) == len(trail) + 1
    again = page(mona.get("/id", params={"of": CALLER}))
    assert "has other limits until" not in again.text, "it is said once"
    replaced = page(filled(mona, "block", CALLER, note="stolen"))
    assert "It takes the place of what is set for it now: 200 recipients in any day and 60" in replaced.text


def test_a_block_and_its_end(town: World, mona: TestClient) -> None:
    victim = "jana@example.org"
    shown = filled(mona, "block", victim, note="phished", **{"for": "1w"})
    assert f"SASL user {victim} (rule usual) may send nothing until" in page(shown).text
    assert f"{victim} is blocked until" in confirmed(mona, shown).text
    assert overrides(town)[f"usual|user:{victim}"].limits == (BLOCKED,)
    assert "Rule usual blocked" in page(mona.get("/id", params={"of": victim})).text
    assert victim in page(mona.get("/")).text
    form = page(mona.get("/change/raise", params={"of": victim}))
    assert form.fields["limits"] == "30/1h 100/1d", "not those of the block"
    shown = filled(mona, "free", victim, note="has a new password")
    assert "this ends: blocked, until" in page(shown).text
    assert "From then on it may send 30 recipients in any hour and 100 recipients in any day." in page(shown).text
    assert f"What was set for {victim} has ended." in confirmed(mona, shown).text
    assert f"usual|user:{victim}" not in overrides(town)
    entry = changes(town)[0]
    assert (entry.action, entry.note) == ("revoke", "has a new password")
    shown = filled(mona, "free", victim, note="once more")
    assert "nothing is set: nothing changes" in page(shown).text
    assert f"Nothing was set for {victim} any more." in confirmed(mona, shown).text


def test_taking_back_what_was_counted(town: World, mona: TestClient) -> None:
    loop = "ivan@example.org"
    before = counted(town, f"usual|user:{loop}")
    assert before > 20
    shown = filled(mona, "reset", loop, note="a loop")
    assert f"is taken back, {before} recipients: its windows are empty, in every daemon." in page(shown).text
    done = confirmed(mona, shown)
    assert f"Taken back for {loop}: {before} recipients, " in done.text
    assert "0 of 30 recipients in any hour" in done.text
    assert counted(town, f"usual|user:{loop}") == 0
    assert changes(town)[0].note == "a loop"
    shown = filled(mona, "reset", loop, note="again")
    assert "nothing is counted: nothing changes" in page(shown).text
    assert f"Nothing was counted for {loop}." in confirmed(mona, shown).text


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"limits": ""}, {"limits"}),
        ({"limits": "many"}, {"limits"}),
        ({"limits": "500/1"}, {"limits"}),
        ({"limits": "500"}, {"limits"}),
        ({"limits": "5/1h 6/1h"}, {"limits"}),
        ({"limits": "unlimited 5/1h"}, {"limits"}),
        ({"for": "8"}, {"for"}),
        ({"for": "for ever"}, {"for"}),
        ({"for": "11000d"}, {"for"}),
        ({"note": " \r\n "}, {"note"}),
        ({"note": "x" * (LONGEST_NOTE + 1)}, {"note"}),
        ({"limits": "<b0ld>", "for": "<b0ld>", "note": ""}, {"limits", "for", "note"}),
    ],
)
def test_what_is_wrong_is_said_beside_the_field(
    town: World, mona: TestClient, fields: dict[str, str], wrong: set[str]
) -> None:
    before = overrides(town)
    answer = filled(mona, "raise", CALLER, **{"note": "why", **fields})
    found = page(answer, 422)
    assert found.title.startswith("Error: ")
    for name in ("limits", "for", "note"):
        assert (f"{name}-wrong" in found.ids) == (name in wrong)
        assert (f"#{name}" in found.links) == (name in wrong), "the summary leads there"
        kept = fields.get(name, found.fields[name])
        assert found.fields[name].split() == kept.split(), "what was written stays"
    assert answer.text.count('aria-invalid="true"') == len(wrong)
    assert 'role="alert"' in answer.text
    assert overrides(town) == before


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("unlimited", ()),
        ("0/1d", (Limit(0, DAY),)),
        ("500/d", (Limit(500, DAY),)),
        ("10/1m\t20/2h", (Limit(10, 60), Limit(20, 7200))),
    ],
)
def test_limits_as_they_may_be_written(town: World, mona: TestClient, text: str, limits: tuple[Limit, ...]) -> None:
    confirmed(mona, filled(mona, "raise", "lena@example.org", limits=text, note="why"))
    assert overrides(town)["usual|user:lena@example.org"].limits == limits


def test_in_one_rule_alone(town: World, mona: TestClient) -> None:
    form = mona.get("/change/block", params={"of": "hanna@example.org"})
    assert 'value="volume"' in form.text
    assert "in all rules that count it" in form.text
    shown = filled(mona, "block", "hanna@example.org", rule="volume", note="why")
    assert "(rule volume)" in page(shown).text
    assert "(rule usual)" not in page(shown).text
    before = overrides(town)["usual|user:hanna@example.org"]
    confirmed(mona, shown)
    assert overrides(town)["volume/bytes|user:hanna@example.org"].limits == (BLOCKED,)
    assert overrides(town)["usual|user:hanna@example.org"] == before
    shown = filled(mona, "block", "client:192.0.2.9", rule="per-network", note="why", **{"for": "1h"})
    assert "This rule is in shadow" in page(shown).text
    shown = filled(mona, "raise", "hanna@example.org", rule="volume", limits="2G/1d", note="why")
    assert "(rule volume) may send 2 GB in any day" in page(shown).text
    page(filled(mona, "raise", "hanna@example.org", rule="usual", limits="2G/1d", note="why"), 422)
    form = mona.get("/change/raise", params={"of": "hanna@example.org"})
    assert "in all rules that count it" not in form.text, "one counts recipients, another bytes"
    shown = filled(mona, "raise", "hanna@example.org", rule="", limits="7/1d", note="why")
    assert "(rule volume)" not in page(shown).text
    invented = filled(mona, "block", "hanna@example.org", rule="no such rule", note="why")
    assert "(rule usual)" in page(invented).text, "it is all of them then, and the page says so"


def test_a_confirmation_is_good_once_for_whom_it_was_shown_to_and_for_a_while(town: World, mona: TestClient) -> None:
    of = "karim@example.org"
    nina = log_in(town.browser(), "nina")
    shown = page(filled(mona, "block", of, note="why"))
    hers = page(filled(nina, "block", "frida@example.org", note="why"))
    foreign = nina.post("/confirm", data=hers.fields | {"confirmation": shown.fields["confirmation"]})
    assert "used already, or is too old" in page(nina.get(foreign.headers["location"])).text
    assert f"usual|user:{of}" not in overrides(town)
    assert mona.post("/confirm", data=shown.fields).status_code == 303
    assert f"usual|user:{of}" in overrides(town)
    confirmed(mona, filled(mona, "free", of, note="why"))
    replayed = mona.post("/confirm", data=shown.fields)
    assert "used already, or is too old" in page(mona.get(replayed.headers["location"])).text
    assert f"usual|user:{of}" not in overrides(town)
    old = page(filled(mona, "block", of, note="why"))
    town.clock.now += 60 * MINUTES
    late = mona.post("/confirm", data=old.fields)
    assert "used already, or is too old" in page(mona.get(late.headers["location"])).text
    assert f"usual|user:{of}" not in overrides(town)
    for invented in ("", "x" * 43):
        assert mona.post("/confirm", data=old.fields | {"confirmation": invented}).status_code == 303


def test_what_was_confirmed_is_not_done_to_what_somebody_else_has_set_meanwhile(town: World, mona: TestClient) -> None:
    of = "ella@example.org"
    confirmed(mona, filled(mona, "raise", of, limits="5000/1d", note="newsletter"))
    shown = page(filled(mona, "free", of, note="newsletter is sent"))
    nina = log_in(town.browser(), "nina")
    confirmed(nina, filled(nina, "block", of, note="stolen"))
    answer = mona.post("/confirm", data=shown.fields)
    assert "Meanwhile something else was set" in page(mona.get(answer.headers["location"])).text
    assert overrides(town)[f"usual|user:{of}"].limits == (BLOCKED,)
    confirmed(mona, filled(mona, "free", of, note="password is changed"))
    assert f"usual|user:{of}" not in overrides(town)


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "MOST_PENDING", 2)
    waiting: Pending[str] = Pending(lambda: 0.0)
    names = [waiting.keep("a", f"change {number}") for number in range(3)]
    assert [waiting.take("a", name) for name in names] == [None, "change 1", "change 2"]


def test_who_asks_for_very_much_takes_nobody_else_s_place() -> None:
    waiting: Pending[str] = Pending(lambda: 0.0)
    first = waiting.keep("a", "change")
    names = [waiting.keep("b", "change") for _ in range(pending.MOST_PENDING)]
    assert waiting.take("a", first) == "change"
    assert sum(waiting.take("b", name) is not None for name in names) == pending.MOST_OF_ONE


def test_a_form_of_another_site_changes_nothing(town: World, mona: TestClient) -> None:
    shown = page(filled(mona, "block", "david@example.org", note="why"))
    before = overrides(town)
    for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
        page(mona.post("/confirm", data=shown.fields, headers=headers), 403)
        page(mona.post("/change/block", data=shown.fields | {"note": "x", "for": "1h"}, headers=headers), 403)
    without = {name: value for name, value in shown.fields.items() if name != "form_token"}
    page(mona.post("/confirm", data=without), 403)
    assert mona.get("/confirm").status_code == 405
    assert overrides(town) == before


def test_who_may_look_changes_nothing(town: World, mona: TestClient) -> None:
    vera = log_in(town.browser(), "vera")
    token = re.search('name="form_token" value="([0-9a-f]+)"', vera.get("/").text)
    assert token is not None
    shown = page(filled(mona, "block", "david@example.org", note="why"))
    before = overrides(town)
    for address in ("/change/block", "/change/reset", "/confirm"):
        fields = shown.fields | {"form_token": token[1], "of": CALLER, "note": "why", "for": "1h"}
        page(vera.post(address, data=fields), 403)
    assert overrides(town) == before
    assert town.browser().post("/confirm", data=shown.fields).headers["location"] == "/login"


def test_an_administrator_of_a_domain_may_lower_alone(town: World) -> None:
    dora = log_in(town.browser(), "dora")
    of = "frida@example.org"
    assert "may lower limits" in page(filled(dora, "raise", of, limits="500/1d", note="why"), 403).text
    assert page(filled(dora, "raise", of, limits="unlimited", note="why"), 403).headings == [1]
    confirmed(dora, filled(dora, "raise", of, limits="10/1h 20/1d", note="why"))
    assert overrides(town)[f"usual|user:{of}"].limits == (Limit(10, 3600), Limit(20, DAY))
    assert page(filled(dora, "free", STOLEN, note="why"), 403).headings == [1]
    assert page(filled(dora, "reset", of, note="why"), 403).headings == [1]
    assert overrides(town)[f"usual|user:{STOLEN}"].limits == (BLOCKED,)
    for foreign in ("anna@example.net", "ANNA@EXAMPLE.NET", "user:anna@example.net"):
        page(dora.get("/change/block", params={"of": foreign}), 403)


def test_rights_that_ended_before_the_confirmation(town: World, mona: TestClient) -> None:
    """They are looked up again for each request: the session ends with the change of the account."""
    town.add("olga")
    olga = log_in(town.browser(), "olga")
    shown = page(filled(olga, "block", "elif@example.org", note="why"))
    town.add("olga", "view")
    answer = olga.post(shown.action, data=shown.fields)
    assert answer.headers["location"] == "/login"
    assert "usual|user:elif@example.org" not in overrides(town)


def test_what_is_no_change_is_told(mona: TestClient) -> None:
    page(mona.get("/change/explode", params={"of": CALLER}), 404)
    assert "That cannot be asked" in page(mona.get("/change/block"), 400).text
