"""Sends alerts without delaying answers: the event loop queues them, threads send them."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from policyd_rate_limit.domain.decision import BLOCKS, WOULD_BLOCK
from policyd_rate_limit.domain.listener import Listener
from policyd_rate_limit.notify.alert import Alert
from policyd_rate_limit.notify.channel import addresses_of_alerts, make_channels
from policyd_rate_limit.notify.first_hits import FirstHits
from policyd_rate_limit.notify.outbox import Outbox, end_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import ExitStack

    from policyd_rate_limit.config.changes import Changes
    from policyd_rate_limit.domain.decision import Decision
    from policyd_rate_limit.domain.limits import Limit
    from policyd_rate_limit.notify.channel import Channel

_SETTINGS = ("notify_", "smtp_", "report_from")  # how the names of those begin that channels are made of


class Notifier(Listener):
    """Sends alerts on the channels of :meth:`configure`; before that, and without channels, it costs nothing.

    ``host`` is what this machine is called; ``clock`` gives Unix seconds.
    """

    def __init__(self, host: str, clock: Callable[[], float]) -> None:
        self._host = host
        self._clock = clock
        self._first_hits = FirstHits(clock)
        self._outboxes: list[Outbox] = []
        self._ending: list[Outbox] = []
        self._addresses: frozenset[str] = frozenset()
        self._last: Decision | None = None

    def configure(self, channels: Iterable[Channel], per_hour: int, addresses: frozenset[str] = frozenset()) -> None:
        """Send ``per_hour`` alerts in any hour at the most, on ``channels``. What waits goes where it was to.

        ``addresses``: who gets mails by one of the channels.
        """
        outboxes = [Outbox(channel) for channel in channels]
        for outbox in outboxes:
            outbox.start()
        self._use(outboxes, per_hour, addresses)

    def prepare(self, change: Changes, undo: ExitStack) -> Callable[[], None]:
        """Make the channels that new settings ask for; what is returned has alerts go there.

        ``undo`` lets go of them, should nothing come of it. Where no setting for alerts is another, nothing changes.
        """
        if not any(name.startswith(_SETTINGS) for name in change.changed):
            return leave
        outboxes = [Outbox(channel) for channel in make_channels(change.settings)]
        for outbox in outboxes:
            outbox.start()
            undo.callback(outbox.stop)
        return partial(self._use, outboxes, change.settings.notify_max_per_hour, addresses_of_alerts(change.settings))

    def refused(self, counter: str, limit: Limit) -> bool:
        return bool(self._outboxes) and self._first_hits.hit(counter, limit)

    def noticed(self, decision: Decision) -> None:
        if self._outboxes and decision.verdict != WOULD_BLOCK and is_news(self._first_hits, decision):
            self.explained(decision)

    def explained(self, decision: Decision) -> None:
        """Send an alert of ``decision``."""
        self._last = decision
        unsent = self._first_hits.take_unsent()
        alert = Alert(os.urandom(16).hex(), self._clock(), self._host, decision, unsent)
        for outbox in self._outboxes:
            outbox.put(alert)

    def mailed(self, decision: Decision) -> frozenset[str]:
        """To whom a mail goes about ``decision``, in lower case, if it was the last of which an alert was sent."""
        return self._addresses if decision is self._last else frozenset()

    def stop(self) -> None:
        """End within STOP_SECONDS, whatever hangs; to be called where waiting holds up nobody."""
        end_all(self._outboxes, self._ending)

    def _use(self, outboxes: list[Outbox], per_hour: int, addresses: frozenset[str]) -> None:
        self._ending = [outbox for outbox in self._ending if outbox.is_alive()] + self._outboxes
        for outbox in self._outboxes:
            outbox.stop()
        self._first_hits.per_hour = per_hour
        self._outboxes, self._addresses = outboxes, addresses


def is_news(first_hits: FirstHits, decision: Decision) -> bool:
    """Whether what a rule has warned of, or whom it blocks, is to be told: with a block, what it is for is told too."""
    limit = decision.exceeded
    assert limit is not None  # noqa: S101 - there is none without a limit
    if not first_hits.hit(decision.counter, limit, decision.verdict):
        return False
    if decision.verdict in (BLOCKS, WOULD_BLOCK):
        first_hits.is_told(decision.counter, limit)
    return True


def leave() -> None:
    """Nothing changes."""
