"""What rules in shadow would have refused, by the hit history; and whom the audit trail is asked about."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policyd_rate_limit.admin import facts
from policyd_rate_limit.admin.audit import audit
from policyd_rate_limit.admin.desk import Desk
from policyd_rate_limit.admin.shadow import shadow
from policyd_rate_limit.cli import shadow as command
from policyd_rate_limit.cli.layout import Cell
from policyd_rate_limit.domain.counter import DEFAULT
from policyd_rate_limit.domain.counting import stages
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.policy import Rule
from policyd_rate_limit.storage.administration import AuditEntry, HitDetails, HourOfHits
from support.policies import subjects

HOUR = 3_600
NOW = 1_700_000_000
THIS_HOUR = NOW // HOUR * HOUR
TEN, DAY = Limit(10, HOUR), Limit(50, 86_400)
ENTRY = AuditEntry(3, NOW, "carol", "here", "block", "user:alice", "", "")


class Past:
    """A store, as far as these ask it."""

    def __init__(self, *rows: HourOfHits) -> None:
        self.rows = rows
        self.asked: list[Any] = []

    def now(self) -> int:
        return NOW

    def hit_history(self, since: int, *, kinds: tuple[str, ...]) -> list[HourOfHits]:
        return [row for row in self.rows if row.hour >= since and row.kind in kinds]

    def audit(self, since: int, **how: Any) -> list[AuditEntry]:
        self.asked.append((since, how))
        return [ENTRY]


def row(key: str, hits: int, limit: Limit = TEN, *, kind: str = "would-refuse", ago: int = 0) -> HourOfHits:
    """``hits`` of the hour so many hours ``ago``."""
    hour = THIS_HOUR - ago * HOUR
    return HourOfHits(hour, key, limit, kind, hits, hour + 5, hour + 9, HitDetails("", "", "", "", ""))


def desk(past: Past, **shadows: bool) -> Desk:
    everybody = subjects((Limit(5, 60),))
    rules = [Rule(DEFAULT, everybody, stages(None))]
    rules += [Rule(name, everybody, stages(None), shadow=shy) for name, shy in shadows.items()]
    return Desk(past, everybody, rules, longest=60, table=None, max_ids=100)  # type: ignore[arg-type]  # see Past


@pytest.fixture
def past() -> Past:
    return Past(
        row("shy|user:alice", 3),
        row("shy|user:alice", 4, ago=2),
        row("shy|user:alice", 1, DAY),
        row("shy|user:bob", 7, ago=24),
        row("shy/messages|user:carol", 9),
        row("shy|user:dave", 99, ago=25),
        row("shy|user:alice", 2, kind="would-block"),
        row("shy|user:alice", 99, kind="refused"),
        row("shy|others:", 50, Limit(0, 0)),
        row("force|user:alice", 2, ago=1),
        row("gone/bytes|client:192.0.2.1", 1),
        row("user:alice", 99, kind="refused"),
    )


def test_it_is_by_rule_and_id(past: Past) -> None:
    found = shadow(desk(past, quiet=True, shy=True, force=False), 86_400)
    assert (found.since, found.now) == (THIS_HOUR - 24 * HOUR, NOW)
    assert [(rule.name, rule.state, rule.refused, rule.blocked, rule.others) for rule in found.rules] == [
        ("quiet", "in shadow", 0, 0, 0),
        ("shy", "in shadow", 74, 2, 50),
        ("force", "in force", 2, 0, 0),
        ("gone", "gone", 1, 0, 0),
    ]
    assert [(one.key, one.limit, one.refused, one.blocked, one.first, one.last) for one in found.rules[1].ids] == [
        ("shy/messages|user:carol", TEN, 9, 0, THIS_HOUR + 5, THIS_HOUR + 9),
        ("shy|user:alice", TEN, 7, 2, THIS_HOUR - 2 * HOUR + 5, THIS_HOUR + 9),
        ("shy|user:bob", TEN, 7, 0, THIS_HOUR - 24 * HOUR + 5, THIS_HOUR - 24 * HOUR + 9),
        ("shy|user:alice", DAY, 1, 0, THIS_HOUR + 5, THIS_HOUR + 9),
    ]
    told = json.loads(json.dumps(facts.of_shadow(found, 2)))["rules"]["shy"]
    assert [one["id"] for one in told["ids"]] == ["carol", "alice"]
    assert told["other_ids"] == {"ids": 2, "refused": 58}
    assert told["refused"] == sum(one["refused"] for one in told["ids"]) + told["other_ids"]["refused"]


def test_it_is_told_in_words(past: Past) -> None:
    found = shadow(desk(past, shy=True), 86_400)
    cells = [part.text.partition(" since ")[0] for part in command._page(found, 1) if isinstance(part, Cell)]
    assert cells == [
        "shy: in shadow; it would have refused 74 requests, and blocked ids 2 times",
        "of others: 65 requests",
        "",
        "force: there is no such rule any more; it would have refused 2 requests",
        "",
        "gone: there is no such rule any more; it would have refused 1 request",
    ]
    (nothing,) = command._page(shadow(desk(Past()), HOUR), 1)
    assert isinstance(nothing, Cell)
    assert nothing.text.startswith("no rule is in shadow, nor was one since ")


def test_the_trail_is_asked_about_all_that_a_name_stands_for() -> None:
    past = Past()
    at = desk(past, shy=True)
    assert audit(at, "Alice", seconds=60, most=5).entries == [ENTRY]
    audit(at, most=5, before=7)
    audit(at, "shy|user:no such rule", most=1)
    assert past.asked == [
        (NOW - 60, {"most": 5, "before": None, "subjects": ("Alice", "user:alice", "shy|user:alice")}),
        (0, {"most": 5, "before": 7, "subjects": None}),
        (0, {"most": 1, "before": None, "subjects": ("shy|user:no such rule", *at.keys("shy|user:no such rule"))}),
    ]
