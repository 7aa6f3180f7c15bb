"""What an alert says, to people and to programs, and which hits lead to one."""

from __future__ import annotations

import email.policy
import json
from dataclasses import fields, replace
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit.domain.charge import Usage
from policyd_rate_limit.domain.decision import BLOCKS, MARKED, REFUSED, WARNED, WOULD_BLOCK, WOULD_REFUSE, Decision
from policyd_rate_limit.domain.limits import PER_MAIL, Limit
from policyd_rate_limit.domain.request import Request
from policyd_rate_limit.mail.message import compose
from policyd_rate_limit.notify import first_hits
from policyd_rate_limit.notify.alert import Alert, Unsent, as_json, as_text, as_text_for_user, subject, subject_for_user
from policyd_rate_limit.notify.first_hits import MOST_NAMED, MOST_TOLD, FirstHits
from support.alerts import ALICE, MINUTE

DAY = Limit(150, 86_400)
NONE = Unsent(0, ())
USAGES = (Usage("user:alice", MINUTE, 10, 42), Usage("user:alice", DAY, 57, 0))
DECISION = Decision(ALICE, REFUSED, "user:alice", 1, 0, MINUTE, USAGES)
EIGHT = (Usage("user:alice", MINUTE, 8, 0),)
ALERT = Alert("n1", 1_700_000_000.0, "mail.test", DECISION, NONE)


def alert_of(**changed: Any) -> Alert:
    return ALERT._replace(decision=DECISION._replace(**changed))


def test_people_learn_who_which_limit_from_where_what_and_until_when() -> None:
    text = as_text(ALERT)
    assert text.startswith("SASL user alice ran into a limit on mail.test.\n")
    lines = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    assert {name: value.strip() for name, value in lines.items() if name not in ("Time", "Free again")} == {
        "Limit": "10 in 1m",
        "Client address": "192.0.2.1",
        "Sender": "alice@example.org",
        "Recipient": "bob@example.net",
        "Queue id": "4Xyz",
        "Stage": "RCPT",
    }
    assert lines["Free again"].strip().startswith("in 42 s, at 2023-11-1")
    assert "    10 of 10 in 1m, free again in 42 s\n    57 of 150 in 1d\n" in text
    assert "Further hits within 1m are not reported." in text
    assert "notify_max_per_hour" not in text
    assert subject(ALERT) == "alice ran into the limit 10/1m on mail.test"


def test_a_mail_that_can_never_pass() -> None:
    usages = (Usage("user:alice", MINUTE, 0, None), Usage("user:alice", DAY, 57, 0))
    alert = alert_of(cost=11, usages=usages, impossible=True)
    text = as_text(alert)
    assert "Free again:     never: such a mail is larger than a limit\n" in text
    assert "0 of 10 in 1m, which it can never fit into" in text
    assert json.loads(as_json(alert))["data"]["free_in"] is None


def test_nobody_could_tell_the_usage() -> None:
    text = as_text(alert_of(usages=()))
    assert "Free again" not in text
    assert "window" not in text


def test_a_mail_that_is_larger_than_one_may_be() -> None:
    """Its limit has no window."""
    per_mail = Limit(50, PER_MAIL)
    usages = (Usage("user:alice", per_mail, 50, None), Usage("user:alice", MINUTE, 5, 0))
    alert = alert_of(usages=usages, exceeded=per_mail, impossible=True)
    text = as_text(alert)
    assert "Limit:          50 in one mail\n" in text
    assert "50 of 50 in one mail, which it can never fit into" in text
    assert "Further hits within 1h are not reported." in text
    assert subject(alert) == "alice ran into the limit 50/mail on mail.test"
    assert json.loads(as_json(alert))["data"]["limit"] == {"maximum": 50, "seconds": 0}


def test_free_already() -> None:
    assert "Free again:     now\n" in as_text(alert_of(usages=(Usage("user:alice", MINUTE, 1, 0),)))


def test_what_was_not_sent_is_said() -> None:
    some = (("user:bob", MINUTE), ("client:192.0.2.7", DAY))
    text = as_text(ALERT._replace(unsent=Unsent(2, some)))
    said, *names = text.splitlines()[-3:]
    assert said.startswith("2 more alerts were due before this one, and not sent since notify_max_per_hour was")
    assert names == ["    bob 10/1m", "    192.0.2.7 150/1d"]
    text = as_text(ALERT._replace(unsent=Unsent(99, some)))
    assert "99 more alerts were due" in text
    assert "the first 2 of them:" in text


def test_programs_get_the_same() -> None:
    line = as_json(ALERT._replace(unsent=Unsent(2, (("user:bob", DAY),))))
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "type": "limit.hit",
        "id": "n1",
        "timestamp": "2023-11-14T22:13:20+00:00",
        "data": {
            "host": "mail.test",
            "key": "user:alice",
            "rule": "default",
            "kind": "user",
            "id": "alice",
            "shadow": False,
            "limit": {"maximum": 10, "seconds": 60},
            "blocked_for": 0,
            "cost": 1,
            "free_in": 42,
            "usage": [
                {"maximum": 10, "seconds": 60, "used": 10, "free_in": 42},
                {"maximum": 150, "seconds": 86400, "used": 57, "free_in": 0},
            ],
            "protocol_state": "RCPT",
            "instance": "1f3a.65",
            "queue_id": "4Xyz",
            "sasl_username": "Alice",
            "sender": "alice@example.org",
            "recipient": "bob@example.net",
            "client_address": "192.0.2.1",
            "unsent": {"total": 2, "first": [{"key": "user:bob", "limit": {"maximum": 150, "seconds": 86400}}]},
        },
    }


@pytest.mark.parametrize(
    ("changed", "told", "head"),
    [
        ({"verdict": MARKED}, "SASL user alice ran into a limit on mail.test.", "alice ran into the limit 10/1m"),
        (
            {"verdict": WOULD_REFUSE},
            "SASL user alice would be refused by a limit on mail.test, if its rule were not in shadow.",
            "alice would be refused by the limit 10/1m",
        ),
        (
            {"verdict": WARNED, "usages": EIGHT},
            "SASL user alice has used 8 of 10 in 1m on mail.test.",
            "alice has used 8 of 10/1m",
        ),
        (
            {"verdict": WARNED, "usages": EIGHT, "shadow": True},
            "SASL user alice has used 8 of 10 in 1m on mail.test, of a rule in shadow.",
            "alice has used 8 of 10/1m",
        ),
        (
            {"verdict": BLOCKS, "blocked_for": 3600, "usages": ()},
            "SASL user alice ran into a limit, and is blocked for 1h, on mail.test.",
            "alice is blocked for 1h by the limit 10/1m",
        ),
        (
            {"verdict": WOULD_BLOCK, "blocked_for": 3600, "usages": ()},
            "SASL user alice would be blocked for 1h, by a limit on mail.test, if its rule were not in shadow.",
            "alice would be blocked for 1h by the limit 10/1m",
        ),
    ],
)
def test_people_learn_what_came_of_it(changed: dict[str, Any], told: str, head: str) -> None:
    alert = alert_of(**changed)
    assert as_text(alert).splitlines()[0] == told
    shadow = " (in shadow)" if changed.get("shadow") else ""
    assert subject(alert) == f"{head} on mail.test{shadow}"
    assert "larger than a limit" not in as_text(alert)
    content = json.loads(as_json(alert))
    types = {WARNED: "limit.warning", BLOCKS: "limit.block"}
    assert content["type"] == types.get(changed["verdict"], "limit.hit")
    assert content["data"]["blocked_for"] == changed.get("blocked_for", 0)


@pytest.mark.parametrize(
    ("counter", "changed", "expected", "secret"),
    [
        ("person|user:alice", {}, ["10 in 1m", "was not sent", "in about 42s", "192.0.2.1"], []),
        ("domain|sasl_domain:other.example", {}, ["10 in 1m", "was not sent"], ["42s", "other.example", "57"]),
        ("person|user:alice", {"verdict": WARNED, "usages": EIGHT}, ["You have used 8", "10 in 1m"], []),
        ("machine|server:", {"verdict": WARNED, "usages": EIGHT}, ["Much has been used", "10 in 1m"], ["8 of"]),
        ("person|user:alice", {"verdict": BLOCKS, "blocked_for": 3600}, ["Mail is refused until 20"], []),
    ],
)
def test_users_learn_what_is_theirs_and_nothing_else(
    counter: str, changed: dict[str, Any], expected: list[str], secret: list[str]
) -> None:
    alert = alert_of(counter=counter, **changed)
    text = as_text_for_user(alert)
    assert [one for one in expected if one not in text] == []
    assert [one for one in (*secret, "mail.test", "bob@example.net", "4Xyz") if one in text] == []
    assert all(line.isprintable() and len(line) <= 78 for line in text.splitlines())
    assert "alice" not in subject_for_user(alert)


def test_the_page_shows_what_programs_get() -> None:
    """Every member, and none that there is not."""
    page = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    shown = json.loads(page.partition("```json\n")[2].partition("```")[0])
    sent = json.loads(as_json(ALERT._replace(unsent=Unsent(1, (("user:bob", DAY),)))))

    def shape(value: object) -> object:
        if isinstance(value, dict):
            return {name: shape(member) for name, member in value.items()}
        return [shape(member) for member in value] if isinstance(value, list) else type(value)

    assert shape(shown) == shape(sent)
    table = page.partition("| member of `data`")[2]
    for name in sent["data"]:
        assert f"`{name}`" in table or name in [field.name for field in fields(Request)]


@given(st.text(max_size=3000), st.binary(max_size=50))
def test_whatever_a_client_sends(name: str, junk: bytes) -> None:
    """It forges no line, no header and no member; what is sent is bounded, and can be read."""
    value = junk.decode("utf-8", "surrogateescape") + name
    request = replace(ALICE, sender=value, recipient=value, client_address=value, queue_id=value, protocol_state=value)
    alert = alert_of(counter=f"user:{value}", request=request)._replace(unsent=Unsent(1, ((f"user:{value}", DAY),)))
    text = as_text(alert)
    assert all(line.isprintable() for line in text.splitlines())
    # Two more: which alert was not sent, and that one was not. Empty values are left out.
    assert len(text.splitlines()) == len(as_text(ALERT).splitlines()) + 3 - (0 if value else 5)
    content = json.loads(as_json(alert))
    assert content["data"].keys() == json.loads(as_json(ALERT))["data"].keys()
    assert len(as_json(alert)) < 100_000
    mail = compose("a@example.org", "b@example.org", subject(alert), alert.time, text, number="n1")
    read = message_from_bytes(mail.as_bytes(), policy=email.policy.default)
    assert read.keys() == compose("a@x", "b@x", "s", 0, text, number="n1").keys()
    assert read["Message-ID"] == "<n1@example.org>"
    assert "".join(read["Subject"].split()) == "".join(subject(alert).split())
    assert mail.as_bytes().isascii()


class TimedHits:
    """First hits, and the clock that they see."""

    def __init__(self, per_hour: int = 1_000_000) -> None:
        self.now = 1_700_000_000.0
        self.hits = FirstHits(lambda: self.now, per_hour)

    def hit(self, name: str, limit: Limit = MINUTE) -> Unsent | None:
        """What was left unsent before, when it is to be told; else None."""
        return self.hits.take_unsent() if self.hits.hit(f"user:{name}", limit) else None


def test_the_first_hit_in_a_window_is_told() -> None:
    timed = TimedHits()
    assert timed.hit("alice") == NONE
    assert timed.hit("alice") is None
    assert timed.hit("bob") == NONE
    assert timed.hit("alice", DAY) == NONE
    timed.now += 59.9
    assert timed.hit("alice") is None
    timed.now += 0.1
    assert timed.hit("alice") == NONE
    assert timed.hit("alice") is None
    assert timed.hit("alice", DAY) is None


def test_what_has_come_of_a_hit_is_told_apart() -> None:
    timed = TimedHits()
    assert timed.hits.hit("user:alice", MINUTE, WARNED)
    assert not timed.hits.hit("user:alice", MINUTE, WARNED)
    assert timed.hit("alice") == NONE
    timed.hits.is_told("user:bob", MINUTE)
    assert timed.hit("bob") is None


def test_whom_the_administrator_has_blocked_is_no_news() -> None:
    timed = TimedHits()
    assert timed.hit("alice", Limit(0, 60)) is None
    assert timed.hit("alice", Limit(1, 60)) == NONE


def test_a_limit_per_mail_is_told_once_an_hour() -> None:
    """It has no window, and mail after mail runs into it."""
    timed = TimedHits()
    assert timed.hit("alice", Limit(50, PER_MAIL)) == NONE
    timed.now += 3599.0
    assert timed.hit("alice", Limit(50, PER_MAIL)) is None
    timed.now += 1.0
    assert timed.hit("alice", Limit(50, PER_MAIL)) == NONE


def test_whose_alert_is_longest_ago_is_forgotten_first() -> None:
    """Not whoever was the first that was told of, and has been again."""
    timed = TimedHits()
    assert timed.hit("again") == NONE
    for number in range(MOST_TOLD - 1):
        assert timed.hit(f"{number}", DAY) == NONE
    timed.now += MINUTE.seconds
    assert timed.hit("again") == NONE
    assert timed.hit("one more") == NONE
    assert timed.hit("again") is None
    assert timed.hit("1", DAY) is None
    assert timed.hit("0", DAY) == NONE


def test_a_clock_that_is_set_right_silences_nobody() -> None:
    timed = TimedHits()
    assert timed.hit("alice", DAY) == NONE
    timed.now -= 10 * 86_400
    assert timed.hit("alice", DAY) == NONE
    assert timed.hit("alice", DAY) is None


def test_not_too_many_an_hour() -> None:
    timed = TimedHits(per_hour=3)
    told = []
    for number in range(10):
        timed.now += 60
        told.append(timed.hit(f"u{number}"))
    assert told == [NONE] * 3 + [None] * 7
    timed.now += 3600 - 9 * 60 - 0.5
    assert timed.hit("v") is None
    assert timed.hit("v") is None  # counted once
    timed.now += 0.5
    names = [*(f"u{number}" for number in range(3, 10)), "v"]
    assert timed.hit("w") == Unsent(8, tuple((f"user:{name}", MINUTE) for name in names))
    assert timed.hit("x") is None
    timed.now += 60
    assert timed.hit("y") == Unsent(1, (("user:x", MINUTE),))
    timed.now += 3600
    assert timed.hit("z") == NONE


def test_never_more_in_any_hour() -> None:
    timed = TimedHits(per_hour=5)
    times = []
    for number in range(500):
        timed.now += 37
        if timed.hit(str(number)) is not None:
            times.append(timed.now)
    assert all(times[at + 5] - times[at] >= 3600 for at in range(len(times) - 5))
    assert len(times) == pytest.approx(5 * 500 * 37 / 3600, abs=5)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_hits, "MOST_TOLD", 10)
    timed = TimedHits(per_hour=5)
    for number in range(100 + MOST_NAMED):
        timed.hit(str(number), DAY)
    assert len(timed.hits._told) == 10
    timed.now += 3600
    unsent = timed.hit("again")
    assert unsent is not None
    assert unsent.total == 95 + MOST_NAMED
    assert len(unsent.first) == MOST_NAMED
    assert unsent.first[0] == ("user:5", DAY)
