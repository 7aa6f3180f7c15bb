"""What an id has sent, as far back as the store keeps it."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.admin.buckets import Bucket, buckets
from policyd_rate_limit.admin.desk import credible

if TYPE_CHECKING:
    from datetime import tzinfo

    from policyd_rate_limit.admin.buckets import Step
    from policyd_rate_limit.admin.desk import Desk


class Event(NamedTuple):
    """``amount`` was counted on ``key`` at ``date`` (Unix second), for the mail of ``instance`` where that is known.

    A negative amount was given back, of what was counted at ``date``.
    """

    date: int
    key: str
    amount: int
    instance: str


class History(NamedTuple):
    """What was counted for ``keys``: by minutes, hours or days, and the ``last`` of it, both oldest first."""

    keys: tuple[str, ...]
    buckets: list[Bucket]
    last: list[Event]


def history(
    desk: Desk,
    name: str,
    step: Step,
    *,
    last: int,
    most: int | None = None,
    zone: tzinfo | None = None,
    rule: str | None = None,
) -> History:
    """What was counted for ``name``, and the ``last`` events of it.

    ``most``: how many buckets, the latest ones; None: all. Their hours and days are those of ``zone``, None: those of
    this machine. ``rule``: in that rule alone. Raises NotAnId when ``name`` stands for no key.
    """
    keys = desk.keys(name, rule)
    now = desk.store.now()
    ledger = desk.ledger(now)
    newest: list[tuple[int, int, Event]] = []
    for number, entry in enumerate(credible(desk.store.entries(keys, 0), now)):
        if not entry.amount:
            continue  # what a reset means for daemons; what it gave back stands beside it
        ledger.apply(entry)
        event = Event(entry.date, entry.counter, entry.amount, entry.mail)
        heapq.heappush(newest, (event.date, number, event))
        if len(newest) > last:
            heapq.heappop(newest)
    charges = ((date, amount) for _, date, amount in ledger.charges())
    found = buckets(charges, step, zone)
    return History(keys, found if most is None else found[-most:], [event for *_, event in sorted(newest)])
