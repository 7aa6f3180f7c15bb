"""Who sends most, followed from one look to the next."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NamedTuple

from policyd_rate_limit.admin.desk import credible
from policyd_rate_limit.admin.standing import share
from policyd_rate_limit.domain.charge import Demand
from policyd_rate_limit.domain.ledger import one_more
from policyd_rate_limit.domain.limits import LARGEST, Limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from policyd_rate_limit.admin.desk import Desk, InForce
    from policyd_rate_limit.domain.charge import Usage
    from policyd_rate_limit.domain.limits import Limits
    from policyd_rate_limit.storage.administration import Override

MOST_LOOKUPS = 1_000
"""The most ids whose limits :class:`Senders` looks up in the table of ``sql_limits_by_id``: those who send most."""

LOOKS_PER_LOOKUP = 30
"""How often :class:`Senders` looks before it has those limits looked up again."""


class Sender(NamedTuple):
    """One of those who send. ``mails``: what was counted in the window that was asked for, whatever the rule counts."""

    key: str
    mails: int
    in_force: InForce
    usages: tuple[Usage, ...]

    @property
    def tightest(self) -> Usage | None:
        """The limit of which most is used up; None: there is none."""
        return max(self.usages, key=lambda usage: share(usage.used, usage.limit), default=None)


class Senders:
    """All who send. ``window`` (seconds) is the one whose mails are counted."""

    def __init__(self, desk: Desk, window: int) -> None:
        self._desk = desk
        self.window = window
        self._watched = Limit(LARGEST, window)
        self._longest = 0
        self._overrides: Mapping[str, Override] = {}
        self._from_table: dict[str, Limits | None] = {}
        self._looks = 0

    def look(self) -> int:
        """Read what is new; the time (Unix second, of the store) as of which :meth:`heaviest` then tells."""
        store = self._desk.store
        now = store.now()
        self._overrides = self._desk.overrides()
        longest = max(self.window, self._desk.longest(self._overrides))
        if longest > self._longest:
            self._begin(now, longest)
        self._ledger.advance(now)
        for page in self._pages:
            if not page:
                break
            for entry in credible(page, now):
                self._ledger.apply(entry)
        self._ledger.sweep(self._longest)
        if self._looks % LOOKS_PER_LOOKUP == 0:
            self._from_table.clear()
        self._looks += 1
        return now

    def heaviest(self, most: int, *, by_share: bool, among: Callable[[str], bool] | None = None) -> list[Sender]:
        """The ``most`` that have used up the greatest share of a limit, else those with the most mails; those first.

        Only of counters of which ``among`` holds; None: of all.
        """
        if self._desk.table is not None:
            for _, _, key in heapq.nsmallest(MOST_LOOKUPS, self._ranks(by_share=False, among=among)):
                if key not in self._from_table:
                    self._from_table[key] = self._desk.from_table(key)
        return [self._sender(key) for _, _, key in heapq.nsmallest(most, self._ranks(by_share=by_share, among=among))]

    def _begin(self, now: int, longest: int) -> None:
        """Read all of the ``longest`` window, in seconds."""
        self._longest = longest
        self._ledger = self._desk.ledger(now)
        self._pages = iter(self._desk.store.follow(max(0, now - longest)))

    def _ranks(self, *, by_share: bool, among: Callable[[str], bool] | None) -> Iterator[tuple[float, float, str]]:
        """All who send, such that the heaviest are the smallest."""
        for key in self._ledger.counters():
            if among is not None and not among(key):
                continue
            mails, used_up = self._weight(key)
            if mails or used_up:
                yield (-used_up, -mails, key) if by_share else (-mails, -used_up, key)

    def _weight(self, key: str) -> tuple[int, float]:
        """The mails of ``key``, and the greatest share of a limit."""
        override = self._overrides.get(key)
        limits = self._desk.in_force(key, override, self._from_table.get(key)).limits
        mails, *used = self._ledger.usage(key, (self._watched, *limits))
        shares = (share(of_limit, limit) for limit, of_limit in zip(limits, used, strict=True))
        return mails, max(shares, default=0.0)

    def _sender(self, key: str) -> Sender:
        in_force = self._desk.in_force(key, self._overrides.get(key), self._from_table.get(key))
        watched, *usages = self._ledger.explain(Demand((one_more(key, (self._watched, *in_force.limits)),)))
        return Sender(key, watched.used, in_force, tuple(usages))
