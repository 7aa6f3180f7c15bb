"""From refusals to notices on their ways: nobody waits, nothing is without bound, and what fails is told once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import pytest

from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.errors import DeliveryFailed
from policyd_rate_limit.report import notifier as notifier_module
from policyd_rate_limit.report import outbox as outbox_module
from policyd_rate_limit.report.notice import Notice
from policyd_rate_limit.report.notifier import Notifier
from policyd_rate_limit.report.outbox import MOST_QUEUED, Outbox
from support.notices import MINUTE, Way, a_notice

AWAY = DeliveryFailed("mail.test: away")
DECISION = a_notice().decision
DAY = Limit(150, 86_400)


@pytest.fixture
def way() -> Iterator[Way]:
    """A way out whose gate is open when the test ends."""
    way = Way()
    yield way
    way.gate.set()


def ended(outbox: Outbox) -> None:
    outbox.stop()
    outbox.join(20)
    assert not outbox.is_alive()


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_notices_go_in_order(way: Way) -> None:
    outbox = Outbox(way)
    for number in range(3):
        outbox.put(a_notice(number))
    outbox.start()
    outbox.put(a_notice(3))
    ended(outbox)
    assert way.delivered == ["0", "1", "2", "3"]


def test_what_fails_is_tried_again_and_told_once(way: Way, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outbox = Outbox(way, pauses=(0.0, 0.0))
    way.fails = [AWAY, AWAY, AWAY, AWAY, None, None, AWAY]
    outbox.start()
    for number in range(4):
        outbox.put(a_notice(number))
    way.until(lambda: len(way.delivered) == 3)
    ended(outbox)
    assert way.tried == ["0"] * 3 + ["1"] * 2 + ["2"] + ["3"] * 2
    assert way.delivered == ["1", "2", "3"]
    assert messages(caplog) == [
        "way: mail.test: away; trying again",
        "way: notices are sent again; 1 were lost",
        "way: mail.test: away; trying again",
        "way: notices are sent again; 0 were lost",
    ]


def test_pauses_grow(way: Way) -> None:
    """And are waited for: the second try is no busy loop."""
    waited: list[float] = []
    outbox = Outbox(way, pauses=(1.0, 5.0))

    class Stopping(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            waited.append(timeout)
            return self.is_set()

    outbox._stopping = Stopping()
    way.fails = [AWAY, AWAY]
    outbox.start()
    outbox.put(a_notice())
    way.until(lambda: way.delivered)
    ended(outbox)
    assert waited == [1.0, 5.0]
    assert list(outbox_module.PAUSES) == sorted(outbox_module.PAUSES)


def test_the_queue_is_bounded(way: Way, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outbox = Outbox(way)
    way.gate.clear()
    outbox.start()
    outbox.put(a_notice("first"))
    way.until(lambda: way.tried)
    began = time.monotonic()
    for number in range(MOST_QUEUED + 50):
        outbox.put(a_notice(number))
    assert time.monotonic() - began < 5  # nobody waits for the gate
    way.gate.set()
    way.until(lambda: len(way.delivered) == 1 + MOST_QUEUED)
    ended(outbox)
    assert way.delivered == ["first", *map(str, range(MOST_QUEUED))]
    assert messages(caplog) == [
        f"way: more than {MOST_QUEUED} notices wait; new ones are dropped",
        "way: notices are sent again; 50 were lost",
    ]


def test_an_error_of_ours_is_no_end(way: Way, caplog: pytest.LogCaptureFixture) -> None:
    outbox = Outbox(way)
    way.fails = [ZeroDivisionError()]
    outbox.start()
    for number in range(2):
        outbox.put(a_notice(number))
    way.until(lambda: way.delivered == ["1"])
    ended(outbox)
    assert way.tried == ["0", "1"]
    assert caplog.records[0].exc_info is not None


def test_at_the_end_all_that_waits_is_tried_once_more(way: Way) -> None:
    outbox = Outbox(way, pauses=(3600.0,))
    way.fails = [AWAY, AWAY]
    outbox.start()
    for number in range(3):
        outbox.put(a_notice(number))
    way.until(lambda: way.tried == ["0"])
    ended(outbox)
    assert way.tried == ["0", "1", "2"]
    assert way.delivered == ["2"]
    assert not way.abandoned


def test_what_hangs_is_abandoned(way: Way, caplog: pytest.LogCaptureFixture) -> None:
    outbox = Outbox(way)
    way.gate.clear()
    outbox.start()
    outbox.put(a_notice())
    way.until(lambda: way.tried)
    outbox.stop()
    outbox.join(0.05)
    assert way.abandoned == 1
    assert messages(caplog) == ["way: the daemon ends before its last notices are sent"]
    way.gate.set()


# Notifier


class TimedNotifier:
    """A notifier, its clock, and how many refusals it wanted to be told of."""

    def __init__(self, *ways: Way, per_hour: int = 1_000) -> None:
        self.now = 1_700_000_000.0
        self.wanted = 0
        self.notifier = Notifier("mail.test", lambda: self.now)
        if ways:
            self.notifier.configure(ways, per_hour)

    def refuse(self, name: str = "alice", limit: Limit = MINUTE) -> None:
        if self.notifier.wants(f"user:{name}", limit):
            self.wanted += 1
            self.notifier.tell(DECISION._replace(key=f"user:{name}", exceeded=limit))


class Keeper(Way):
    """Keeps the notices themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.notices: list[Notice] = []

    def deliver(self, notice: Notice) -> None:
        self.notices.append(notice)
        super().deliver(notice)


def test_a_notice_says_what_was_refused() -> None:
    ways = Keeper(), Keeper()
    timed = TimedNotifier(*ways)
    timed.refuse()
    timed.refuse()
    timed.refuse(limit=DAY)
    timed.notifier.stop()
    for way in ways:
        first, second = way.notices
        assert first == a_notice(first.number)
        assert second.limit == DAY
    assert ways[0].notices == ways[1].notices
    assert len({notice.number for notice in ways[0].notices}) == 2
    assert timed.wanted == 2  # nothing is asked of the store for what is not told


def test_without_ways_it_costs_nothing() -> None:
    timed = TimedNotifier()
    timed.refuse()
    assert not timed.wanted
    timed.notifier.configure((), 20)
    timed.refuse()
    assert not timed.wanted
    timed.notifier.stop()


def test_a_million_refusals_are_a_few_notices(way: Way) -> None:
    """Under attack: bounded work, bounded mail, and the next one says how many there would have been."""
    keeper = Keeper()
    timed = TimedNotifier(keeper, per_hour=20)
    for number in range(30_000):
        timed.refuse(f"u{number % 10_000}")
    assert timed.wanted == 20
    timed.now += 3600
    timed.refuse()
    timed.notifier.stop()
    assert len(keeper.notices) == 21
    assert keeper.notices[-1].unsent.total == 9_980


def test_new_ways_while_the_old_ones_are_busy(way: Way) -> None:
    new = Keeper()
    timed = TimedNotifier(way)
    way.gate.clear()
    timed.refuse()
    timed.refuse("bob")
    way.until(lambda: way.tried)
    timed.notifier.configure([new], 3)
    timed.refuse("carol")
    new.until(lambda: new.delivered)
    timed.refuse("dave")  # the fourth of this hour
    timed.refuse()  # told already
    way.gate.set()
    timed.notifier.stop()
    assert len(way.delivered) == 2
    assert [notice.decision.key for notice in new.notices] == ["user:carol"]


def test_the_end_does_not_wait_for_whoever_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifier_module, "STOP_SECONDS", 0.2)
    ways = [Way() for _ in range(3)]
    timed = TimedNotifier(*ways)
    for way in ways[:2]:
        way.gate.clear()
    timed.refuse()
    for way in ways:
        way.until_tried()
    began = time.monotonic()
    timed.notifier.stop()
    assert time.monotonic() - began < 10
    assert [way.abandoned for way in ways] == [1, 1, 0]
    for way in ways:
        way.gate.set()


def test_refusals_never_wait(way: Way) -> None:
    """A way that hangs, and a queue that is full: 10,000 refusals go by without one step of it."""
    timed = TimedNotifier(way, per_hour=100_000)
    way.gate.clear()
    for number in range(10_000):
        timed.refuse(f"u{number}")
    assert timed.wanted == 10_000
    assert len(way.tried) <= 1
    assert not way.delivered
    way.gate.set()
    timed.notifier.stop()
    assert len(way.delivered) <= MOST_QUEUED + 1
