"""From refusals to alerts on their channels: nobody waits, nothing is without bound, and what fails is told once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from policyd_rate_limit.config import Settings
from policyd_rate_limit.config.changes import Changes
from policyd_rate_limit.domain.limits import Limit
from policyd_rate_limit.errors import DeliveryFailed
from policyd_rate_limit.notify import outbox as outbox_module
from policyd_rate_limit.notify.alert import Alert
from policyd_rate_limit.notify.notifier import Notifier
from policyd_rate_limit.notify.outbox import MOST_QUEUED, Outbox
from support.alerts import MINUTE, Channel, an_alert
from support.wait import wait_until

AWAY = DeliveryFailed("mail.test: away")
DECISION = an_alert().decision
DAY = Limit(150, 86_400)


@pytest.fixture
def channel() -> Iterator[Channel]:
    """A channel out whose gate is open when the test ends."""
    channel = Channel()
    yield channel
    channel.gate.set()


def ended(outbox: Outbox) -> None:
    outbox.stop()
    outbox.join(20)
    assert not outbox.is_alive()


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_alerts_go_in_order(channel: Channel) -> None:
    outbox = Outbox(channel)
    for number in range(3):
        outbox.put(an_alert(number))
    outbox.start()
    outbox.put(an_alert(3))
    ended(outbox)
    assert channel.delivered == ["0", "1", "2", "3"]


def test_what_fails_is_retried_and_told_once(channel: Channel, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outbox = Outbox(channel, pauses=(0.0, 0.0))
    channel.fails = [AWAY, AWAY, AWAY, AWAY, None, None, AWAY]
    outbox.start()
    for number in range(4):
        outbox.put(an_alert(number))
    channel.until(lambda: len(channel.delivered) == 3)
    ended(outbox)
    assert channel.tried == ["0"] * 3 + ["1"] * 2 + ["2"] + ["3"] * 2
    assert channel.delivered == ["1", "2", "3"]
    assert messages(caplog) == [
        "channel: mail.test: away; retrying",
        "channel: alerts are sent again; 1 were lost",
        "channel: mail.test: away; retrying",
        "channel: alerts are sent again; 0 were lost",
    ]


def test_pauses_grow(channel: Channel) -> None:
    """And are waited for: the second try is no busy loop."""
    pauses = (0.05, 0.1)
    tries: list[float] = []
    outbox = Outbox(channel, pauses)
    channel.on_try = lambda: tries.append(time.monotonic())
    channel.fails = [AWAY, AWAY]
    outbox.start()
    outbox.put(an_alert())
    channel.until(lambda: channel.delivered)
    ended(outbox)
    first, second, third = tries
    assert second - first >= pauses[0]
    assert third - second >= pauses[1]
    assert list(outbox_module.PAUSES) == sorted(outbox_module.PAUSES)


def test_the_queue_is_bounded(channel: Channel, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outbox = Outbox(channel)
    channel.gate.clear()
    outbox.start()
    outbox.put(an_alert("first"))
    channel.until(lambda: channel.tried)
    began = time.monotonic()
    for number in range(MOST_QUEUED + 50):
        outbox.put(an_alert(number))
    assert time.monotonic() - began < 5  # nobody waits for the gate
    channel.gate.set()
    channel.until(lambda: len(channel.delivered) == 1 + MOST_QUEUED)
    ended(outbox)
    assert channel.delivered == ["first", *map(str, range(MOST_QUEUED))]
    assert messages(caplog) == [
        f"channel: more than {MOST_QUEUED} alerts wait; new ones are dropped",
        "channel: alerts are sent again; 50 were lost",
    ]


def test_an_error_of_ours_is_no_end(channel: Channel, caplog: pytest.LogCaptureFixture) -> None:
    outbox = Outbox(channel)
    channel.fails = [ZeroDivisionError()]
    outbox.start()
    for number in range(2):
        outbox.put(an_alert(number))
    channel.until(lambda: channel.delivered == ["1"])
    ended(outbox)
    assert channel.tried == ["0", "1"]
    assert caplog.records[0].exc_info is not None


def test_at_the_end_all_that_waits_is_tried_once_more(channel: Channel) -> None:
    outbox = Outbox(channel, pauses=(3600.0,))
    channel.fails = [AWAY, AWAY]
    outbox.start()
    for number in range(3):
        outbox.put(an_alert(number))
    channel.until(lambda: channel.tried == ["0"])
    ended(outbox)
    assert channel.tried == ["0", "1", "2"]
    assert channel.delivered == ["2"]
    assert not channel.abandoned


def test_what_hangs_is_abandoned(channel: Channel, caplog: pytest.LogCaptureFixture) -> None:
    outbox = Outbox(channel)
    channel.gate.clear()
    outbox.start()
    outbox.put(an_alert())
    channel.until(lambda: channel.tried)
    outbox.stop()
    outbox.join(0.05)
    assert channel.abandoned == 1
    assert messages(caplog) == ["channel: the daemon ends before its last alerts are sent"]
    channel.gate.set()


# Notifier


class TimedNotifier:
    """A notifier, its clock, and how many refusals it wanted to be told of."""

    def __init__(self, *channels: Channel, per_hour: int = 1_000) -> None:
        self.now = 1_700_000_000.0
        self.wanted = 0
        self.notifier = Notifier("mail.test", lambda: self.now)
        if channels:
            self.notifier.configure(channels, per_hour)

    def refuse(self, name: str = "alice", limit: Limit = MINUTE) -> None:
        if self.notifier.refused(f"user:{name}", limit):
            self.wanted += 1
            self.notifier.explained(DECISION._replace(counter=f"user:{name}", exceeded=limit))


class Keeper(Channel):
    """Keeps the alerts themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.alerts: list[Alert] = []

    def deliver(self, alert: Alert) -> None:
        self.alerts.append(alert)
        super().deliver(alert)


def test_an_alert_says_what_was_refused() -> None:
    channels = Keeper(), Keeper()
    timed = TimedNotifier(*channels)
    timed.refuse()
    timed.refuse()
    timed.refuse(limit=DAY)
    timed.notifier.stop()
    for channel in channels:
        first, second = channel.alerts
        assert first == an_alert(first.number)
        assert second.limit == DAY
    assert channels[0].alerts == channels[1].alerts
    assert len({alert.number for alert in channels[0].alerts}) == 2
    assert timed.wanted == 2  # nothing is asked of the store for what is not told


def test_without_ways_it_costs_nothing() -> None:
    timed = TimedNotifier()
    timed.refuse()
    assert not timed.wanted
    timed.notifier.configure((), 20)
    timed.refuse()
    assert not timed.wanted
    timed.notifier.stop()


def test_a_million_refusals_are_a_few_alerts(channel: Channel) -> None:
    """Under attack: bounded work, bounded mail, and the next one says how many there would have been."""
    keeper = Keeper()
    timed = TimedNotifier(keeper, per_hour=20)
    for number in range(30_000):
        timed.refuse(f"u{number % 10_000}")
    assert timed.wanted == 20
    timed.now += 3600
    timed.refuse()
    timed.notifier.stop()
    assert len(keeper.alerts) == 21
    assert keeper.alerts[-1].unsent.total == 9_980


def test_new_channels_while_the_old_ones_are_busy(channel: Channel) -> None:
    new = Keeper()
    timed = TimedNotifier(channel)
    channel.gate.clear()
    timed.refuse()
    timed.refuse("bob")
    channel.until(lambda: channel.tried)
    timed.notifier.configure([new], 3)
    timed.refuse("carol")
    new.until(lambda: new.delivered)
    timed.refuse("dave")  # the fourth of this hour
    timed.refuse()  # told already
    channel.gate.set()
    timed.notifier.stop()
    assert len(channel.delivered) == 2
    assert [alert.decision.counter for alert in new.alerts] == ["user:carol"]


def change(name: str) -> Changes:
    settings = Settings(notify_command=("/bin/true",), notify_max_per_hour=3)
    return Changes(settings, frozenset({name}), ())


def sending() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "alerts: notify_command"]


def test_a_reload_uses_new_channels_once_all_else_is_ready(channel: Channel) -> None:
    timed = TimedNotifier(channel)
    with ExitStack() as undo:
        put_into_force = timed.notifier.prepare(change("notify_command"), undo)
        undo.pop_all()
    timed.refuse()
    put_into_force()
    timed.refuse("bob")
    assert sending()
    timed.notifier.stop()
    assert len(channel.delivered) == 1
    assert not sending()


@pytest.mark.parametrize("name", ["notify_command", "delay_to_close"])
def test_a_reload_that_comes_to_nothing_leaves_the_channels(channel: Channel, name: str) -> None:
    timed = TimedNotifier(channel)
    with ExitStack() as undo:
        put_into_force = timed.notifier.prepare(change(name), undo)
        assert bool(sending()) == (name == "notify_command")
    if name != "notify_command":  # no setting for alerts is another
        put_into_force()
    wait_until(lambda: not sending(), "the new channel's thread ends")
    timed.refuse()
    timed.notifier.stop()
    assert len(channel.delivered) == 1


def test_the_end_does_not_wait_for_whoever_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "STOP_SECONDS", 0.2)
    channels = [Channel() for _ in range(3)]
    timed = TimedNotifier(*channels)
    for channel in channels[:2]:
        channel.gate.clear()
    timed.refuse()
    for channel in channels:
        channel.until_tried()
    began = time.monotonic()
    timed.notifier.stop()
    assert time.monotonic() - began < 10
    assert [channel.abandoned for channel in channels] == [1, 1, 0]
    for channel in channels:
        channel.gate.set()


def test_refusals_never_wait(channel: Channel) -> None:
    """A channel that hangs, and a queue that is full: 10,000 refusals go by without one step of it."""
    timed = TimedNotifier(channel, per_hour=100_000)
    channel.gate.clear()
    for number in range(10_000):
        timed.refuse(f"u{number}")
    assert timed.wanted == 10_000
    assert len(channel.tried) <= 1
    assert not channel.delivered
    channel.gate.set()
    timed.notifier.stop()
    assert len(channel.delivered) <= MOST_QUEUED + 1
