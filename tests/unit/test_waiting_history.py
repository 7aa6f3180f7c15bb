"""What waits for the hit history: added up, bounded, and told where it is too much."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyd_rate_limit.domain.decision import BLOCKS, MARKED, REFUSED, WARNED, WOULD_BLOCK, WOULD_REFUSE, Decision
from policyd_rate_limit.domain.limits import BLOCKED, Limit
from policyd_rate_limit.domain.request import DATA, Request
from policyd_rate_limit.observe.hit_history import HitHistory
from policyd_rate_limit.storage.administration import LONGEST_DETAIL, HitDetails, HourOfHits
from policyd_rate_limit.storage.engine import waiting_history
from policyd_rate_limit.storage.engine.waiting_history import WaitingHistory
from policyd_rate_limit.storage.hit_history import hour_of

MINUTE, DAY = Limit(10, 60), Limit(100, 86_400)
NOW = 1_700_000_123
HOUR = hour_of(NOW)


def details(name: str) -> HitDetails:
    return HitDetails(name, "", "", "", "")


class Clock:
    now = float(NOW)

    def __call__(self) -> float:
        return self.now


def test_hits_of_an_hour_are_added_up() -> None:
    clock = Clock()
    waiting = WaitingHistory(clock)
    assert waiting.take(99) == []
    for name in "xyz":
        waiting.hit("user:a", MINUTE, REFUSED, details(name))
        clock.now += 1.5
    waiting.hit("user:a", DAY, REFUSED, details("x"))
    waiting.hit("user:a", MINUTE, MARKED, details("x"))
    clock.now = HOUR + 3_600
    waiting.hit("user:a", MINUTE, REFUSED, details("x"))
    taken = waiting.take(99)
    assert taken == [
        HourOfHits(HOUR, "user:a", MINUTE, REFUSED, 3, NOW, NOW + 3, details("z")),
        HourOfHits(HOUR, "user:a", DAY, REFUSED, 1, NOW + 4, NOW + 4, details("x")),
        HourOfHits(HOUR, "user:a", MINUTE, MARKED, 1, NOW + 4, NOW + 4, details("x")),
        HourOfHits(HOUR + 3_600, "user:a", MINUTE, REFUSED, 1, HOUR + 3_600, HOUR + 3_600, details("x")),
    ]
    # They could not be written: what came meanwhile is later.
    waiting.hit("user:a", MINUTE, REFUSED, details("w"))
    waiting.add(taken)
    assert waiting.take(99)[0].details == details("x" if taken[3].last >= int(clock.now) else "w")


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from((MINUTE, DAY)), st.integers(0, 9_000)), max_size=40))
def test_no_hit_is_lost_or_counted_twice(hits: list[tuple[str, Limit, int]]) -> None:
    """Whatever the bound, and however often they are taken in vain."""
    clock = Clock()
    waiting = WaitingHistory(clock)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waiting_history, "MOST_ROWS", 3)
        for number, (name, limit, seconds) in enumerate(hits):
            clock.now = HOUR + seconds
            waiting.hit(f"{'r|' if name < 'c' else ''}user:{name}", limit, REFUSED, details(str(number)))
            if number % 7 == 0:
                waiting.add(waiting.take(99))
    by_hour: Counter[tuple[int, bool]] = Counter()
    for row in (found := waiting.take(99)):
        by_hour[row.hour, row.key.startswith("r|")] += row.hits
        assert row.hour <= row.first <= row.last < row.hour + 3_600
    assert by_hour == Counter((hour_of(HOUR + seconds), name < "c") for name, _, seconds in hits)
    assert len({row[:4] for row in found}) == len(found)
    for row in found:
        dates = [
            HOUR + seconds
            for name, limit, seconds in hits
            if row.key.endswith(f"user:{name}") and limit == row.limit and hour_of(HOUR + seconds) == row.hour
        ]
        if not row.key.endswith("others:"):
            assert row.hits <= len(dates)
            assert min(dates) <= row.first <= row.last <= max(dates)


def test_they_are_taken_some_at_a_time() -> None:
    waiting = WaitingHistory(Clock())
    for name in "abcde":
        waiting.hit(f"user:{name}", MINUTE, REFUSED, details(name))
    taken = waiting.take(2)
    assert [row.key for row in taken] == ["user:a", "user:b"]
    waiting.add(taken)
    assert [[row.key[-1] for row in waiting.take(3)] for _ in range(3)] == [["c", "d", "e"], ["a", "b"], []]
    assert not waiting.waits


def test_what_has_no_room_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(waiting_history, "MOST_ROWS", 2)
    monkeypatch.setattr(waiting_history, "MOST_ROWS_OF_OTHERS", 1)
    waiting = WaitingHistory(Clock())
    for name in ("user:a", "user:b", "user:c", "user:d", "r|user:a", "r|user:b", "user:a"):
        waiting.hit(name, MINUTE, REFUSED, details(name))
    assert [(row.key, row.hits) for row in waiting.take(99)] == [("user:a", 2), ("user:b", 1), ("others:", 2)]
    assert caplog.messages == [
        "more than 2 rows of the hit history wait: others are added up",
        "the hit history lacks 2 hits, for which there was no room",
    ]
    assert waiting.take(99) == []


def test_what_is_kept_of_a_request() -> None:
    told: list[tuple[str, Limit, str, HitDetails]] = []
    history = HitHistory(lambda *hit: told.append(hit))
    request = Request(DATA, "1.2", "4bX", "secret", "s" * 999, "r@example.org", "192.0.2.1", 3, "text")
    kept = HitDetails("4bX", "192.0.2.1", "s" * LONGEST_DETAIL, "r@example.org", "1.2")
    history.met(request, "r|user:a", MINUTE, WOULD_REFUSE)
    history.met(request, "user:a", BLOCKED, REFUSED)
    for verdict in (BLOCKS, WOULD_BLOCK, WARNED):
        history.noticed(Decision(request, verdict, "user:a", exceeded=DAY))
    assert told == [
        ("r|user:a", MINUTE, WOULD_REFUSE, kept),
        ("user:a", BLOCKED, REFUSED, kept),
        ("user:a", DAY, BLOCKS, kept),
        ("user:a", DAY, WOULD_BLOCK, kept),
    ]
    assert not history.exceeded("user:a", DAY, REFUSED)  # nothing is to be looked up for it
